"""The driver `local`: a volume is the directory `<name>/_data` below the engine's `volumes`."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from sampan.engine.model import VolumeRecord, new_id
from sampan.engine.volumes.local_mounts import is_mounted, mount_volume, unmount_all
from sampan.engine.volumes.local_options import check_options, local_mount, quota_of
from sampan.engine.volumes.sizes import directory_size
from sampan.errors import Conflict, Invalid, Unsupported
from sampan.linux import project_quota
from sampan.linux.exchange import exchange
from sampan.linux.mountinfo import mounted_below
from sampan.storage.removal import remove_tree

log = logging.getLogger(__name__)

DATA = "_data"
SNAPSHOTS = "_snapshots"
_ANONYMOUS = re.compile("[0-9a-f]{64}")
_FIRST_PROJECT = 0x5A000000
"""Far from the small numbers that people give to projects."""


class LocalDriver:
    """A name with a dot before it is no volume: something that is being made, or removed."""

    name = "local"
    scope = "local"

    def __init__(self, root: Path) -> None:
        """`root` is the `volumes` directory (made when missing)."""
        root.mkdir(parents=True, exist_ok=True, mode=0o701)
        # As the mount table has it: without symbolic links.
        self._root = root.resolve()
        self._projects = threading.Lock()

    def sweep(self, names: Iterable[str], known: Collection[str]) -> list[str]:
        """What was being made or removed when the engine died goes. Returns those of `names` that are gone with it.

        `known`: of which there are records. A volume is removed by renaming its directory to a name with a dot before
        the record goes; a plain directory without a record is left alone, because it may hold data. Only an empty one
        that has an anonymous volume's name goes: nobody will ever ask for it.
        """
        for entry in self._root.iterdir():
            if entry.name.startswith("."):
                if mounted_below(str(entry)):
                    log.warning("something is mounted in %s, what is left of a volume: it stays", entry)
                    continue
                try:
                    remove_tree(entry)
                except OSError as error:  # a file that a container has made immutable, say
                    log.warning("%s, what is left of a volume, can't be removed: %s", entry, error)
            elif entry.name not in known and _ANONYMOUS.fullmatch(entry.name):
                self._gone_if_empty(entry)
        return [name for name in names if not (self._root / name).is_dir()]

    def check(self, name: str, options: Mapping[str, str]) -> None:
        check_options(name, options)
        if quota_of(name, options) and not self._limits_projects():
            raise Invalid(
                f"create {name}: quota size requested but no quota support",
                hint=f"{self._root} has to be on XFS mounted with pquota, or on ext4 that has the feature project "
                "and is mounted with prjquota; on Linux 5.14 or later",
            )

    def _limits_projects(self) -> bool:
        with self._opened() as directory:
            return project_quota.enforced(directory)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        directory = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield directory
        finally:
            os.close(directory)

    def create(self, record: VolumeRecord) -> None:
        directory = self._root / record.name
        self._make(directory)
        size = quota_of(record.name, record.options or {})
        if size:
            self._limit(directory / DATA, size)

    @staticmethod
    def _make(directory: Path) -> None:
        (directory / DATA).mkdir(parents=True, exist_ok=True, mode=0o755)
        os.chmod(directory, 0o701)

    def _limit(self, data: Path, size: int) -> None:
        """Give the directory a project that nobody has, with this limit in bytes."""
        with self._projects, self._opened() as directory:
            project = project_quota.project_of(data)
            if not project:
                project = _FIRST_PROJECT
                # An engine with another root may be on this file system too.
                while any(project_quota.usage(directory, project)):
                    project += 1
            project_quota.set_limit(directory, project, size)
            project_quota.set_project(data, project)

    def remove(self, record: VolumeRecord) -> Callable[[], None]:
        """Out of sight by one rename; the rest is the slow part, which a crash leaves to `sweep`."""
        place = self._root / record.name
        if self.needs_mount(record):
            unmount_all(str(place))
        left = mounted_below(str(place))
        if left:
            raise Conflict(
                f"remove {record.name}: volume is in use: something is mounted at {left[0]}",
                hint=f"umount {left[0]}",
            )
        doomed = self._hidden(record.name)
        project = self._project(record)
        try:
            os.rename(place, doomed)
        except FileNotFoundError:
            return lambda: None
        return lambda: self._finish_removal(doomed, project)

    def _project(self, record: VolumeRecord) -> int:
        """The project that limits it, 0 for none."""
        if not quota_of(record.name, record.options or {}):
            return 0
        try:
            return project_quota.project_of(self.path(record))
        except OSError:
            return 0  # it is gone, or the file system is not what it was

    def _finish_removal(self, doomed: Path, project: int) -> None:
        remove_tree(doomed)
        if project:
            with self._opened() as directory:
                project_quota.set_limit(directory, project, 0)

    def stage(self, record: VolumeRecord) -> Path:
        """A directory for the data of a volume that is to appear complete; see `publish`, `discard`."""
        staged = self._hidden(record.name)
        self._make(staged)
        return staged

    def publish(self, staged: Path, record: VolumeRecord) -> None:
        """What was staged is the volume's directory now, by one rename, and on the disk. There is none of it yet.

        Raises `Conflict` when there is a directory that belongs to no volume.
        """
        place = self._root / record.name
        try:
            os.rename(staged, place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise Conflict(
                f"create {record.name}: {place} is there and belongs to no volume",
                hint="move it away if you need what is in it, else remove it",
            ) from error
        _flush(self._root)

    @staticmethod
    def _gone_if_empty(place: Path) -> bool:
        """A directory of no volume that holds nothing: an engine died between making it and writing its record."""
        try:
            if os.listdir(place) != [DATA]:
                return False
            os.rmdir(place / DATA)
            os.rmdir(place)
        except OSError:  # there is something in it, or mounted on it
            return False
        return True

    def check_free(self, name: str) -> None:
        """Raises `Conflict` when there is a directory of this name, which then belongs to no volume."""
        place = self._root / name
        if place.exists() and not self._gone_if_empty(place):
            raise Conflict(
                f"{place} is there and belongs to no volume",
                hint="move it away if you need what is in it, else remove it",
            )

    def rename(self, name: str, new: str) -> None:
        """Nothing happens when it has happened already."""
        try:
            os.rename(self._root / name, self._root / new)
        except FileNotFoundError:
            if not (self._root / new).is_dir():
                raise

    def snapshots(self, name: str) -> int:
        """How many there are (`volume_backup.snapshots` makes them)."""
        try:
            return len(os.listdir(self._root / name / SNAPSHOTS))
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def snapshots_size(self, name: str) -> int:
        return directory_size(self._root / name / SNAPSHOTS)

    def exchange(self, staged: Path, record: VolumeRecord) -> None:
        """The staged data and the volume's change places, by one step. Raises `Unsupported` where that can't be."""
        try:
            exchange(staged / DATA, self.path(record))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            raise Unsupported(f"the file system of {self._root} can't exchange directories") from error

    def flush(self, record: VolumeRecord) -> None:
        """An exchange is on the disk."""
        _flush(self._root / record.name)

    def discard(self, staged: Path) -> None:
        remove_tree(staged)

    def _hidden(self, name: str) -> Path:
        # Not the name itself: with it and more it could be longer than a file's name can be.
        return self._root / f".{name[:200]}.{new_id()[:8]}"

    def needs_mount(self, record: VolumeRecord) -> bool:
        return local_mount(record.options or {}) is not None

    def mount(self, record: VolumeRecord, user: str) -> Path:
        """Made by the first user. An engine that died has left it for us."""
        place = self.path(record)
        wanted = local_mount(record.options or {})
        if wanted is not None and not is_mounted(str(place)):
            mount_volume(wanted, str(place))
        return place

    def unmount(self, record: VolumeRecord, user: str, *, last: bool) -> None:
        if last and self.needs_mount(record):
            unmount_all(str(self.path(record)))

    def path(self, record: VolumeRecord) -> Path:
        return self._root / record.name / DATA

    def size(self, record: VolumeRecord) -> int:
        """Not of what is on a server, which may take its time, and not of what is not mounted."""
        path = self.path(record)
        wanted = local_mount(record.options or {})
        if wanted is not None and (wanted.is_remote or not is_mounted(str(path))):
            return -1
        return directory_size(path)


def _flush(directory: Path) -> None:
    """Its own entries are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
