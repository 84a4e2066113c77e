"""The volumes that there are: their records, and the drivers that have their data."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from msgspec.structs import replace

from sampan.engine.events import EventBus
from sampan.engine.model import NEVER, VolumeRecord
from sampan.engine.record_store import Store, read_records
from sampan.engine.threads import to_its_end
from sampan.engine.volumes.drivers import Drivers
from sampan.engine.volumes.local import LocalDriver
from sampan.errors import Conflict, NotFound, SampanError
from sampan.storage.metadata import Table


class VolumeStore:
    """Used from the event loop's thread, but for what is said to block; `path` from any."""

    def __init__(self, root: Path, metadata: Store, events: EventBus, plugin_dir: Path) -> None:
        """`root` is the `volumes` directory (made when missing), `plugin_dir` that of plugins' sockets."""
        self._metadata = metadata
        self._events = events
        self.local = LocalDriver(root)
        self.drivers = Drivers(plugin_dir, self.local)
        self.coming: set[str] = set()
        """Names of volumes whose data is being written, by a restore or a clone."""
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self.records, unreadable = read_records(
            metadata,
            Table.VOLUMES,
            VolumeRecord,
            "volume",
            "its data is left as it is, and 'volume create' with its name and options brings it back",
        )
        self._unreadable = frozenset(unreadable)

    def sweep(self) -> None:
        """At the engine's start: what an engine that died has left goes."""
        local = [record.name for record in self.records.values() if record.driver == self.local.name]
        for name in self.local.sweep(local, self._unreadable | self.records.keys()):
            # A removal had begun, its record is still there.
            self.drop(name)
            del self.records[name]

    @contextlib.asynccontextmanager
    async def changing(self, name: str) -> AsyncIterator[None]:
        """One at a time makes, mounts or removes the volume of a name."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        async with lock:
            yield

    def check_coming(self, what: str, name: str) -> None:
        """Raises `Conflict` when a volume of this name is being restored or cloned."""
        if name in self.coming:
            raise Conflict(
                f"{what} {name}: a volume with this name is being restored or cloned",
                hint="wait until that has ended, or take another name",
            )

    def put(self, record: VolumeRecord) -> None:
        """Blocking: the record, in the database. What it names is there before."""
        self._metadata.put(Table.VOLUMES, record.name, msgspec.json.encode(record))

    async def disown(self, name: str) -> None:
        """From now on it goes only when somebody says so."""
        async with self.changing(name):
            if name in self.records:
                await self.disowned(self.records[name])

    async def disowned(self, record: VolumeRecord) -> VolumeRecord:
        """As `disown`, of whoever holds `changing`."""
        if not record.owner:
            return record
        self.records[record.name] = free = replace(record, owner="")
        await to_its_end(asyncio.to_thread(self.put, free))
        return free

    def drop(self, name: str) -> None:
        """Blocking: the record, in the database."""
        self._metadata.delete(Table.VOLUMES, name)

    def arrived(self, record: VolumeRecord) -> None:
        """From now on it is there for everybody."""
        self.records[record.name] = record
        self._events.publish("volume", "create", record.name, {"driver": record.driver})

    def get(self, name: str) -> VolumeRecord:
        """Raises `NotFound` in Docker's words."""
        record = self.records.get(name)
        if record is None:
            raise NotFound(f"get {name}: no such volume")
        return record

    def driver_names(self) -> list[str]:
        """Those that are in use, or were asked for since the engine's start."""
        return self.drivers.names()

    def driver(self, name: str) -> str:
        """The driver of a volume, `local` for one that is not known."""
        record = self.records.get(name)
        return "local" if record is None else record.driver

    def find(self, name: str) -> VolumeRecord | None:
        return self.records.get(name)

    def path(self, name: str) -> Path:
        """The directory with the volume's data (where it needs to be mounted: once it is). Raises `NotFound`."""
        record = self.get(name)
        return self.drivers.of(record).path(record)

    async def discovered(self, name: str) -> VolumeRecord | None:
        """A volume that a plugin has without our doing."""
        for plugin in await asyncio.to_thread(self.drivers.plugins):
            record = VolumeRecord(name, NEVER, plugin.name)
            try:
                await asyncio.to_thread(plugin.look, record)
            except SampanError:
                continue
            return record
        return None
