"""Volumes: named directories that outlive containers. The only writer of the volume records."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import errno
import os
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from sampan.engine.events import EventBus
from sampan.engine.filters import check_filters, label_matches, parse_time
from sampan.engine.model import VolumeRecord, epoch_ns, new_id, now
from sampan.engine.mounts import check_volume_name
from sampan.errors import Conflict, Invalid, NotFound, Unsupported
from sampan.storage.metadata import Table
from sampan.storage.removal import remove_tree

Json = dict[str, Any]

_LIST_FILTERS = ("name", "driver", "label", "label!", "dangling", "scope")
_PRUNE_FILTERS = ("label", "label!", "all", "until")


class Store(Protocol):
    """What is needed of `storage.metadata.Metadata`."""

    def put(self, table: Table, key: str, body: bytes, *, durable: bool | None = None) -> None: ...

    def delete(self, table: Table, key: str, *, durable: bool | None = None) -> None: ...

    def items(self, table: Table, prefix: str = "") -> list[tuple[str, bytes]]: ...


class Volumes:
    """`users` tells which containers (ids) use a volume; set by the composition root."""

    def __init__(self, root: Path, metadata: Store, events: EventBus) -> None:
        """`root` is the `volumes` directory (made when missing)."""
        self._root = root
        self._metadata = metadata
        self._events = events
        self.users: Callable[[str], Sequence[str]] = lambda _name: ()
        self._holds: list[set[str]] = []
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        root.mkdir(parents=True, exist_ok=True, mode=0o701)
        self._records = {
            key: msgspec.json.decode(body, type=VolumeRecord) for key, body in metadata.items(Table.VOLUMES)
        }
        self._sweep()

    def _sweep(self) -> None:
        """Directories of volumes that were being made or removed when the engine died.

        A volume is removed by renaming its directory to a name with a dot before the record goes; a plain
        directory without a record is left alone, because it may hold data.
        """
        for entry in self._root.iterdir():
            if entry.name.startswith("."):
                remove_tree(entry)
        for name in [name for name in self._records if not (self._root / name).is_dir()]:
            # The rename of a removal happened, its record is still there.
            self._metadata.delete(Table.VOLUMES, name)
            del self._records[name]

    # API

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
        if driver not in ("", "local"):
            raise NotFound(
                f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found'
            )
        self._check_options(name, options or {})
        record = VolumeRecord(
            name or new_id(),
            now(),
            labels=None if labels is None else dict(labels),
            options=None if options is None else dict(options),
            anonymous=anonymous or not name,
        )
        async with self._changing(record.name):
            existing = self._records.get(record.name)
            if existing is None:
                await asyncio.to_thread(self._make, record)
                self._records[record.name] = record
                self._events.publish("volume", "create", record.name, {"driver": "local"})
            if hold is not None:
                hold.add(record.name)
        return existing or record

    @contextlib.contextmanager
    def holding(self) -> Iterator[set[str]]:
        """A set of names of volumes that nobody removes meanwhile; see `create`."""
        held: set[str] = set()
        self._holds.append(held)
        try:
            yield held
        finally:
            # By identity: two of these sets may well be equal.
            self._holds = [other for other in self._holds if other is not held]

    @contextlib.asynccontextmanager
    async def _changing(self, name: str) -> AsyncIterator[None]:
        """One at a time makes or removes the volume of a name."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        async with lock:
            yield

    def _in_use(self, name: str) -> bool:
        return bool(self.users(name)) or any(name in held for held in self._holds)

    def _make(self, record: VolumeRecord) -> None:
        # The directory before the record: a record always names a directory that is there.
        (self._root / record.name / "_data").mkdir(parents=True, exist_ok=True, mode=0o755)
        os.chmod(self._root / record.name, 0o701)
        self._metadata.put(Table.VOLUMES, record.name, msgspec.json.encode(record))

    @staticmethod
    def _check_options(name: str, options: Mapping[str, str]) -> None:
        for option in options:
            if option not in ("type", "device", "o"):
                raise Invalid(f'create {name}: invalid option: "{option}"')
        if options and ("device" not in options or "type" not in options):
            missing = "device" if "device" not in options else "type"
            raise Invalid(f'create {name}: missing required option: "{missing}"')
        if options:
            # Data would go somewhere else than the person thinks.
            raise Unsupported(
                f"create {name}: volumes that are mounts (options type, device, o) are not supported yet",
                hint="mount the device on the host and bind its directory with -v",
            )

    def get(self, name: str) -> VolumeRecord:
        """Raises `NotFound` in Docker's words."""
        record = self._records.get(name)
        if record is None:
            raise NotFound(f"get {name}: no such volume")
        return record

    def find(self, name: str) -> VolumeRecord | None:
        return self._records.get(name)

    def path(self, name: str) -> Path:
        """The directory with the volume's data."""
        return self._root / name / "_data"

    def inspect(self, name: str) -> Json:
        return self._json(self.get(name))

    def list(self, filters: Mapping[str, Sequence[str]]) -> Json:
        check_filters(filters, _LIST_FILTERS)
        found = [self._json(record) for record in self._records.values() if self._matches(record, filters)]
        return {"Volumes": found, "Warnings": []}

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Raises `NotFound` (not with `force`), `Conflict` while a container uses it."""
        async with self._changing(name):
            if name not in self._records:
                if force:
                    return
                self.get(name)
            if self._in_use(name):
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(self.users(name))}]")
            await self._delete(name)

    async def remove_unused(self, name: str) -> None:
        """Remove it unless another container uses it (anonymous volumes of a removed container)."""
        async with self._changing(name):
            if name in self._records and not self._in_use(name):
                await self._delete(name)

    async def _delete(self, name: str) -> None:
        del self._records[name]
        await asyncio.to_thread(self._unmake, name)
        self._events.publish("volume", "destroy", name, {"driver": "local"})

    def _unmake(self, name: str) -> None:
        # Out of sight by one rename; then the record; then the slow part, which a crash leaves to `_sweep`.
        doomed = self._root / f".{name}.{new_id()[:8]}"
        try:
            os.rename(self._root / name, doomed)
        except FileNotFoundError:
            doomed = None  # type: ignore[assignment]
        self._metadata.delete(Table.VOLUMES, name)
        if doomed is not None:
            remove_tree(doomed)

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> Json:
        """Anonymous volumes that no container uses; with the filter all=true named ones too."""
        check_filters(filters, _PRUNE_FILTERS)
        everything = any(value.lower() in ("1", "true") for value in filters.get("all", ()))
        removed: list[str] = []
        freed = 0
        for record in tuple(self._records.values()):
            if not (everything or record.anonymous) or not self._prunable(record, filters):
                continue
            async with self._changing(record.name):
                if record.name not in self._records or self._in_use(record.name):
                    continue
                size = await asyncio.to_thread(directory_size, self.path(record.name))
                if self._in_use(record.name):
                    continue
                await self._delete(record.name)
            freed += size
            removed.append(record.name)
        self._events.publish("volume", "prune", "", {"reclaimed": str(freed)})
        return {"VolumesDeleted": removed, "SpaceReclaimed": freed}

    def _prunable(self, record: VolumeRecord, filters: Mapping[str, Sequence[str]]) -> bool:
        until = filters.get("until", ())
        if until and epoch_ns(record.created) > min(parse_time(text) for text in until):
            return False
        return label_matches(record.labels or {}, filters)

    def _matches(self, record: VolumeRecord, filters: Mapping[str, Sequence[str]]) -> bool:
        names = filters.get("name", ())
        if names and not any(name in record.name for name in names):
            return False
        drivers = filters.get("driver", ())
        if drivers and record.driver not in drivers:
            return False
        for value in filters.get("dangling", ()):
            if value.lower() not in ("true", "false", "1", "0"):
                raise Invalid(f"invalid filter 'dangling={value}'")
            if bool(self.users(record.name)) == (value.lower() in ("true", "1")):
                return False
        return label_matches(record.labels or {}, filters)

    async def disk_usage(self) -> builtins.list[Json]:
        """Every volume with its size and its number of users."""
        found = []
        for record in tuple(self._records.values()):
            size = await asyncio.to_thread(directory_size, self.path(record.name))
            usage = {"Size": size, "RefCount": len(self.users(record.name))}
            found.append({**self._json(record), "UsageData": usage})
        return found

    def _json(self, record: VolumeRecord) -> Json:
        return {
            "CreatedAt": record.created.partition(".")[0].removesuffix("Z") + "Z",
            "Driver": record.driver,
            "Labels": _labels_json(record),
            "Mountpoint": str(self.path(record.name)),
            "Name": record.name,
            "Options": record.options,
            "Scope": "local",
        }


ANONYMOUS_LABEL = "com.docker.volume.anonymous"
"""Docker's mark of a volume that has no name given by a person."""


def _labels_json(record: VolumeRecord) -> dict[str, str] | None:
    if record.anonymous:
        return {ANONYMOUS_LABEL: "", **(record.labels or {})}
    return record.labels


def directory_size(path: Path) -> int:
    """Bytes of the regular files below `path`, hard links counted once; what vanishes meanwhile counts nothing."""
    total = 0
    seen: set[tuple[int, int]] = set()
    pending = [path]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    info = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False) and (info.st_dev, info.st_ino) not in seen:
                        seen.add((info.st_dev, info.st_ino))
                        total += info.st_size
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # deeper than a path can be long: a container's joke
                raise
    return total
