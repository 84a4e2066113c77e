"""A directory tree copied below another directory, by descriptors: owners, modes, times, xattrs, links, devices.

No name is resolved through a symbolic link, so that neither tree can lead out of itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable

from sampan.linux.paths import RESOLVE_NO_SYMLINKS, change_mode, open_in_root, open_regular

MAX_DEPTH = 256
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 16 * 1024 * 1024
_SMALL = 128 * 1024
FICLONE = 0x40049409
"""ioctl_ficlonerange(2)."""
_NO_CLONING = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EBADF, errno.EPERM}
)


def is_empty(directory: int) -> bool:
    """Whether the directory has no entry."""
    return not os.listdir(directory)


def copy_tree(source: int, target: int) -> None:
    """Copy what is in the directory `source` into the directory `target`, and the directory's own attributes.

    Both are directory descriptors that can be read (not O_PATH). Raises `OSError`, also for directories nested deeper
    than `MAX_DEPTH`; what was copied stays then.
    """
    _Copy(target).directory(source, target, ())


class _Copy:
    """`links`: of files with several names, where the first of them was copied to."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._links: dict[tuple[int, int], tuple[str, ...]] = {}

    def directory(self, source: int, target: int, path: tuple[str, ...]) -> None:
        if len(path) > MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, "directories are nested too deeply")
        for name in sorted(os.listdir(source)):
            info = os.lstat(name, dir_fd=source)
            if stat.S_ISDIR(info.st_mode):
                self._inner(source, target, name, path)
            elif not self._linked(info, name, target):
                _copy_entry(source, target, name, info)
                if info.st_nlink > 1:
                    self._links[info.st_dev, info.st_ino] = (*path, name)
        _copy_attributes(source, target)

    def _inner(self, source: int, target: int, name: str, path: tuple[str, ...]) -> None:
        os.mkdir(name, 0o700, dir_fd=target)
        inner_source = os.open(name, _DIRECTORY, dir_fd=source)
        try:
            inner_target = os.open(name, _DIRECTORY, dir_fd=target)
            try:
                self.directory(inner_source, inner_target, (*path, name))
            finally:
                os.close(inner_target)
        finally:
            os.close(inner_source)

    def _linked(self, info: os.stat_result, name: str, target: int) -> bool:
        """Make a hard link if another name of this file was copied before."""
        first = self._links.get((info.st_dev, info.st_ino))
        if first is None:
            return False
        parent = open_in_root(
            self._top, "/".join(first[:-1]) or ".", os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_NO_SYMLINKS
        )
        try:
            os.link(first[-1], name, src_dir_fd=parent, dst_dir_fd=target, follow_symlinks=False)
        finally:
            os.close(parent)
        return True


def _copy_entry(source: int, target: int, name: str, info: os.stat_result) -> None:
    if stat.S_ISREG(info.st_mode):
        _copy_file(source, target, name)
        return
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, info.st_mode, info.st_rdev, dir_fd=target)
    os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(info.st_mode):
        # The volume may be another container's already.
        change_mode(target, name, stat.S_IMODE(info.st_mode))
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, target: int, name: str) -> None:
    read = open_regular(source, name)
    try:
        write = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target
        )
        try:
            copy_content(read, write)
            _copy_attributes(read, write)
        finally:
            os.close(write)
    finally:
        os.close(read)


def copy_content(
    source: int,
    target: int,
    room: Callable[[int], object] = lambda _size: None,
    progress: Callable[[int], object] = lambda _position: None,
) -> None:
    """Give the empty file `target` the content of the file `source`: shared with it until one of them is written
    where the file system can do that (btrfs, XFS), holes left as they are elsewhere. `room` is told how many bytes
    that takes if they can't be shared, before it does; `progress` then how far it is, now and then. Raises OSError,
    and what these two raise."""
    status = os.fstat(source)
    if not status.st_size and not status.st_blocks:
        return
    try:
        fcntl.ioctl(target, FICLONE, source)
        return
    except OSError as error:
        if error.errno not in _NO_CLONING:
            raise
    room(status.st_blocks * 512)
    size, position = status.st_size, 0
    if size <= min(_SMALL, status.st_blocks * 512):
        # No holes: two calls instead of six.
        data = os.pread(source, size, 0)
        if len(data) == size and os.write(target, data) == size:
            return
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
            end = os.lseek(source, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole to its end
                break
            if error.errno != errno.EINVAL:
                raise
            start, end = position, size  # the file system knows of no holes
        position = _copy_range(source, target, start, end, progress)
        if position < end:
            break  # it became shorter meanwhile
    os.ftruncate(target, max(size, position))


def _copy_range(source: int, target: int, start: int, end: int, progress: Callable[[int], object]) -> int:
    """How far it got."""
    os.lseek(target, start, os.SEEK_SET)
    while start < end:
        count = os.sendfile(target, source, start, min(end - start, _CHUNK))
        if not count:
            break
        start += count
        progress(start)
    return start


def _copy_attributes(source: int, target: int) -> None:
    info = os.fstat(source)
    # The owner first: changing it clears the set-user-ID bits.
    os.fchown(target, info.st_uid, info.st_gid)
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    for name in os.listxattr(source):
        if name.startswith("trusted.overlay."):
            continue
        try:
            os.setxattr(target, name, os.getxattr(source, name))
        except OSError as error:
            # A file system may not have the attribute's kind (security labels on tmpfs, for one).
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))
