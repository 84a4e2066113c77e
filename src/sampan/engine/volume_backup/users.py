"""The containers that use a volume, kept still while it is read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncIterator, Sequence
from typing import Literal, Protocol

from sampan.engine.model import ContainerRecord
from sampan.engine.record_store import Store
from sampan.engine.threads import to_its_end
from sampan.engine.volume_backup import STILL_NOTES
from sampan.errors import Conflict, Invalid, NotFound, SampanError
from sampan.storage.metadata import Table

log = logging.getLogger(__name__)

How = Literal["", "pause", "stop"]


class Containers(Protocol):
    """What is needed of the container service."""

    def records(self) -> Sequence[ContainerRecord]: ...

    async def pause(self, reference: str) -> None: ...

    async def unpause(self, reference: str) -> None: ...

    async def stop(self, reference: str, timeout: int | None = None, signal_name: str = "") -> bool: ...

    async def start(self, reference: str) -> bool: ...


def parse_how(text: str) -> How:
    if text == "pause":
        return "pause"
    if text == "stop":
        return "stop"
    if text:
        raise Invalid(f"invalid value {text!r} for users: expected pause or stop")
    return ""


class Still:
    """Containers that were paused or stopped; `release` lets them go on, once."""

    def __init__(self, owner: Users, how: How) -> None:
        self.how = how
        self.names: list[str] = []
        self._owner = owner
        self._kept: list[str] = []

    def add(self, record: ContainerRecord) -> None:
        self.names.append(record.name)
        self._kept.append(record.id)

    async def release(self) -> None:
        """All of them, whatever becomes of one."""
        while self._kept:
            container = self._kept.pop()
            try:
                await to_its_end(self._owner.let_go(container, self.how))
            except (SampanError, OSError) as error:
                log.warning("container %s, kept still by a backup: %s", container, error)


class Users:
    """Used from the event loop's thread."""

    def __init__(self, containers: Containers, metadata: Store) -> None:
        self._containers = containers
        self._metadata = metadata
        self._still: dict[tuple[str, How], int] = {}
        """How many backups want this container still."""
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def writers(self, volume: str) -> list[ContainerRecord]:
        """Running containers that can write into the volume."""
        return [
            record
            for record in self._containers.records()
            if record.running
            and any(point.type == "volume" and point.name == volume and point.rw for point in record.mounts)
        ]

    @contextlib.asynccontextmanager
    async def still(self, volume: str, how: How) -> AsyncIterator[Still]:
        """Nobody writes into the volume until the block ends, or `release` is called before.

        Raises `Conflict` when one would not come back after a stop, and what pausing and stopping raise.
        """
        still = Still(self, how)
        try:
            if how:
                for record in self._wanted(volume, how):
                    # Half a stop would be a container that ends when nobody looks for it any more.
                    await to_its_end(self._hold(record, how, still))
            yield still
        finally:
            # Whoever gives up waiting does not leave them as they are.
            await to_its_end(still.release())

    def _wanted(self, volume: str, how: How) -> list[ContainerRecord]:
        wanted = self.writers(volume)
        if how == "pause":
            return [one for one in wanted if one.state.status != "paused" or (one.id, how) in self._still]
        for record in wanted:
            if record.host.auto_remove:
                raise Conflict(
                    f"container {record.name} uses volume {volume} and would be removed when it stops (--rm)",
                    hint="use --pause",
                )
        return wanted

    def _lock(self, container: str) -> asyncio.Lock:
        lock = self._locks.get(container)
        if lock is None:
            lock = self._locks[container] = asyncio.Lock()
        return lock

    async def _hold(self, record: ContainerRecord, how: How, still: Still) -> None:
        """Keep one still, and say so in `still`; not one that somebody else has paused or stopped meanwhile."""
        container = record.id
        async with self._lock(container):
            count = self._still.get((container, how), 0)
            if not count and not await self._begin(container, how):
                return
            self._still[container, how] = count + 1
            still.add(record)

    async def _begin(self, container: str, how: How) -> bool:
        """False when it is still already, by somebody's wish: it stays so afterwards."""
        note = STILL_NOTES + container
        await asyncio.to_thread(self._metadata.put, Table.SETTINGS, note, how.encode(), durable=True)
        try:
            if how == "pause":
                await self._containers.pause(container)
                return True
            if await self._containers.stop(container):
                return True
        except BaseException as error:
            refused = isinstance(error, (Conflict, NotFound))
            if not refused:
                await self._wake(container, how)  # who knows how far it came
            await self._forget(container)
            if refused and not self._moving(container):
                return False
            raise
        await self._forget(container)
        return False

    def _moving(self, container: str) -> bool:
        return any(
            one.id == container and one.state.status == "running" for one in self._containers.records()
        )

    async def _forget(self, container: str) -> None:
        await asyncio.to_thread(self._metadata.delete, Table.SETTINGS, STILL_NOTES + container)

    async def let_go(self, container: str, how: How) -> None:
        async with self._lock(container):
            count = self._still.get((container, how), 0) - 1
            if count > 0:
                self._still[container, how] = count
                return
            self._still.pop((container, how), None)
            await self._wake(container, how)
            await self._forget(container)

    async def _wake(self, container: str, how: How) -> None:
        """What has happened to the container meanwhile is somebody's wish."""
        known = {record.id: record for record in self._containers.records()}
        record = known.get(container)
        if record is None:
            return
        try:
            if how == "pause" and record.state.status == "paused":
                await self._containers.unpause(container)
            elif how == "stop" and not record.running:
                await self._containers.start(container)
        except (SampanError, OSError) as error:
            log.warning("container %s does not go on after a backup: %s", container, error)

    async def recover(self) -> None:
        """At the engine's start: containers that an earlier one kept still go on."""
        for key, how in await asyncio.to_thread(self._metadata.items, Table.SETTINGS, STILL_NOTES):
            await self._wake(key.removeprefix(STILL_NOTES), parse_how(how.decode()))
            await asyncio.to_thread(self._metadata.delete, Table.SETTINGS, key)
