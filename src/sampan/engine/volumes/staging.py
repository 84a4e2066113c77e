"""Data of volumes that appears at once: written where nobody sees it, complete when it takes its place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from msgspec.structs import replace

from sampan.engine.model import VolumeRecord, now
from sampan.engine.mounts import check_volume_name
from sampan.engine.threads import made_or_undone, to_its_end
from sampan.engine.volumes.creation import new_record
from sampan.engine.volumes.local import DATA
from sampan.engine.volumes.store import VolumeStore
from sampan.engine.volumes.use import Use
from sampan.errors import Conflict, Unsupported
from sampan.linux.durability import sync_all


class Staging:
    def __init__(self, store: VolumeStore, use: Use) -> None:
        self._store = store
        self._use = use

    @contextlib.asynccontextmanager
    async def staged(
        self,
        name: str = "",
        *,
        labels: Mapping[str, str] | None = None,
        anonymous: bool = False,
        finish: Callable[[VolumeRecord], VolumeRecord] = lambda record: record,
    ) -> AsyncIterator[Path]:
        """A directory to write a new volume's data into. When the block has ended the volume is there, and complete.

        Nobody sees it before, and when the block raises, or the engine dies in it, nothing is left. Owner and mode of
        the directory are the volume's. `finish`: what is known of its record only at the end. Raises `Invalid`,
        `Conflict` (there is a volume of this name).
        """
        if name:
            check_volume_name(name)
        record = new_record(name, self._store.local, labels, None, anonymous=anonymous)
        async with self._store.changing(record.name):
            if record.name in self._store.records:
                raise Conflict(f"create {name}: a volume with this name exists already")
            self._store.check_coming("create", record.name)
            self._store.coming.add(record.name)
        # Not locked meanwhile: it takes as long as a client likes, and other volumes are waited for in it.
        try:
            staged = await made_or_undone(lambda: self._store.local.stage(record), self._store.local.discard)
            try:
                yield staged / DATA
                # The time at which it appears.
                record = finish(replace(record, created=now()))
                await to_its_end(self._published(staged, record))
            except BaseException:
                await to_its_end(asyncio.to_thread(self._store.local.discard, staged))
                raise
        finally:
            self._store.coming.discard(record.name)

    @contextlib.asynccontextmanager
    async def replaced(self, name: str) -> AsyncIterator[Path]:
        """A directory to write other data of a volume into, which takes the old data's place at the end, by one step.

        Until then, and when the block raises or the engine dies in it, the volume is as it was. Raises `NotFound`,
        `Conflict` (a container that uses it runs, at the beginning or at the end), `Unsupported` (it is a mount, or
        another driver's).
        """
        record = self._store.get(name)
        if record.driver != self._store.local.name or record.options:
            raise Unsupported(
                f"volume {name} has options or a driver of its own: what is in it can't be replaced at once",
                hint="restore into a new volume",
            )
        self._use.check_idle(name)
        with self._use.holding(name):
            staged = await made_or_undone(lambda: self._store.local.stage(record), self._store.local.discard)
            try:
                yield staged / DATA
                await to_its_end(asyncio.to_thread(sync_all, staged))
                async with self._store.changing(name):
                    # On the loop: no container begins to use it between the look and the exchange.
                    self._use.check_idle(name)
                    self._store.local.exchange(staged, record)
                    await to_its_end(asyncio.to_thread(self._store.local.flush, record))
            finally:
                await to_its_end(asyncio.to_thread(self._store.local.discard, staged))

    async def _published(self, staged: Path, record: VolumeRecord) -> None:
        await asyncio.to_thread(self._publish, staged, record)
        self._store.arrived(record)

    def _publish(self, staged: Path, record: VolumeRecord) -> None:
        sync_all(staged)
        # A record without a directory goes at the next start; a directory without a record would be in the way, and
        # with the record it would be taken for the volume.
        self._store.local.check_free(record.name)
        self._store.put(record)
        try:
            self._store.local.publish(staged, record)
        except BaseException:
            self._store.drop(record.name)
            raise
