"""Making a volume, empty."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from msgspec.structs import replace

from sampan.engine.model import VolumeRecord, new_id, now
from sampan.engine.mounts import check_volume_name
from sampan.engine.threads import to_its_end
from sampan.engine.volumes.drivers import VolumeDriver
from sampan.engine.volumes.removal import Removal
from sampan.engine.volumes.store import VolumeStore
from sampan.errors import Conflict, NotFound


def new_record(
    name: str,
    driver: VolumeDriver,
    labels: Mapping[str, str] | None,
    options: Mapping[str, str] | None,
    *,
    anonymous: bool = False,
) -> VolumeRecord:
    """Of a volume that is to be made. Raises `Invalid`, `Unsupported`: the driver does not take the options."""
    driver.check(name, options or {})
    return VolumeRecord(
        name or new_id(),
        now(),
        driver.name,
        labels=None if labels is None else dict(labels),
        options=None if options is None else dict(options),
        anonymous=anonymous or not name,
    )


class Creation:
    def __init__(self, store: VolumeStore, removal: Removal) -> None:
        self._store = store
        self._removal = removal

    async def create(
        self,
        name: str = "",
        *,
        driver: str = "",
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
        anonymous: bool = False,
        owner: str = "",
        hold: set[str] | None = None,
    ) -> VolumeRecord:
        """Make a volume; one that exists already is returned as it is. Raises `Invalid`, `NotFound`, `Conflict`.

        `owner`: the container (id) that it is made for, and goes with.
        `hold`, of `Use.holding`, gets its name: then it can't be removed before the caller's container is known.
        """
        if name:
            check_volume_name(name)
        chosen = self._store.local if driver in ("", "local") else await self._load(name, driver)
        record = replace(new_record(name, chosen, labels, options, anonymous=anonymous), owner=owner)
        async with self._store.changing(record.name):
            existing = self._store.records.get(record.name)
            if existing is None and name and not driver:
                record = await self._store.discovered(name) or record
            if existing is not None and driver not in ("", existing.driver):
                raise Conflict(
                    f"create {name}: driver '{existing.driver}' already has volume '{name}': "
                    "volume name must be unique"
                )
            if existing is None:
                self._store.check_coming("create", record.name)
                await self._made(record)
            else:
                existing = await self._store.disowned(existing)  # whoever asks knows its name
            if hold is not None:
                hold.add(record.name)
        return existing or record

    async def _load(self, name: str, driver: str) -> VolumeDriver:
        try:
            return await asyncio.to_thread(self._store.drivers.load, driver)
        except NotFound as error:
            raise NotFound(f"create {name}: {error.message}") from error

    async def _made(self, record: VolumeRecord) -> None:
        """What has begun goes to its end, whoever still waits: the thread would go on without us."""

        async def whole() -> None:
            await asyncio.to_thread(self._make, record)
            self._store.arrived(record)

        try:
            await to_its_end(whole())
        except asyncio.CancelledError:
            if record.anonymous and record.name in self._store.records:
                await self._removal.delete(record.name)  # nobody has heard its name
            raise

    def _make(self, record: VolumeRecord) -> None:
        # What holds its data before the record: a record always names something that is there.
        self._store.drivers.of(record).create(record)
        self._store.put(record)
