"""Which parts of the build cache the builds under way have asked for, and how often."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sampan.oci.digest import Digest

Touch = Callable[[str], None]
"""Told the cache keys and the names of cache mounts that are used."""


@dataclass(frozen=True, slots=True)
class BuildUse:
    """What keeps from being collected what one build needs."""

    touch: Touch
    hold: Callable[[Iterable[Digest]], None]
    """Told layers, whether they are here or not, before they are looked for."""
    loosen: Callable[[Digest], None]
    """Told a layer that nothing may refer to: it has just been made, or its entry names another one now."""


class CacheUse:
    """Thread-safe. What a build has asked for stays in use until it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._builds = 0
        self._names: Counter[str] = Counter()
        self._uses: Counter[str] = Counter()
        self._loose: set[Digest] = set()

    @contextlib.contextmanager
    def build(self) -> Iterator[Touch]:
        """The function is told what this build uses."""
        own: set[str] = set()

        def touch(name: str) -> None:
            with self._lock:
                self._uses[name] += 1
                if name not in own:
                    own.add(name)
                    self._names[name] += 1

        with self._lock:
            self._builds += 1
        try:
            yield touch
        finally:
            with self._lock:
                self._builds -= 1
                self._names -= Counter(own)

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return name in self._names

    @property
    def busy(self) -> bool:
        """Whether a build is under way."""
        with self._lock:
            return self._builds > 0

    def loosen(self, layer: Digest) -> None:
        """As `BuildUse` says; `take_loose` gives it to the collection."""
        with self._lock:
            self._loose.add(layer)

    def take_loose(self) -> set[Digest]:
        """The layers that `loosen` was told since the last call."""
        with self._lock:
            taken, self._loose = self._loose, set()
        return taken

    def take_counts(self) -> dict[str, int]:
        """How often what was used since the last call."""
        with self._lock:
            taken, self._uses = dict(self._uses), Counter()
        return taken
