"""A volume's or a snapshot's tree for reading, as still as was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sampan.engine.threads import in_own_thread, to_its_end
from sampan.engine.volume_backup import consistency
from sampan.engine.volume_backup.cloning import clone_tree, shares_contents
from sampan.engine.volume_backup.snapshots import SnapshotStore, Source
from sampan.engine.volume_backup.users import How, Still, Users
from sampan.engine.volumes.service import Volumes
from sampan.errors import Conflict
from sampan.storage.removal import remove_tree

_CLONE_TRIES = 3


@dataclass(frozen=True, slots=True)
class Tree:
    """`descriptor`: of its directory. `changed`: paths that changed since, to be called when all is read; it blocks.

    users: "paused", "stopped" or "". source: "snapshot" when it is a snapshot, or a copy made for this.
    """

    descriptor: int
    changed: Callable[[], list[bytes]]
    users: str = ""
    source: str = ""


@contextlib.contextmanager
def opened_directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Trees:
    def __init__(self, root: Path, volumes: Volumes, snapshots: SnapshotStore, users: Users) -> None:
        """`root`: the engine's `volumes` directory."""
        self._root = root
        self._volumes = volumes
        self._snapshots = snapshots
        self._users = users
        self._shares: bool | None = None

    @contextlib.asynccontextmanager
    async def opened(self, source: Source) -> AsyncIterator[int]:
        """As it is, whoever writes into it. Raises `NotFound`."""
        async with contextlib.AsyncExitStack() as stack:
            if source.tag:
                stack.enter_context(self._volumes.holding(source.volume))
                path = await asyncio.to_thread(self._snapshots.tree, source)
            else:
                path = await stack.enter_async_context(self._volumes.opened(source.volume))
            yield stack.enter_context(opened_directory(path))

    @contextlib.asynccontextmanager
    async def still(self, source: Source, how: How) -> AsyncIterator[Tree]:
        """With its users paused or stopped, for as long as it takes: until it is read, or for a moment where the file
        system can copy it at once. Raises `NotFound`, `Conflict`."""
        async with self.opened(source) as descriptor:
            if source.tag:
                if how:
                    raise Conflict("a snapshot has no users to pause or to stop")
                yield Tree(descriptor, list, source="snapshot")
                return
            async with self._users.still(source.volume, how) as still:
                if not await asyncio.to_thread(self._can_share, descriptor):
                    yield await self._live(source, descriptor, still)
                    return
                clone = self._root / f".clone.{secrets.token_hex(8)}"
                try:
                    changed = await to_its_end(in_own_thread(lambda: self._clone(source, descriptor, clone)))
                    await still.release()
                    with opened_directory(clone) as copied:
                        yield Tree(copied, lambda: changed, _held(still), "snapshot")
                finally:
                    await to_its_end(asyncio.to_thread(remove_tree, clone))

    async def _live(self, source: Source, descriptor: int, still: Still) -> Tree:
        moment = await to_its_end(in_own_thread(lambda: self._moment(source, descriptor)))

        def changed() -> list[bytes]:
            return consistency.changed_since(descriptor, moment)

        return Tree(descriptor, changed, _held(still))

    def _moment(self, source: Source, descriptor: int) -> int:
        moving = any(one.state.status == "running" for one in self._users.writers(source.volume))
        return consistency.begin(descriptor, self._root, flush=moving)

    def _can_share(self, descriptor: int) -> bool:
        if os.fstat(descriptor).st_dev != os.stat(self._root).st_dev:
            return False
        if self._shares is None:
            self._shares = shares_contents(self._root)
        return self._shares

    def _clone(self, source: Source, descriptor: int, clone: Path) -> list[bytes]:
        """A copy that shares the contents; when files changed meanwhile, another one."""
        changed: list[bytes] = []
        for _ in range(_CLONE_TRIES):
            remove_tree(clone)
            clone.mkdir(mode=0o700)
            moment = self._moment(source, descriptor)
            with opened_directory(clone) as target:
                clone_tree(descriptor, target)
            changed = consistency.changed_since(descriptor, moment)
            if not changed:
                break
        return changed


def _held(still: Still) -> str:
    return {"pause": "paused", "stop": "stopped", "": ""}[still.how] if still.names else ""
