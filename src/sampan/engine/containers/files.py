"""Files of a container from outside: cp (archive), diff (changes), export."""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import msgspec

from sampan.engine.containers.base import Json, Parts
from sampan.engine.containers.changes import MODIFIED, changes_of
from sampan.engine.containers.user_namespaces import id_maps_of
from sampan.engine.model import ContainerRecord, MountPoint, rfc3339
from sampan.engine.mounts import tmpfs_points
from sampan.engine.threads import in_own_thread, streamed, upload_file
from sampan.engine.userns import IdMaps
from sampan.errors import Denied, Internal, Invalid, NotFound, SampanError
from sampan.linux.capabilities import FilesystemIds
from sampan.linux.paths import open_in_root
from sampan.linux.process import start_time
from sampan.oci.rootfs import RootAssembly
from sampan.storage.extract import ExtractOptions, extract_tar
from sampan.storage.tar_writer import write_tree

_GO_MODES = (
    (stat.S_ISDIR, 1 << 31),
    (stat.S_ISLNK, 1 << 27),
    (stat.S_ISFIFO, 1 << 25),
    (stat.S_ISSOCK, 1 << 24),
    (stat.S_ISBLK, 1 << 26),
    (stat.S_ISCHR, 1 << 26 | 1 << 21),
)
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


@dataclass(frozen=True, slots=True)
class Place:
    """A path as it was asked for, and what it means: `inner` below a root descriptor."""

    asked: str
    inner: str

    @property
    def name(self) -> str:
        """Of the top in an archive, by Go's filepath.Base."""
        if self.asked.endswith("/."):
            return "."
        return posixpath.basename(self.asked.rstrip("/")) or "."

    @property
    def follow(self) -> bool:
        """A trailing slash or `/.` means what a link points to."""
        return self.asked.endswith(("/", "/."))


class _Output:
    """A sink over a function."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write


class _Ended(Exception):
    """A container was to be written to while it runs, and has ended."""


class Files:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    # cp

    async def stat(self, reference: str, path: str) -> Json:
        """Docker's PathStat. Raises `NotFound`."""
        record = self._parts.store.find(reference).record
        async with self._volumes_of(record, path):
            return await asyncio.to_thread(self._stat, record, reference, path)

    def _stat(self, record: ContainerRecord, reference: str, path: str) -> Json:
        with _told(reference, path), self._root(record, path) as (root, place, _):
            flags = os.O_PATH if place.follow else os.O_PATH | os.O_NOFOLLOW
            found = _open(root, place.inner, flags, reference, path)
            try:
                info = os.fstat(found)
                target = os.readlink("", dir_fd=found) if stat.S_ISLNK(info.st_mode) else ""
            finally:
                os.close(found)
        if target and not target.startswith("/"):
            target = posixpath.join(posixpath.dirname(absolute(path)), target)
        return {
            "name": posixpath.basename(path.rstrip("/")) or "/",
            "size": info.st_size,
            "mode": go_mode(info.st_mode),
            "mtime": rfc3339(info.st_mtime_ns),
            "linkTarget": posixpath.normpath(target) if target else "",
        }

    def get(self, reference: str, path: str) -> AsyncIterator[bytes]:
        """The tree at `path` as a tar, its top named after the path's last part."""
        record = self._parts.store.find(reference).record

        def work(write: Callable[[bytes], object]) -> None:
            with _told(reference, path), self._root(record, path) as (root, place, ids):
                owners = None if ids is None else ids.inside
                if place.follow:
                    inside = _open(root, place.inner, os.O_RDONLY | os.O_DIRECTORY, reference, path)
                    try:
                        write_tree(inside, _Output(write), prefix=place.name, owners=owners)
                    finally:
                        os.close(inside)
                else:
                    os.close(_open(root, place.inner, os.O_PATH | os.O_NOFOLLOW, reference, path))
                    write_tree(root, _Output(write), path=place.inner, prefix=place.name, owners=owners)

        self._parts.announce(record, "archive-path")
        return self._streamed(record, path, work)

    async def _streamed(
        self, record: ContainerRecord, path: str, work: Callable[[Callable[[bytes], object]], None]
    ) -> AsyncIterator[bytes]:
        async with self._volumes_of(record, path):
            async for piece in streamed(work):
                yield piece

    @asynccontextmanager
    async def _volumes_of(self, record: ContainerRecord, path: str) -> AsyncIterator[None]:
        """A container that does not run: the volume that `path` leads into is mounted meanwhile, if it needs to be."""
        volumes = self._parts.volumes
        async with AsyncExitStack() as mounted:
            point = None if record.running else _mount_of(_points_above(record, path))
            if point is not None and point.type == "volume" and volumes.find(point.name) is not None:
                await mounted.enter_async_context(volumes.opened(point.name))
            yield

    async def put(
        self,
        reference: str,
        path: str,
        upload: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool = False,
    ) -> None:
        """Unpack a tar in the directory at `path`. Raises `NotFound`, `Invalid`, `Denied` (read-only)."""
        slot = self._parts.store.find(reference)
        loop = asyncio.get_running_loop()
        options = ExtractOptions(no_overwrite_dir_non_dir=no_overwrite_dir_non_dir)
        check_writable(slot.record, path)

        def work(record: ContainerRecord, held: bool) -> None:
            with _told(reference, path), self._root(record, path, held=held) as (root, place, ids):
                target = _open(root, place.inner, os.O_PATH, reference, path)
                try:
                    if not stat.S_ISDIR(os.fstat(target).st_mode):
                        raise Invalid("extraction point is not a directory")
                finally:
                    os.close(target)
                with _acting_inside(options, ids) as mapped:
                    extract_tar(upload_file(upload, loop), root, mapped, directory=place.inner)

        try:
            await in_own_thread(lambda: work(slot.record, False))
        except _Ended:
            # Its writable layer is mounted for this; nobody may start or remove it meanwhile.
            async with slot.lock, self._volumes_of(slot.record, path):
                if self._parts.store.get(slot.record.id) is not slot:
                    raise NotFound(f"No such container: {reference}") from None
                await in_own_thread(lambda: work(slot.record, True))
        self._parts.announce(slot.record, "extract-to-dir")

    @contextmanager
    def _root(
        self, record: ContainerRecord, path: str, *, held: bool | None = None
    ) -> Iterator[tuple[int, Place, IdMaps | None]]:
        """Blocking: a descriptor of the root that `path` is to be resolved in, the path there, and the ids that are
        mapped in it.

        A running container's own view (volumes and tmpfs among it); of a stopped one the assembled layers, or
        the volume or host directory that `path` would lead into. `held`: to write, and whether the caller holds
        the slot's lock; without it raises `_Ended` for a container that does not run. None: to read.
        """
        clean = absolute(path)
        live = self._live_root(record) if record.running else None
        ids: IdMaps | None = None
        if live is not None:
            root, ids = live
            inner = clean
        elif held is False:
            raise _Ended
        else:
            point = _mount_of(_points_above(record, path))
            if point is not None and os.path.isdir(point.source):
                root = _open_source(point)
                inner = "/" + clean[len(point.destination) :].lstrip("/")
            else:
                root = self._assembled(record, writable=held is not None)
                inner = clean
        try:
            yield root, Place(path, inner), ids
        finally:
            os.close(root)

    def _assembled(self, record: ContainerRecord, *, writable: bool = False) -> int:
        """A descriptor of the layers, put together. Raises `NotFound`, also when it is removed meanwhile."""
        try:
            assembly = self._parts.snapshots.assembly(record.id, record.layers)
            return self._parts.launcher.open_root(assembly if writable else assembly.readable())
        except SampanError as error:
            if self._parts.store.get(record.id) is None:
                raise NotFound(f"No such container: {record.id}") from error
            raise

    @staticmethod
    def _live_root(record: ContainerRecord) -> tuple[int, IdMaps | None] | None:
        """The root of a container that runs, and its id maps; None when it has ended, be it in this moment."""
        pid = record.state.pid
        try:
            root = os.open(f"/proc/{pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            return None
        except OSError as error:
            raise Internal(f"root of container {record.id}: {error.strerror}") from error
        try:
            ids = id_maps_of(pid)
            # The number may have been given to another process before all that was read.
            if start_time(pid) == record.state.start_time:
                return root, ids
        except (FileNotFoundError, ProcessLookupError):
            pass  # gone: as if it were another
        except BaseException:
            os.close(root)
            raise
        os.close(root)
        return None

    # diff, export

    async def changes(self, reference: str) -> list[Json]:
        """Kind 0 modified, 1 added, 2 deleted; sorted by path."""
        record = self._parts.store.find(reference).record
        return await asyncio.to_thread(self._changes, record)

    def _changes(self, record: ContainerRecord) -> list[Json]:
        upper = os.open(self._parts.snapshots.upper(record.id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            assembly = self._parts.snapshots.assembly(record.id, record.layers)
            lower = self._parts.launcher.open_root(RootAssembly(layers=assembly.layers))
            try:
                found = without_places(changes_of(upper, lower), engine_places(record))
                return [{"Path": path, "Kind": kind} for path, kind in found]
            finally:
                os.close(lower)
        finally:
            os.close(upper)

    def export(self, reference: str) -> AsyncIterator[bytes]:
        """The container's whole root file system as a tar, without what is mounted in it."""
        record = self._parts.store.find(reference).record

        def work(write: Callable[[bytes], object]) -> None:
            root = self._assembled(record)
            try:
                write_tree(root, _Output(write))
            finally:
                os.close(root)

        self._parts.announce(record, "export")
        return streamed(work)


@contextmanager
def _acting_inside(options: ExtractOptions, ids: IdMaps | None) -> Iterator[ExtractOptions]:
    """In a root whose files are shown with mapped ids, only those can be given to a new file; other ids than the
    container's root's can't make one either."""
    if ids is None:
        yield options
        return
    with FilesystemIds(*ids.owner):
        yield msgspec.structs.replace(options, owners=ids.outside)


def _mount_of(points: Iterable[MountPoint]) -> MountPoint | None:
    """The innermost of mounts that all hold a path."""
    return max(points, key=lambda one: len(one.destination), default=None)


def check_writable(record: ContainerRecord, path: str) -> None:
    """Raises `Denied` where the container's configuration lets nobody write."""
    clean = absolute(path)
    points = (*record.mounts, *tmpfs_points(record.host))
    point = _mount_of(one for one in points if inside(clean, one.destination))
    if point is not None and not point.rw:
        raise Denied("mounted volume is marked read-only")
    if point is None and record.host.readonly_rootfs:
        raise Denied("container rootfs is marked read-only")


def engine_places(record: ContainerRecord) -> frozenset[str]:
    """Files and directories that the engine itself makes in the writable layer, to mount something there."""
    found = {"/.dockerenv", "/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
    found |= {"/dev/console", "/dev/shm", "/dev/pts", "/dev/mqueue"}
    found |= {point.destination for point in record.mounts}
    return frozenset(found | set(record.host.tmpfs or {}))


def without_places(changes: Sequence[tuple[str, int]], places: Collection[str]) -> list[tuple[str, int]]:
    """Without the engine's own places, and directories that changed only because of them."""
    kept = [(path, kind) for path, kind in changes if path not in places]
    parents = {posixpath.dirname(path) for path, _ in changes if path in places}
    while True:
        idle = {
            path
            for path, kind in kept
            if path in parents
            and kind == MODIFIED
            and not any(inside(one, path) for one, _ in kept if one != path)
        }
        if not idle:
            return kept
        kept = [(path, kind) for path, kind in kept if path not in idle]
        parents |= {posixpath.dirname(path) for path in idle}


def absolute(path: str) -> str:
    """Normalised, beginning with one slash; `..` can't lead above the root."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")


def _points_above(record: ContainerRecord, path: str) -> list[MountPoint]:
    """Mounts of host directories and volumes that `path` could be in."""
    clean = absolute(path)
    return [one for one in record.mounts if one.type in ("bind", "volume") and inside(clean, one.destination)]


def inside(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def go_mode(mode: int) -> int:
    """The bits of Go's os.FileMode."""
    found = mode & 0o777
    for check, bit in _GO_MODES:
        if check(mode):
            found |= bit
    for unix, bit in _GO_BITS:
        if mode & unix:
            found |= bit
    return found


def _open_source(point: MountPoint) -> int:
    if not point.within:
        return os.open(point.source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    top = os.open(point.within, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        inner = posixpath.relpath(point.source, point.within)
        return open_in_root(top, inner, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(top)


def _open(root: int, inner: str, flags: int, reference: str, path: str) -> int:
    with _told(reference, path):
        return open_in_root(root, inner, flags)


@contextmanager
def _told(reference: str, path: str) -> Iterator[None]:
    """What a path in a container leads to: also when it has changed since it was looked at, as containers go on."""
    try:
        yield
    except ConnectionError:
        raise  # the client has left
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise NotFound(f"Could not find the file {path} in container {reference}") from error
        raise Internal(f"{path} in container {reference}: {error.strerror}") from error
