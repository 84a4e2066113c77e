"""The service of volumes: the only writer of their records. Where data lies is a driver's business."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import logging
import os
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from sampan.engine.events import EventBus
from sampan.engine.filters import check_filters
from sampan.engine.model import NEVER, VolumeRecord, new_id, now
from sampan.engine.mounts import check_volume_name
from sampan.engine.record_store import Store, read_records
from sampan.engine.settings import PLUGIN_DIR
from sampan.engine.threads import made_or_undone, to_its_end
from sampan.engine.volumes.drivers import Drivers, VolumeDriver
from sampan.engine.volumes.local import DATA, LocalDriver
from sampan.engine.volumes.mounting import Mounting
from sampan.engine.volumes.sizes import directory_size
from sampan.engine.volumes.views import (
    LIST_FILTERS,
    PRUNE_FILTERS,
    Filters,
    Json,
    check_values,
    matches,
    prunable,
    volume_json,
)
from sampan.errors import Conflict, NotFound, SampanError, Unsupported
from sampan.linux.libc import syncfs
from sampan.storage.metadata import Table

log = logging.getLogger(__name__)

RENAME_NOTE = "volume-rename/"
"""Keys of notes: a rename whose records are written and whose directory may still have the old name."""


class Volumes:
    """Used from the event loop's thread; `path` from any.

    `users` tells which containers (ids) use a volume; set by the composition root.
    """

    def __init__(self, root: Path, metadata: Store, events: EventBus, plugin_dir: Path = PLUGIN_DIR) -> None:
        """`root` is the `volumes` directory (made when missing), `plugin_dir` that of plugins' sockets."""
        self._metadata = metadata
        self._events = events
        self._local = LocalDriver(root)
        self._drivers = Drivers(plugin_dir, self._local)
        self.users: Callable[[str], Sequence[str]] = lambda _name: ()
        self.busy: Callable[[str], Sequence[str]] = lambda _name: ()
        """Which containers (names) that use a volume run, or are about to."""
        self.unknown: Callable[[], Sequence[str]] = lambda: ()
        """Containers (ids) of which nobody knows all volumes that they have."""
        self._holds: list[set[str]] = []
        self._coming: set[str] = set()
        """Names of volumes that `staged` makes."""
        self._mounting = Mounting(self._drivers)
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._records, _ = read_records(
            metadata,
            Table.VOLUMES,
            VolumeRecord,
            "volume",
            "its data is left as it is, and 'volume create' with its name and options brings it back",
        )
        self._finish_renames()
        local = [record.name for record in self._records.values() if record.driver == self._local.name]
        for name in self._local.sweep(local):
            # A removal had begun, its record is still there.
            metadata.delete(Table.VOLUMES, name)
            del self._records[name]

    # Making

    async def create(
        self,
        name: str = "",
        *,
        driver: str = "",
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
        anonymous: bool = False,
        hold: set[str] | None = None,
    ) -> VolumeRecord:
        """Make a volume; one that exists already is returned as it is. Raises `Invalid`, `NotFound`, `Conflict`.

        `hold`, of `holding`, gets its name: then it can't be removed before the caller's container is known.
        """
        if name:
            check_volume_name(name)
        chosen = self._local if driver in ("", "local") else await self._load(name, driver)
        record = self._new(name, chosen, labels, options, anonymous=anonymous)
        async with self._changing(record.name):
            existing = self._records.get(record.name)
            if existing is None and name and not driver:
                record = await self._discovered(name) or record
            if existing is not None and driver not in ("", existing.driver):
                raise Conflict(
                    f"create {name}: driver '{existing.driver}' already has volume '{name}': "
                    "volume name must be unique"
                )
            if existing is None:
                self._check_coming("create", record.name)
                await self._made(record)
            if hold is not None:
                hold.add(record.name)
        return existing or record

    async def _load(self, name: str, driver: str) -> VolumeDriver:
        try:
            return await asyncio.to_thread(self._drivers.load, driver)
        except NotFound as error:
            raise NotFound(f"create {name}: {error.message}") from error

    def _new(
        self,
        name: str,
        driver: VolumeDriver,
        labels: Mapping[str, str] | None,
        options: Mapping[str, str] | None,
        *,
        anonymous: bool = False,
    ) -> VolumeRecord:
        driver.check(name, options or {})
        return VolumeRecord(
            name or new_id(),
            now(),
            driver.name,
            labels=None if labels is None else dict(labels),
            options=None if options is None else dict(options),
            anonymous=anonymous or not name,
        )

    async def _made(self, record: VolumeRecord) -> None:
        """What has begun goes to its end, whoever still waits: the thread would go on without us."""

        async def whole() -> None:
            await asyncio.to_thread(self._make, record)
            self._arrived(record)

        try:
            await to_its_end(whole())
        except asyncio.CancelledError:
            if record.anonymous and record.name in self._records:
                await self._delete(record.name)  # nobody has heard its name
            raise

    def _make(self, record: VolumeRecord) -> None:
        # What holds its data before the record: a record always names something that is there.
        self._drivers.of(record).create(record)
        self._metadata.put(Table.VOLUMES, record.name, msgspec.json.encode(record))

    def _arrived(self, record: VolumeRecord) -> None:
        self._records[record.name] = record
        self._events.publish("volume", "create", record.name, {"driver": record.driver})

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
        record = self._new(name, self._local, labels, None, anonymous=anonymous)
        async with self._changing(record.name):
            if record.name in self._records:
                raise Conflict(f"create {name}: a volume with this name exists already")
            self._check_coming("create", record.name)
            self._coming.add(record.name)
        # Not locked meanwhile: it takes as long as a client likes, and other volumes are waited for in it.
        try:
            staged = await made_or_undone(lambda: self._local.stage(record), self._local.discard)
            try:
                yield staged / DATA
                # The time at which it appears.
                record = finish(replace(record, created=now()))
                await to_its_end(self._published(staged, record))
            except BaseException:
                await to_its_end(asyncio.to_thread(self._local.discard, staged))
                raise
        finally:
            self._coming.discard(record.name)

    async def _published(self, staged: Path, record: VolumeRecord) -> None:
        await asyncio.to_thread(self._publish, staged, record)
        self._arrived(record)

    def _check_coming(self, what: str, name: str) -> None:
        """Raises `Conflict` when a volume of this name is being restored or cloned."""
        if name in self._coming:
            raise Conflict(
                f"{what} {name}: a volume with this name is being restored or cloned",
                hint="wait until that has ended, or take another name",
            )

    def _publish(self, staged: Path, record: VolumeRecord) -> None:
        _flush(staged)
        # A record without a directory goes at the next start; a directory without a record would be in the way.
        self._metadata.put(Table.VOLUMES, record.name, msgspec.json.encode(record))
        try:
            self._local.publish(staged, record)
        except BaseException:
            self._metadata.delete(Table.VOLUMES, record.name)
            raise

    @contextlib.asynccontextmanager
    async def replaced(self, name: str) -> AsyncIterator[Path]:
        """A directory to write other data of a volume into, which takes the old data's place at the end, by one step.

        Until then, and when the block raises or the engine dies in it, the volume is as it was. Raises `NotFound`,
        `Conflict` (a container that uses it runs, at the beginning or at the end), `Unsupported` (it is a mount, or
        another driver's).
        """
        record = self.get(name)
        if record.driver != self._local.name or record.options:
            raise Unsupported(
                f"volume {name} has options or a driver of its own: what is in it can't be replaced at once",
                hint="restore into a new volume",
            )
        self._check_idle(name)
        with self.holding(name):
            staged = await made_or_undone(lambda: self._local.stage(record), self._local.discard)
            try:
                yield staged / DATA
                await to_its_end(asyncio.to_thread(_flush, staged))
                async with self._changing(name):
                    # On the loop: no container begins to use it between the look and the exchange.
                    self._check_idle(name)
                    self._local.exchange(staged, record)
            finally:
                await to_its_end(asyncio.to_thread(self._local.discard, staged))

    def _check_idle(self, name: str) -> None:
        busy = self.busy(name)
        if busy:
            raise Conflict(
                f"volume {name} is in use by running containers: {', '.join(busy)}",
                hint="stop them first",
            )

    async def rename(self, name: str, new: str, users: Callable[[], None]) -> None:
        """Give a volume another name. `users` writes the records of the containers that use it, in one transaction
        with the volume's; it runs on the loop, so that nobody sees only half of it.

        Raises `NotFound`, `Invalid`, `Conflict`, `Unsupported` (another driver's: it knows the volume by its name).
        """
        check_volume_name(new)
        names = sorted({name, new})
        async with contextlib.AsyncExitStack() as stack:
            for one in names:
                await stack.enter_async_context(self._changing(one))
            record = self.get(name)
            if new in self._records:
                raise Conflict(f"rename {name}: a volume with the name {new} exists already")
            self._check_coming("rename", new)
            if record.driver != self._local.name:
                raise Unsupported(f"rename {name}: the driver {record.driver} knows the volume by its name")
            if self._mounting.is_used(name) or any(name in held for held in self._holds):
                raise Conflict(f"rename {name}: volume is in use")
            self._check_idle(name)
            self._local.check_free(new)
            renamed = replace(record, name=new, anonymous=False)
            with self._metadata.transaction():
                self._metadata.put(Table.SETTINGS, RENAME_NOTE + name, new.encode())
                self._metadata.put(Table.VOLUMES, new, msgspec.json.encode(renamed))
                self._metadata.delete(Table.VOLUMES, name)
                users()
            self._local.rename(name, new)
            self._metadata.delete(Table.SETTINGS, RENAME_NOTE + name)
            del self._records[name]
            self._records[new] = renamed
        self._events.publish("volume", "rename", new, {"driver": record.driver, "oldName": name})

    def _finish_renames(self) -> None:
        """At the engine's start: the records have the new name already."""
        for key, new in self._metadata.items(Table.SETTINGS, RENAME_NOTE):
            self._local.rename(key.removeprefix(RENAME_NOTE), new.decode())
            self._metadata.delete(Table.SETTINGS, key)

    # Using

    @contextlib.contextmanager
    def holding(self, *names: str) -> Iterator[set[str]]:
        """A set of names of volumes that nobody removes meanwhile, `names` among them; see `create`.

        Raises `NotFound`.
        """
        for name in names:
            self.get(name)
        held = set(names)
        self._holds.append(held)
        try:
            yield held
        finally:
            # By identity: two of these sets may well be equal.
            self._holds = [other for other in self._holds if other is not held]

    @contextlib.asynccontextmanager
    async def opened(self, name: str) -> AsyncIterator[Path]:
        """The directory with its data, mounted if it needs to be; meanwhile nobody removes it. Raises `NotFound`."""
        user = new_id()
        with self.holding(name):
            path = await self.mount(name, user)
            try:
                yield path
            finally:
                await self.unmount(name, user)

    def needs_mount(self, name: str) -> bool:
        """Whether its data is at its path only while somebody has it mounted. Raises `NotFound`."""
        record = self.get(name)
        return self._drivers.of(record).needs_mount(record)

    async def mount(self, name: str, user: str) -> Path:
        """The directory with its data, which is there until `user` (an id) lets go of it. Raises `NotFound`, …"""
        async with self._changing(name):
            return await self._mounting.mount(self.get(name), user)

    async def unmount(self, name: str, user: str) -> None:
        """Nothing happens when `user` has not got it mounted."""
        async with self._changing(name):
            record = self._records.get(name)
            if record is not None:
                await self._mounting.unmount(record, user)

    def adopt(self, name: str, user: str) -> None:
        """At the engine's start: `user` has it mounted since an earlier engine's time."""
        record = self._records.get(name)
        if record is not None:
            self._mounting.adopt(record, user)

    async def settle(self) -> None:
        """At the engine's start, when all users are known: what nobody uses is not mounted."""
        for record in tuple(self._records.values()):
            async with self._changing(record.name):
                if record.driver != self._local.name or self._mounting.is_used(record.name):
                    continue
                try:
                    await asyncio.to_thread(self._local.unmount, record, "", last=True)
                except OSError as error:
                    log.warning("volume %s could not be unmounted: %s", record.name, error)

    @contextlib.asynccontextmanager
    async def _changing(self, name: str) -> AsyncIterator[None]:
        """One at a time makes, mounts or removes the volume of a name."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        async with lock:
            yield

    def _in_use(self, name: str, without: Collection[str] = ()) -> bool:
        return (
            any(user not in without for user in self.users(name))
            or any(name in held for held in self._holds)
            or self._mounting.is_used(name)
        )

    # Looking

    def get(self, name: str) -> VolumeRecord:
        """Raises `NotFound` in Docker's words."""
        record = self._records.get(name)
        if record is None:
            raise NotFound(f"get {name}: no such volume")
        return record

    def driver_names(self) -> builtins.list[str]:
        """Those that are in use, or were asked for since the engine's start."""
        return self._drivers.names()

    def driver(self, name: str) -> str:
        """The driver of a volume, `local` for one that is not known."""
        record = self._records.get(name)
        return "local" if record is None else record.driver

    def find(self, name: str) -> VolumeRecord | None:
        return self._records.get(name)

    def path(self, name: str) -> Path:
        """The directory with the volume's data (where it needs to be mounted: once it is). Raises `NotFound`."""
        record = self.get(name)
        return self._drivers.of(record).path(record)

    def inspect(self, name: str) -> Json:
        return self._json(self.get(name))

    def list(self, filters: Filters) -> Json:
        check_filters(filters, LIST_FILTERS)
        check_values(filters)
        found = [self._json(record) for record in self._records.values() if self._matches(record, filters)]
        return {"Volumes": found, "Warnings": []}

    async def look(self, name: str, *, size: bool = False) -> Json:
        """What `inspect` shows; of a plugin's volume as the plugin says now. `size`: with its size and users.

        Raises `NotFound`, and the plugin's errors.
        """
        record = self._records.get(name) or await self._discovered(name)
        if record is None:
            raise NotFound(f"get {name}: no such volume")
        body = self._json(record)
        if self._drivers.is_plugin(record):
            body["Mountpoint"], status = await asyncio.to_thread(self._drivers.plugin(record).look, record)
            if status:
                body["Status"] = status
        if size:
            users = list(self.users(name))
            usage = {"Size": await self._measured(record), "RefCount": len(users)}
            body |= {"UsageData": usage, "Users": users}
        return body

    async def _measured(self, record: VolumeRecord) -> int:
        """Its size, mounted for that if it needs to be; -1 when that fails, or it is a plugin's without our doing."""
        if record.name not in self._records:
            return -1
        try:
            async with self.opened(record.name) as path:
                return await asyncio.to_thread(directory_size, path)
        except (SampanError, OSError) as error:
            log.warning("volume %s could not be measured: %s", record.name, error)
            return -1

    async def look_at_all(self, filters: Filters) -> Json:
        """As `list`, and the volumes that plugins have without our doing."""
        answer = self.list(filters)
        for plugin in await asyncio.to_thread(self._drivers.plugins):
            try:
                theirs = await asyncio.to_thread(plugin.volumes)
            except SampanError as error:
                answer["Warnings"].append(error.message)
                continue
            records = [VolumeRecord(name, NEVER, plugin.name) for name in theirs if name not in self._records]
            answer["Volumes"] += [
                {**self._json(record), "Mountpoint": theirs[record.name]}
                for record in records
                if self._matches(record, filters)
            ]
        return answer

    async def _discovered(self, name: str) -> VolumeRecord | None:
        """A volume that a plugin has without our doing."""
        for plugin in await asyncio.to_thread(self._drivers.plugins):
            record = VolumeRecord(name, NEVER, plugin.name)
            try:
                await asyncio.to_thread(plugin.look, record)
            except SampanError:
                continue
            return record
        return None

    def _matches(self, record: VolumeRecord, filters: Filters) -> bool:
        scope = self._drivers.of(record).scope
        return matches(record, filters, in_use=bool(self.users(record.name)), scope=scope)

    async def disk_usage(self) -> builtins.list[Json]:
        """Every volume that takes room here, with its size and its number of users: no mounts, as in Docker's."""
        found = []
        for record in tuple(self._records.values()):
            if self._drivers.of(record).needs_mount(record):
                continue
            size = await asyncio.to_thread(self._drivers.of(record).size, record)
            usage = {"Size": size, "RefCount": len(self.users(record.name))}
            found.append({**self._json(record), "UsageData": usage})
        return found

    def _json(self, record: VolumeRecord) -> Json:
        driver = self._drivers.of(record)
        return volume_json(record, driver.path(record), driver.scope)

    # Removing

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Raises `NotFound` (not with `force`), `Conflict` while a container uses it."""
        async with self._changing(name):
            if name not in self._records:
                record = await self._discovered(name)
                if record is not None:
                    await asyncio.to_thread(self._drivers.of(record).remove, record)
                    return
                if force:
                    return
                self.get(name)
            self._check_removable(name, force=force)
            await self._delete(name)

    async def would_remove(self, name: str, *, force: bool = False) -> Json:
        """What `remove` would: nothing is removed. Raises what `remove` raises."""
        record = self._records.get(name) or await self._discovered(name)
        if record is None:
            if force:
                return {"VolumesDeleted": [], "SpaceReclaimed": 0}
            self.get(name)
        self._check_removable(name, force=force)
        snapshots = await asyncio.to_thread(self._local.snapshots_size, name)
        return {"VolumesDeleted": [name], "SpaceReclaimed": max(await self._size(name), 0) + snapshots}

    def _check_removable(self, name: str, *, force: bool) -> None:
        if self._in_use(name):
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(self.users(name))}]")
        snapshots = self._local.snapshots(name)
        if snapshots and not force:
            raise Conflict(
                f"remove {name}: volume has {snapshots} snapshot{'' if snapshots == 1 else 's'}",
                hint="use --force to remove it with them",
            )

    async def _size(self, name: str) -> int:
        """What its removal gives back, -1 where nobody knows."""
        record = self._records.get(name)
        return -1 if record is None else await asyncio.to_thread(self._drivers.of(record).size, record)

    async def remove_unused(self, name: str) -> None:
        """Remove it unless another container uses it (anonymous volumes of a removed container)."""
        async with self._changing(name):
            if name in self._records and not self._in_use(name):
                await self._delete(name)

    async def _delete(self, name: str) -> None:
        """A removal that has begun goes to its end, whoever still waits: half of it would be a record without data."""
        await to_its_end(self._removed(name))

    async def _removed(self, name: str) -> None:
        record = self._records.pop(name)
        try:
            finish = await asyncio.to_thread(self._drivers.of(record).remove, record)
        except BaseException:
            self._records[name] = record
            raise
        await asyncio.to_thread(self._unmake, record, finish)
        self._events.publish("volume", "destroy", name, {"driver": record.driver})

    def _unmake(self, record: VolumeRecord, finish: Callable[[], None]) -> None:
        self._metadata.delete(Table.VOLUMES, record.name)
        finish()

    async def prune(self, filters: Filters, *, dry_run: bool = False, without: Collection[str] = ()) -> Json:
        """Remove anonymous volumes that no container uses; with the filter all=true named ones too.

        `dry_run`: nothing is removed, the answer is what would be, if there were no containers `without` (ids).
        """
        check_filters(filters, PRUNE_FILTERS)
        check_values(filters)
        removed: list[str] = []
        freed = 0
        unknown = [user for user in self.unknown() if user not in without]
        if unknown:
            log.warning("no volume is pruned: what container %s has is not known", unknown[0])
        for record in tuple(self._records.values()) if not unknown else ():
            if not prunable(record, filters) or self._local.snapshots(record.name):
                continue
            async with self._changing(record.name):
                if record.name not in self._records or self._in_use(record.name, without):
                    continue
                size = await asyncio.to_thread(self._drivers.of(record).size, record)
                if self._in_use(record.name, without):
                    continue
                if not dry_run:
                    await self._delete(record.name)
            freed += max(size, 0)
            removed.append(record.name)
        if not dry_run:
            self._events.publish("volume", "prune", "", {"reclaimed": str(freed)})
        return {"VolumesDeleted": removed, "SpaceReclaimed": freed}


def _flush(staged: Path) -> None:
    """What is staged is on the disk before it gets its name."""
    directory = os.open(staged, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(directory, str(staged))
    finally:
        os.close(directory)
