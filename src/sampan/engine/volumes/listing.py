"""What there is to see of volumes: one, all, and the room that they take."""

from __future__ import annotations

import asyncio
import builtins
import logging

from sampan.engine.filters import check_filters
from sampan.engine.model import NEVER, VolumeRecord
from sampan.engine.volumes.sizes import directory_size
from sampan.engine.volumes.store import VolumeStore
from sampan.engine.volumes.use import Use
from sampan.engine.volumes.views import LIST_FILTERS, Filters, Json, check_values, matches, volume_json
from sampan.errors import NotFound, SampanError

log = logging.getLogger(__name__)


class Listing:
    def __init__(self, store: VolumeStore, use: Use) -> None:
        self._store = store
        self._use = use

    def inspect(self, name: str) -> Json:
        return self._json(self._store.get(name))

    def list(self, filters: Filters) -> Json:
        check_filters(filters, LIST_FILTERS)
        check_values(filters)
        found = [
            self._json(record) for record in self._store.records.values() if self._matches(record, filters)
        ]
        return {"Volumes": found, "Warnings": []}

    async def look(self, name: str, *, size: bool = False) -> Json:
        """What `inspect` shows; of a plugin's volume as the plugin says now. `size`: with its size and users.

        Raises `NotFound`, and the plugin's errors.
        """
        record = self._store.records.get(name) or await self._store.discovered(name)
        if record is None:
            raise NotFound(f"get {name}: no such volume")
        body = self._json(record)
        if self._store.drivers.is_plugin(record):
            body["Mountpoint"], status = await asyncio.to_thread(
                self._store.drivers.plugin(record).look, record
            )
            if status:
                body["Status"] = status
        if size:
            users = list(self._use.users(name))
            usage = {"Size": await self._measured(record), "RefCount": len(users)}
            body |= {"UsageData": usage, "Users": users}
        return body

    async def _measured(self, record: VolumeRecord) -> int:
        """Its size, mounted for that if it needs to be; -1 when that fails, or it is a plugin's without our doing."""
        if record.name not in self._store.records:
            return -1
        try:
            async with self._use.opened(record.name) as path:
                return await asyncio.to_thread(directory_size, path)
        except (SampanError, OSError) as error:
            log.warning("volume %s could not be measured: %s", record.name, error)
            return -1

    async def look_at_all(self, filters: Filters) -> Json:
        """As `list`, and the volumes that plugins have without our doing."""
        answer = self.list(filters)
        for plugin in await asyncio.to_thread(self._store.drivers.plugins):
            try:
                theirs = await asyncio.to_thread(plugin.volumes)
            except SampanError as error:
                answer["Warnings"].append(error.message)
                continue
            records = [
                VolumeRecord(name, NEVER, plugin.name) for name in theirs if name not in self._store.records
            ]
            answer["Volumes"] += [
                {**self._json(record), "Mountpoint": theirs[record.name]}
                for record in records
                if self._matches(record, filters)
            ]
        return answer

    def _matches(self, record: VolumeRecord, filters: Filters) -> bool:
        scope = self._store.drivers.of(record).scope
        # All containers are looked through for one volume's users: not for nothing.
        in_use = "dangling" in filters and bool(self._use.users(record.name))
        return matches(record, filters, in_use=in_use, scope=scope)

    async def disk_usage(self) -> builtins.list[Json]:
        """Every volume that takes room here, with its size and its number of users: no mounts, as in Docker's."""
        found = []
        for record in tuple(self._store.records.values()):
            if self._store.drivers.of(record).needs_mount(record):
                continue
            size = await asyncio.to_thread(self._store.drivers.of(record).size, record)
            usage = {"Size": size, "RefCount": len(self._use.users(record.name))}
            found.append({**self._json(record), "UsageData": usage})
        return found

    def _json(self, record: VolumeRecord) -> Json:
        driver = self._store.drivers.of(record)
        return volume_json(record, driver.path(record), driver.scope)
