"""Who has which cache mount: `RUN --mount=type=cache,sharing=...` over all builds of an engine.

A cache of one id may have several directories: a step that wants one for itself while another has it gets the next.
"""

from __future__ import annotations

import os
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
        self, wish: CacheWish, touch: Callable[[str], None], cancelled: threading.Event
    ) -> Iterator[int]:
        """A descriptor of the directory. Raises `BuildCancelled`, `Conflict` (too many directories)."""
        key = self._take(wish, cancelled)
        try:
            directory = self._open(key, wish, touch)
            try:
                yield directory
            finally:
                os.close(directory)
        finally:
            self._give_back(key)

    def _take(self, wish: CacheWish, cancelled: threading.Event) -> str:
        keys = [_key(wish, number) for number in range(MAX_DIRECTORIES)]
        with self._changed:
            while not cancelled.is_set():
                found = self._choose(keys, wish.sharing)
                if found:
                    if wish.sharing == "shared":
                        self._shared[found] = self._shared.get(found, 0) + 1
                    else:
                        self._exclusive.add(found)
                    return found
                self._changed.wait(_LOOK)
        raise BuildCancelled

    def _choose(self, keys: list[str], sharing: str) -> str:
        """The first directory that may be had; "" when the step has to wait. Raises `Conflict`."""
        for key in keys:
            if key not in self._exclusive and (sharing == "shared" or key not in self._shared):
                return key
            if sharing == "locked":
                return ""
        raise Conflict(f"more than {MAX_DIRECTORIES} steps use one cache mount")

    def _give_back(self, key: str) -> None:
        with self._changed:
            self._exclusive.discard(key)
            if key in self._shared:
                self._shared[key] -= 1
                if not self._shared[key]:
                    del self._shared[key]
            self._changed.notify_all()

    def _open(self, key: str, wish: CacheWish, touch: Callable[[str], None]) -> int:
        def fill(directory: int) -> None:
            if wish.seed >= 0:
                copy_tree(wish.seed, directory)
            else:
                os.fchown(directory, wish.uid, wish.gid)
                os.fchmod(directory, wish.mode)

        return self._mounts.open(wish.id, name_of(key), touch, fill)


def _key(wish: CacheWish, number: int) -> str:
    """The plain id for a plain cache: `builder export-mount` finds it by that."""
    own = [wish.seed_key, f"{wish.mode:o}", str(wish.uid), str(wish.gid), str(number)]
    return wish.id if own == ["", "755", "0", "0", "0"] else "\0".join((wish.id, *own))
