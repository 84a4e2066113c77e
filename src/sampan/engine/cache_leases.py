"""Who has which cache mount: `RUN --mount=type=cache,sharing=...` over all builds of an engine.

A cache of one id may have several directories: a step that wants one for itself while another has it gets the next.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sampan.build.errors import BuildCancelled
from sampan.build.worker import CacheWish
from sampan.engine.cache_mounts import CacheMounts, name_of
from sampan.engine.copy_tree import copy_tree
from sampan.errors import Conflict

MAX_DIRECTORIES = 64
"""Of one cache."""
_LOOK = 0.2
"""Seconds between looks whether a build that waits was cancelled."""


class CacheLeases:
    """Thread-safe."""

    def __init__(self, mounts: CacheMounts) -> None:
        self._mounts = mounts
        self._changed = threading.Condition()
        self._shared: dict[str, int] = {}
        self._exclusive: set[str] = set()

    @contextmanager
    def lease(
        self,
        wish: CacheWish,
        touch: Callable[[str], None],
        cancelled: threading.Event,
        imported: Callable[[str, int], bool] = lambda _name, _directory: False,
    ) -> Iterator[int]:
        """A descriptor of the directory. Raises `BuildCancelled`, `Conflict` (too many directories).

        `imported` fills a new one, if it can: it is told its name and a descriptor.
        """
        name = self._take(wish, cancelled)
        try:
            directory = self._open(name, wish, touch, imported)
            try:
                yield directory
            finally:
                os.close(directory)
        finally:
            self._give_back(name)

    @contextmanager
    def alone(self, name: str, cancelled: threading.Event) -> Iterator[None]:
        """No step has the directory of that name meanwhile. Raises `BuildCancelled`."""
        with self._changed:
            while name in self._exclusive or name in self._shared:
                if cancelled.is_set():
                    raise BuildCancelled
                self._changed.wait(_LOOK)
            self._exclusive.add(name)
        try:
            yield
        finally:
            self._give_back(name)

    def _take(self, wish: CacheWish, cancelled: threading.Event) -> str:
        """The directory's name."""
        with self._changed:
            while not cancelled.is_set():
                found = self._choose(wish)
                if found:
                    if wish.sharing == "shared":
                        self._shared[found] = self._shared.get(found, 0) + 1
                    else:
                        self._exclusive.add(found)
                    return found
                self._changed.wait(_LOOK)
        raise BuildCancelled

    def _choose(self, wish: CacheWish) -> str:
        """The first directory that may be had; "" when the step has to wait. Raises `Conflict`."""
        for number in range(MAX_DIRECTORIES):
            name = name_of(_key(wish, number))
            if name not in self._exclusive and (wish.sharing == "shared" or name not in self._shared):
                return name
            if wish.sharing == "locked":
                return ""
        raise Conflict(f"more than {MAX_DIRECTORIES} steps use one cache mount")

    def _give_back(self, name: str) -> None:
        with self._changed:
            self._exclusive.discard(name)
            if name in self._shared:
                self._shared[name] -= 1
                if not self._shared[name]:
                    del self._shared[name]
            self._changed.notify_all()

    def _open(
        self,
        name: str,
        wish: CacheWish,
        touch: Callable[[str], None],
        imported: Callable[[str, int], bool],
    ) -> int:
        def fill(directory: int) -> None:
            from_elsewhere = imported(name, directory)
            if wish.seed < 0:
                os.fchown(directory, wish.uid, wish.gid)
                os.fchmod(directory, wish.mode)
            elif from_elsewhere:
                own = os.fstat(wish.seed)
                os.fchown(directory, own.st_uid, own.st_gid)
                os.fchmod(directory, stat.S_IMODE(own.st_mode))
            else:
                copy_tree(wish.seed, directory)

        return self._mounts.open(wish.id, name, touch, fill)


def _key(wish: CacheWish, number: int) -> str:
    """The plain id for a plain cache: `builder export-mount` finds it by that."""
    own = [wish.seed_key, f"{wish.mode:o}", str(wish.uid), str(wish.gid), str(number)]
    return wish.id if own == ["", "755", "0", "0", "0"] else "\0".join((wish.id, *own))
