"""A tree copied beside itself, contents shared where the file system can; the copied tree may change meanwhile."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sampan.engine.copy_tree import FICLONE, copy_content
from sampan.engine.volume_backup.room import check_room
from sampan.engine.volume_backup.walk import (
    Found,
    kind_of,
    node_xattrs,
    open_file,
    read_target,
    read_xattrs,
    walk,
)

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def shares_contents(directory: Path) -> bool:
    """Whether the file system there can give two files one content (ioctl_ficlone(2)): a copy takes no time then."""
    with tempfile.TemporaryFile(dir=directory) as first, tempfile.TemporaryFile(dir=directory) as second:
        first.write(bytes(4096))
        first.flush()
        try:
            fcntl.ioctl(second.fileno(), FICLONE, first.fileno())
        except OSError:
            return False
        return True


def clone_tree(
    source: int,
    target: int,
    *,
    vanished: Callable[[bytes], object] = lambda _path: None,
    progress: Callable[[int], object] = lambda _size: None,
    look: Callable[[], object] = lambda: None,
) -> None:
    """Copy what is in the directory `source` into the empty directory `target`, and the directory's own attributes.

    vanished: told what was removed meanwhile. progress: bytes of files that are done. look: called now and then, and
    may raise. Sockets are left out. Raises OSError, `Invalid`, `Unavailable` (no room).
    """
    copy = _Cloning(target, progress, look)
    try:
        for found in walk(source, vanished):
            try:
                copy.entry(found)
            except FileNotFoundError:
                vanished(found.path)
        copy.finish()
    finally:
        copy.close()


class _Cloning:
    def __init__(self, target: int, progress: Callable[[int], object], look: Callable[[], object]) -> None:
        self._target = target
        self._progress = progress
        self._look = look
        self._stack: list[tuple[bytes, int, os.stat_result, dict[bytes, bytes]]] = []
        self._links: dict[tuple[int, int], bytes] = {}
        self._size = 0

    def close(self) -> None:
        for _, descriptor, _, _ in self._stack:
            if descriptor != self._target:
                os.close(descriptor)

    def finish(self) -> None:
        while self._stack:
            self._leave()

    def entry(self, found: Found) -> None:
        self._look()
        if not found.path:
            self._stack.append((b"", self._target, found.status, read_xattrs(found.descriptor)))
            return
        above, _, name = found.path.rpartition(b"/")
        while self._stack[-1][0] != above:
            self._leave()
        parent, status = self._stack[-1][1], found.status
        kind = kind_of(status)
        if kind is None:
            return
        if kind == "dir":
            xattrs = read_xattrs(found.descriptor)
            os.mkdir(name, 0o700, dir_fd=parent)
            descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
            self._stack.append((found.path, descriptor, status, xattrs))
            return
        if self._linked(status, parent, name):
            return
        if kind == "file":
            self._file(found, parent, name)
        elif kind == "symlink":
            os.symlink(read_target(found), name, dir_fd=parent)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=parent, follow_symlinks=False)
            times = (status.st_atime_ns, status.st_mtime_ns)
            os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
        else:
            os.mknod(name, stat.S_IFMT(status.st_mode) | 0o600, status.st_rdev, dir_fd=parent)
            made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                _dress(f"/proc/self/fd/{made}", status, node_xattrs(found))
            finally:
                os.close(made)
        if status.st_nlink > 1:
            self._links[status.st_dev, status.st_ino] = found.path

    def _linked(self, status: os.stat_result, parent: int, name: bytes) -> bool:
        """Another name of a file that was copied already."""
        first = self._links.get((status.st_dev, status.st_ino))
        if status.st_nlink < 2 or first is None:
            return False
        # Nobody but us is in the new tree: a path in it is what it was.
        os.link(first, name, src_dir_fd=self._target, dst_dir_fd=parent, follow_symlinks=False)
        return True

    def _file(self, found: Found, parent: int, name: bytes) -> None:
        source = open_file(found)
        try:
            target = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
            try:
                copy_content(source, target, lambda size: check_room(target, size), self._copied)
                _dress(target, os.fstat(source), read_xattrs(source))
            finally:
                os.close(target)
        finally:
            os.close(source)
        self._size += found.status.st_size
        self._progress(self._size)

    def _copied(self, position: int) -> None:
        """One file can be most of a volume."""
        self._look()
        self._progress(self._size + position)

    def _leave(self) -> None:
        _, descriptor, status, xattrs = self._stack.pop()
        try:
            _dress(descriptor, status, xattrs)
        finally:
            if descriptor != self._target:
                os.close(descriptor)


def _dress(target: int | str, status: os.stat_result, xattrs: dict[bytes, bytes]) -> None:
    """Owner first: changing it clears the set-id bits and the capabilities."""
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for name, value in xattrs.items():
        os.setxattr(target, name, value)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
