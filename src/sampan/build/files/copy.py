"""Files of a tree written into the root of a snapshot.

Destinations are resolved inside the root (`openat2` with RESOLVE_IN_ROOT): a symbolic link of the image never
leads to the host. Content moves without passing through Python where the kernel can (reflink,
copy_file_range).
"""

from __future__ import annotations

import errno
import fcntl
import os
import posixpath
import stat
import threading
from dataclasses import dataclass

from sampan.build.errors import BuildCancelled
from sampan.build.files.tree import Entry, Selection, Tree
from sampan.build.modes import ModeChange
from sampan.errors import Invalid
from sampan.linux.paths import change_mode, mkdirs_in_root, open_in_root

_FICLONE = 0x40049409
"""ioctl of linux/fs.h: share the source's blocks."""
_CHUNK = 16 << 20
_MAX_LINKS = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Ownership:
    """What `--chown` and `--chmod` change; None keeps what the source has."""

    owner: tuple[int, int] | None = None
    mode: ModeChange | None = None

    def of(self, entry: Entry) -> tuple[int, int]:
        return self.owner or (entry.uid, entry.gid)

    def mode_of(self, entry: Entry) -> int:
        return self.mode_from(stat.S_IMODE(entry.mode), is_dir=stat.S_ISDIR(entry.mode))

    def mode_from(self, mode: int, *, is_dir: bool = False) -> int:
        """The permission bits of what would have `mode` without `--chmod`."""
        return mode if self.mode is None else self.mode.apply(mode, is_dir=is_dir)


class RootWriter:
    """Writes below the directory descriptor `root_fd`, which stays the caller's."""

    def __init__(self, root_fd: int, cancelled: threading.Event) -> None:
        self._root = root_fd
        self._cancelled = cancelled
        self.written = 0

    def resolve(self, path: str) -> tuple[str, os.stat_result | None]:
        """`path` with all its symbolic links followed inside the root, and what is there (None: nothing).

        A dangling link resolves to what it points to, so that a file written there appears behind the link.
        """
        for _ in range(_MAX_LINKS):
            try:
                fd = open_in_root(self._root, path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                target = self._link_target(path)
                if target is None:
                    return path, None
                path = target
                continue
            except NotADirectoryError as error:
                raise Invalid(f"cannot copy to non-directory: {posixpath.dirname(path)}") from error
            except OSError as error:
                raise Invalid(f"cannot resolve {path!r} in the image: {error.strerror}") from error
            try:
                return path, os.fstat(fd)
            finally:
                os.close(fd)
        raise Invalid(f"too many symbolic links in the image: {path}")

    def make_directory(self, path: str, owner: tuple[int, int] = (0, 0)) -> None:
        """`mkdir -p` with mode 0755; what exists is left as it is."""
        try:
            os.close(mkdirs_in_root(self._root, path, 0o755, *owner))
        except (NotADirectoryError, FileExistsError) as error:
            raise Invalid(f"cannot copy to non-directory: {path}") from error

    def write_file(self, path: str, source: int, mode: int, owner: tuple[int, int], mtime: float) -> None:
        """A regular file with the content behind the descriptor `source`; `mtime` is Unix time."""
        parent_fd, name = self._parent(path, owner)
        try:
            self._clear(parent_fd, name, path)
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent_fd)
            try:
                self.written += _transfer(source, fd, self._cancelled)
                _finish(fd, mode, owner, (), int(mtime * 1e9))
            finally:
                os.close(fd)
        finally:
            os.close(parent_fd)

    def copy(self, tree: Tree, selection: Selection, destination: str, ownership: Ownership) -> None:
        """A directory's contents go below `destination`; anything else becomes `destination`."""
        if not selection.is_dir:
            parent_fd, name = self._parent(destination, ownership.owner or (0, 0))
            try:
                self._copy_one(
                    tree, selection, selection.entries[0], parent_fd, name, destination, ownership, {}
                )
            finally:
                os.close(parent_fd)
            return
        self.make_directory(destination, ownership.owner or (0, 0))
        self._copy_contents(tree, selection, destination, ownership)

    def _copy_contents(self, tree: Tree, selection: Selection, top: str, ownership: Ownership) -> None:
        """Entries come parents first; a directory's times are set after all of its contents are written."""
        links: dict[tuple[int, int], str] = {}
        open_path, parent_fd = top, open_in_root(self._root, top, _DIRECTORY)
        times: list[tuple[str, int]] = []
        try:
            for entry in selection.entries[1:]:
                destination = posixpath.join(top, entry.path)
                parent, name = posixpath.split(destination)
                if parent != open_path:
                    os.close(parent_fd)
                    parent_fd = -1
                    parent_fd = open_in_root(self._root, parent, _DIRECTORY)
                    open_path = parent
                made = self._copy_one(tree, selection, entry, parent_fd, name, destination, ownership, links)
                if made and stat.S_ISDIR(entry.mode):
                    times.append((destination, entry.mtime_ns))
            for path, mtime in reversed(times):
                fd = open_in_root(self._root, path, _DIRECTORY)
                os.utime(fd, ns=(mtime, mtime))
                os.close(fd)
        finally:
            if parent_fd >= 0:
                os.close(parent_fd)

    def _copy_one(
        self,
        tree: Tree,
        selection: Selection,
        entry: Entry,
        parent_fd: int,
        name: str,
        destination: str,
        ownership: Ownership,
        links: dict[tuple[int, int], str],
    ) -> bool:
        """Whether something was made (an existing directory is entered and left as it is)."""
        if self._cancelled.is_set():
            raise BuildCancelled
        owner = ownership.of(entry)
        if stat.S_ISDIR(entry.mode):
            return self._copy_directory(entry, parent_fd, name, destination, ownership)
        self._clear(parent_fd, name, destination)
        if stat.S_ISREG(entry.mode):
            if entry.links > 1:
                first = links.setdefault(entry.inode, destination)
                if first != destination:
                    self._link(first, parent_fd, name)
                    return True
            self._copy_file(tree, selection, entry, parent_fd, name, ownership)
        elif stat.S_ISLNK(entry.mode):
            os.symlink(entry.target, name, dir_fd=parent_fd)
            os.chown(name, *owner, dir_fd=parent_fd, follow_symlinks=False)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent_fd, follow_symlinks=False)
        else:
            os.mknod(name, stat.S_IFMT(entry.mode) | 0o600, entry.device, dir_fd=parent_fd)
            os.chown(name, *owner, dir_fd=parent_fd, follow_symlinks=False)
            change_mode(parent_fd, name, ownership.mode_of(entry))
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent_fd, follow_symlinks=False)
        return True

    def _copy_directory(
        self, entry: Entry, parent_fd: int, name: str, destination: str, ownership: Ownership
    ) -> bool:
        """A link to a directory that stands there already is followed: `/lib` of a merged-usr image."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        except FileExistsError:
            _, found = self.resolve(destination)
            if found is None or not stat.S_ISDIR(found.st_mode):
                raise Invalid(f"cannot copy to non-directory: {destination}") from None
            return False
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd)
        try:
            _finish(fd, ownership.mode_of(entry), ownership.of(entry), entry.xattrs, entry.mtime_ns)
        finally:
            os.close(fd)
        return True

    def _copy_file(
        self, tree: Tree, selection: Selection, entry: Entry, parent_fd: int, name: str, ownership: Ownership
    ) -> None:
        source = tree.open(selection, entry)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(name, flags, 0o600, dir_fd=parent_fd)
            try:
                self.written += _transfer(source, target, self._cancelled)
                _finish(target, ownership.mode_of(entry), ownership.of(entry), entry.xattrs, entry.mtime_ns)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _link(self, first: str, parent_fd: int, name: str) -> None:
        directory_fd = open_in_root(self._root, posixpath.dirname(first), _DIRECTORY)
        try:
            os.link(
                posixpath.basename(first),
                name,
                src_dir_fd=directory_fd,
                dst_dir_fd=parent_fd,
                follow_symlinks=False,
            )
        finally:
            os.close(directory_fd)

    def _clear(self, parent_fd: int, name: str, destination: str) -> None:
        """Make room for something that is no directory."""
        try:
            os.unlink(name, dir_fd=parent_fd)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError) as error:
            raise Invalid(f"cannot copy to directory: {destination}") from error

    def _parent(self, path: str, owner: tuple[int, int]) -> tuple[int, str]:
        parent, name = posixpath.split(path)
        if not name:
            raise Invalid(f"cannot copy to directory: {path}")
        self.make_directory(parent or "/", owner)
        return open_in_root(self._root, parent or "/", _DIRECTORY), name

    def _link_target(self, path: str) -> str | None:
        parent, name = posixpath.split(path)
        try:
            fd = open_in_root(self._root, parent or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            target = os.readlink(name, dir_fd=fd)
        except OSError:
            return None
        finally:
            os.close(fd)
        return posixpath.normpath(posixpath.join(parent, target))


def _finish(
    fd: int, mode: int, owner: tuple[int, int], xattrs: tuple[tuple[str, bytes], ...], mtime_ns: int
) -> None:
    """The order matters: changing the owner drops set-id bits and capabilities."""
    if owner != (0, 0) or os.geteuid() != 0:
        os.fchown(fd, *owner)
    os.fchmod(fd, mode)
    for name, value in xattrs:
        os.setxattr(fd, name, value)
    os.utime(fd, ns=(mtime_ns, mtime_ns))


def _transfer(source: int, target: int, cancelled: threading.Event) -> int:
    """Bytes copied."""
    size = os.fstat(source).st_size
    if size >= 1 << 16:
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError:
            pass  # another file system, or one without reflinks
        else:
            return size
    return _stream(source, target, cancelled)


def _stream(source: int, target: int, cancelled: threading.Event) -> int:
    total = 0
    while True:
        if cancelled.is_set():
            raise BuildCancelled
        try:
            count = os.copy_file_range(source, target, _CHUNK)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF):
                raise
            count = os.sendfile(target, source, None, _CHUNK)
        if count == 0:
            return total
        total += count
