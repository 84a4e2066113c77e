"""Which parts of the build cache the builds under way have asked for, and how often."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator


class CacheUse:
    """Thread-safe. What was asked for stays in use until no build is under way: builds stand on each other's steps."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._builds = 0
        self._names: set[str] = set()
        self._uses: Counter[str] = Counter()

    @contextlib.contextmanager
    def build(self) -> Iterator[None]:
        with self._lock:
            self._builds += 1
        try:
            yield
        finally:
            with self._lock:
                self._builds -= 1
                if not self._builds:
                    self._names.clear()

    def touch(self, name: str) -> None:
        """A cache key, or the name of a cache mount, is used now."""
        with self._lock:
            if self._builds:
                self._names.add(name)
            self._uses[name] += 1

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return name in self._names

    @property
    def busy(self) -> bool:
        """Whether a build is under way."""
        with self._lock:
            return self._builds > 0

    def take_counts(self) -> dict[str, int]:
        """How often what was used since the last call."""
        with self._lock:
            taken, self._uses = dict(self._uses), Counter()
        return taken
