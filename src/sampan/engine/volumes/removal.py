"""Removing volumes, one or all that nobody uses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from sampan.engine.events import EventBus
from sampan.engine.filters import check_filters
from sampan.engine.model import VolumeRecord
from sampan.engine.threads import to_its_end
from sampan.engine.volumes.store import VolumeStore
from sampan.engine.volumes.use import Use
from sampan.engine.volumes.views import PRUNE_FILTERS, Filters, Json, check_values, prunable
from sampan.errors import Conflict, SampanError

log = logging.getLogger(__name__)


class Removal:
    def __init__(self, store: VolumeStore, use: Use, events: EventBus) -> None:
        self._store = store
        self._use = use
        self._events = events

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Raises `NotFound` (not with `force`), `Conflict` while a container uses it."""
        async with self._store.changing(name):
            if name not in self._store.records:
                record = await self._store.discovered(name)
                if record is not None:
                    await asyncio.to_thread(self._store.drivers.of(record).remove, record)
                    return
                if force:
                    return
                self._store.get(name)
            self._check_removable(name, force=force)
            await self.delete(name)

    async def would_remove(self, name: str, *, force: bool = False) -> Json:
        """What `remove` would: nothing is removed. Raises what `remove` raises."""
        record = self._store.records.get(name) or await self._store.discovered(name)
        if record is None:
            if force:
                return {"VolumesDeleted": [], "SpaceReclaimed": 0}
            self._store.get(name)
        self._check_removable(name, force=force)
        snapshots = await asyncio.to_thread(self._store.local.snapshots_size, name)
        return {"VolumesDeleted": [name], "SpaceReclaimed": max(await self._size(name), 0) + snapshots}

    def _check_removable(self, name: str, *, force: bool) -> None:
        if self._use.in_use(name):
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(self._use.users(name))}]")
        snapshots = self._store.local.snapshots(name)
        if snapshots and not force:
            raise Conflict(
                f"remove {name}: volume has {snapshots} snapshot{'' if snapshots == 1 else 's'}",
                hint="use --force to remove it with them",
            )

    async def _size(self, name: str) -> int:
        """What its removal gives back, -1 where nobody knows."""
        record = self._store.records.get(name)
        return -1 if record is None else await asyncio.to_thread(self._store.drivers.of(record).size, record)

    async def remove_unused(self, name: str) -> None:
        """Remove it unless another container uses it (anonymous volumes of a removed container)."""
        async with self._store.changing(name):
            if name in self._store.records and not self._use.in_use(name):
                await self.delete(name)

    async def remove_forsaken(self, containers: Collection[str]) -> None:
        """At the engine's start: what goes with containers that are not among these (ids), and nobody uses. An engine
        was killed as it made or removed them."""
        for record in tuple(self._store.records.values()) if not self._use.unknown() else ():
            if not record.owner or record.owner in containers or self._store.local.snapshots(record.name):
                continue
            try:
                await self.remove_unused(record.name)
            except (SampanError, OSError) as error:
                log.warning("volume %s, which no container has any more, stays: %s", record.name, error)

    async def delete(self, name: str) -> None:
        """A removal that has begun goes to its end, whoever still waits: half of it would be a record without data."""
        await to_its_end(self._removed(name))

    async def _removed(self, name: str) -> None:
        record = self._store.records.pop(name)
        try:
            finish = await asyncio.to_thread(self._store.drivers.of(record).remove, record)
        except BaseException:
            self._store.records[name] = record
            raise
        await asyncio.to_thread(self._unmake, record, finish)
        self._events.publish("volume", "destroy", name, {"driver": record.driver})

    def _unmake(self, record: VolumeRecord, finish: Callable[[], None]) -> None:
        self._store.drop(record.name)
        finish()

    async def prune(self, filters: Filters, *, dry_run: bool = False, without: Collection[str] = ()) -> Json:
        """Remove anonymous volumes that no container uses; with the filter all=true named ones too.

        `dry_run`: nothing is removed, the answer is what would be, if there were no containers `without` (ids).
        """
        check_filters(filters, PRUNE_FILTERS)
        check_values(filters)
        removed: list[str] = []
        freed = 0
        unknown = [user for user in self._use.unknown() if user not in without]
        if unknown:
            log.warning("no volume is pruned: what container %s has is not known", unknown[0])
        for record in tuple(self._store.records.values()) if not unknown else ():
            if not prunable(record, filters) or self._store.local.snapshots(record.name):
                continue
            async with self._store.changing(record.name):
                if record.name not in self._store.records or self._use.in_use(record.name, without):
                    continue
                size = await asyncio.to_thread(self._store.drivers.of(record).size, record)
                if self._use.in_use(record.name, without):
                    continue
                if not dry_run:
                    await self.delete(record.name)
            freed += max(size, 0)
            removed.append(record.name)
        if not dry_run:
            self._events.publish("volume", "prune", "", {"reclaimed": str(freed)})
        return {"VolumesDeleted": removed, "SpaceReclaimed": freed}
