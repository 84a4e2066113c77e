"""Files of a tree written into the root of a snapshot.

Destinations are resolved inside the root (`openat2` with RESOLVE_IN_ROOT): a symbolic link of the image never
leads to the host.
"""

from __future__ import annotations

import os
import posixpath
import stat
import threading
from dataclasses import dataclass, field

from sampan.build.errors import BuildCancelled
from sampan.build.files.scan import Entry, Xattrs
from sampan.build.files.transfer import Transfer
from sampan.build.files.tree import Opener, Selection, Tree
from sampan.build.modes import ModeChange
from sampan.errors import Invalid
from sampan.linux.paths import change_mode, mkdirs_in_root, open_in_root

_MAX_LINKS = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Ownership:
    """What `--chown` and `--chmod` change; None keeps what the source has."""

    owner: tuple[int, int] | None = None
    mode: ModeChange | None = None

    def of(self, entry: Entry) -> tuple[int, int]:
        return self.owner or (entry.uid, entry.gid)

    @property
    def directory_mode(self) -> int:
        """Of directories that are made on the way: BuildKit gives them what `--chmod` says in digits."""
        digits = None if self.mode is None else self.mode.absolute
        return 0o755 if digits is None else digits & 0o777

    def mode_of(self, entry: Entry) -> int:
        return self.mode_from(stat.S_IMODE(entry.mode), is_dir=stat.S_ISDIR(entry.mode))

    def mode_from(self, mode: int, *, is_dir: bool = False) -> int:
        """The permission bits of what would have `mode` without `--chmod`."""
        return mode if self.mode is None else self.mode.apply(mode, is_dir=is_dir)


class RootWriter:
    """Writes below the directory descriptor `root_fd`, which stays the caller's.

    Directories that it makes or puts something in have the time of writing until `settle`.
    """

    def __init__(self, root_fd: int, cancelled: threading.Event) -> None:
        self._root = root_fd
        self._cancelled = cancelled
        self._transfer = Transfer(cancelled)
        self._touched: dict[str, None] = {}

    def require_wanted(self) -> None:
        """Raises `BuildCancelled` when it was."""
        if self._cancelled.is_set():
            raise BuildCancelled

    def resolve(self, path: str) -> tuple[str, os.stat_result | None]:
        """`path` with all its symbolic links followed inside the root, and what is there (None: nothing).

        A link to a file, or to nothing, resolves to what it points to, so that a file written there appears behind
        the link; the path of a directory may still lead through links.
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
                found = os.fstat(fd)
            finally:
                os.close(fd)
            target = None if stat.S_ISDIR(found.st_mode) else self._link_target(path)
            if target is None:
                return path, found
            path = target
        raise Invalid(f"too many symbolic links in the image: {path}")

    def make_directory(self, path: str, owner: tuple[int, int] = (0, 0), mode: int = 0o755) -> None:
        """`mkdir -p`; what exists is left as it is."""
        self._touched.update(dict.fromkeys(self._missing(path)))
        try:
            os.close(mkdirs_in_root(self._root, path, mode, *owner))
        except (NotADirectoryError, FileExistsError) as error:
            raise Invalid(f"cannot copy to non-directory: {path}") from error

    def touch(self, path: str) -> None:
        """Something was put into that directory by other means."""
        self._touched[path] = None

    def settle(self, time_ns: int) -> None:
        """Every directory that has the time of writing gets this one: equal work gives equal bytes."""
        for path in self._touched:
            fd = open_in_root(self._root, path or "/", _DIRECTORY)
            try:
                os.utime(fd, ns=(time_ns, time_ns))
            finally:
                os.close(fd)
        self._touched.clear()

    def write_file(self, path: str, source: int, mode: int, ownership: Ownership, mtime: float) -> None:
        """A regular file with the content behind the descriptor `source`; `mode` is what `--chmod` changes.

        `mtime` is Unix time.
        """
        parent_fd, name = self._parent(path, ownership)
        mode, owner = ownership.mode_from(mode), ownership.owner or (0, 0)
        try:
            fd = self._create(parent_fd, name, path)
            try:
                self._transfer.copy(source, fd)
                _finish(fd, mode, owner, (), int(mtime * 1e9))
            finally:
                os.close(fd)
        finally:
            os.close(parent_fd)

    def copy(self, tree: Tree, selection: Selection, destination: str, ownership: Ownership) -> None:
        """A directory's contents go below `destination`; anything else becomes `destination`.

        Raises `SourceChanged` when a file of a context is no longer what was hashed.
        """
        with Opener(tree, selection) as opener:
            work = _Copying(tree, selection, ownership, opener)
            if selection.is_dir:
                self.make_directory(destination, ownership.owner or (0, 0), ownership.directory_mode)
                self._copy_contents(work, destination)
                return
            parent_fd, name = self._parent(destination, ownership)
            try:
                self._copy_one(work, selection.entries[0], parent_fd, name, destination)
            finally:
                os.close(parent_fd)

    def _copy_contents(self, work: _Copying, top: str) -> None:
        """Entries come parents first; a directory's times are set after all of its contents are written."""
        open_path, parent_fd = top, open_in_root(self._root, top, _DIRECTORY)
        times: list[tuple[str, int]] = []
        undated = {top}
        try:
            for entry in work.selection.entries[1:]:
                destination = posixpath.join(top, entry.path)
                parent, name = posixpath.split(destination)
                if parent != open_path:
                    os.close(parent_fd)
                    parent_fd = -1
                    parent_fd = open_in_root(self._root, parent, _DIRECTORY)
                    open_path = parent
                made = self._copy_one(work, entry, parent_fd, name, destination)
                if made and parent in undated:
                    self.touch(parent)
                if made and stat.S_ISDIR(entry.mode):
                    times.append((destination, work.tree.mtime_of(entry)))
                elif not made:
                    undated.add(destination)
            for path, mtime in reversed(times):
                fd = open_in_root(self._root, path, _DIRECTORY)
                os.utime(fd, ns=(mtime, mtime))
                os.close(fd)
        finally:
            if parent_fd >= 0:
                os.close(parent_fd)

    def _copy_one(self, work: _Copying, entry: Entry, parent_fd: int, name: str, destination: str) -> bool:
        """Whether something was made or changed (a link to a directory is left as it is)."""
        self.require_wanted()
        owner, mtime = work.ownership.of(entry), work.tree.mtime_of(entry)
        if stat.S_ISREG(entry.mode):
            self._copy_file(work, entry, parent_fd, name, destination)
            return True
        if stat.S_ISDIR(entry.mode):
            return self._copy_directory(work, entry, parent_fd, name, destination)
        self._clear(parent_fd, name, destination)
        if stat.S_ISLNK(entry.mode):
            os.symlink(entry.target, name, dir_fd=parent_fd)
            os.chown(name, *owner, dir_fd=parent_fd, follow_symlinks=False)
        else:
            os.mknod(name, stat.S_IFMT(entry.mode) | 0o600, entry.device, dir_fd=parent_fd)
            os.chown(name, *owner, dir_fd=parent_fd, follow_symlinks=False)
            change_mode(parent_fd, name, work.ownership.mode_of(entry))
        os.utime(name, ns=(mtime, mtime), dir_fd=parent_fd, follow_symlinks=False)
        return True

    def _copy_directory(
        self, work: _Copying, entry: Entry, parent_fd: int, name: str, destination: str
    ) -> bool:
        """One that exists takes over the source's attributes. A link to one is followed: `/lib` of a merged /usr."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        except FileExistsError:
            _, found = self.resolve(destination)
            if found is None or not stat.S_ISDIR(found.st_mode):
                raise Invalid(f"cannot copy to non-directory: {destination}") from None
            if stat.S_ISLNK(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
                return False
            os.chown(name, *work.ownership.of(entry), dir_fd=parent_fd, follow_symlinks=False)
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd)
        try:
            work.finish(fd, entry)
        finally:
            os.close(fd)
        return True

    def _copy_file(self, work: _Copying, entry: Entry, parent_fd: int, name: str, destination: str) -> None:
        if entry.links > 1:
            first = work.links.setdefault(entry.inode, destination)
            if first != destination:
                self._clear(parent_fd, name, destination)
                self._link(first, parent_fd, name)
                return
        source = work.opener.open(entry)
        try:
            target = self._create(parent_fd, name, destination)
            try:
                self._transfer.copy_entry(work.tree, work.selection, entry, source, target)
                work.finish(target, entry)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _create(self, parent_fd: int, name: str, destination: str) -> int:
        """A new file in place of whatever is there and no directory."""
        try:
            return os.open(name, _NEW_FILE, 0o600, dir_fd=parent_fd)
        except FileExistsError:
            self._clear(parent_fd, name, destination)
            return os.open(name, _NEW_FILE, 0o600, dir_fd=parent_fd)

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

    def _parent(self, path: str, ownership: Ownership) -> tuple[int, str]:
        parent, name = posixpath.split(path)
        if not name:
            raise Invalid(f"cannot copy to directory: {path}")
        self.make_directory(parent or "/", ownership.owner or (0, 0), ownership.directory_mode)
        self.touch(parent)
        return open_in_root(self._root, parent or "/", _DIRECTORY), name

    def _missing(self, path: str) -> list[str]:
        """Of a path that is not there what is missing, from its end, and the directory that this will be made in."""
        found: list[str] = []
        while True:
            try:
                os.close(open_in_root(self._root, path or "/", os.O_PATH | os.O_CLOEXEC))
            except (FileNotFoundError, NotADirectoryError):
                found.append(path)
                path = posixpath.dirname(path.rstrip("/"))
            else:
                return [*found, path] if found else []

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


@dataclass(frozen=True, slots=True)
class _Copying:
    """One selection on its way."""

    tree: Tree
    selection: Selection
    ownership: Ownership
    opener: Opener
    links: dict[tuple[int, int], str] = field(default_factory=dict)
    """Where the first name of a file with several has become what."""

    def finish(self, fd: int, entry: Entry) -> None:
        mtime_ns = self.tree.mtime_of(entry)
        _finish(fd, self.ownership.mode_of(entry), self.ownership.of(entry), entry.xattrs, mtime_ns)


def _finish(fd: int, mode: int, owner: tuple[int, int], xattrs: Xattrs, mtime_ns: int) -> None:
    """The order matters: changing the owner drops set-id bits and capabilities."""
    if owner != (0, 0) or os.geteuid() != 0:
        os.fchown(fd, *owner)
    os.fchmod(fd, mode)
    for name, value in xattrs:
        os.setxattr(fd, name, value)
    os.utime(fd, ns=(mtime_ns, mtime_ns))
