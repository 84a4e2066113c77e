"""The entries of a source, as one pass over its directories finds them.

One descriptor per directory and one stat per name: a context of 20,000 files is scanned at every build.
"""

from __future__ import annotations

import os
import posixpath
import stat

import msgspec

from sampan.build.errors import SourceChanged
from sampan.errors import Invalid
from sampan.oci.ignore import IgnoreRules

MAX_ENTRIES = 2_000_000
MAX_DEPTH = 512
ROOT_MODE = 0o755
"""Of a context's own directory, as steps see it that mount the context."""
_KEPT_XATTRS = ("user.", "security.capability")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTEXT_TYPES = frozenset((stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR))

Xattrs = tuple[tuple[str, bytes], ...]


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file as it lies in the tree. `path` is relative to the selected source; "" is the source itself."""

    path: str
    mode: int
    """Type and permission bits."""
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    device: int
    dev: int
    ino: int
    links: int
    target: str = ""
    xattrs: Xattrs = ()

    @property
    def inode(self) -> tuple[int, int]:
        return self.dev, self.ino

    def is_still(self, info: os.stat_result) -> bool:
        """Whether a file with this status is the same with the same content: every write changes its ctime."""
        return (
            info.st_ctime_ns == self.ctime_ns
            and info.st_size == self.size
            and info.st_ino == self.ino
            and info.st_mtime_ns == self.mtime_ns
            and info.st_dev == self.dev
        )


class Scanner:
    """`location` is the source's place in the tree, which `rules` count from; `below` count from the source.

    In a context owners do not count, and neither do extended attributes: it gives what a tar of it would. Its own
    directory has `ROOT_MODE` there, wherever it was and whoever made it.
    """

    def __init__(self, location: str, rules: IgnoreRules, below: IgnoreRules, *, is_context: bool) -> None:
        self._location = location
        self._rules = rules
        self._below = below
        self._is_context = is_context
        self._unfiltered = not rules and not below
        self._pending: list[Entry] = []
        self.entries: list[Entry] = []

    def scan(self, fd: int, info: os.stat_result) -> list[Entry]:
        """The source behind `fd` and everything in it, parents before children, each directory sorted by name.

        Closes `fd`. Raises `Invalid`, `SourceChanged`.
        """
        is_dir = stat.S_ISDIR(info.st_mode)
        attributes = () if is_dir or self._is_context else _read_xattrs(f"/proc/self/fd/{fd}")
        if not is_dir:
            os.close(fd)
        self.entries.append(self._entry("", info, "", attributes))
        if is_dir:
            self._directory(fd, "", 0)
        return self.entries

    def _directory(self, fd: int, base: str, depth: int) -> None:
        """Closes `fd`."""
        try:
            if depth > MAX_DEPTH:
                raise Invalid(f"directories are nested deeper than {MAX_DEPTH}: {base[:200]}...")
            with os.scandir(fd) as found:
                items = [(item.name, item) for item in found]
            items.sort(key=_name_of)
            if len(self.entries) + len(items) > MAX_ENTRIES:
                raise Invalid(f"the source has more than {MAX_ENTRIES} files")
            prefix = base + "/" if base else ""
            for name, item in items:
                path = prefix + name
                try:
                    info = item.stat(follow_symlinks=False)
                    if stat.S_ISDIR(info.st_mode):
                        self._subdirectory(fd, name, path, info, depth)
                    else:
                        self._file(fd, name, path, info)
                except (FileNotFoundError, NotADirectoryError) as error:
                    raise SourceChanged(posixpath.join(self._location, path)) from error
        finally:
            os.close(fd)

    def _subdirectory(self, fd: int, name: str, path: str, info: os.stat_result, depth: int) -> None:
        """An ignored directory exists only for what a later `!` brings back in it."""
        entry = self._entry(path, info, "", self._xattrs_at(fd, name))
        if self._unfiltered:
            self.entries.append(entry)
            self._directory(os.open(name, _DIRECTORY, dir_fd=fd), path, depth + 1)
            return
        full = posixpath.join(self._location, path)
        if self._rules.prunes(full) or self._below.prunes(path):
            return
        if self._rules.excludes(full) or self._below.excludes(path):
            self._pending.append(entry)
        else:
            self._include(entry)
        self._directory(os.open(name, _DIRECTORY, dir_fd=fd), path, depth + 1)
        if self._pending and self._pending[-1] is entry:
            self._pending.pop()

    def _file(self, fd: int, name: str, path: str, info: os.stat_result) -> None:
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFSOCK:
            return
        if not self._unfiltered and (
            self._rules.excludes(posixpath.join(self._location, path)) or self._below.excludes(path)
        ):
            return
        if self._is_context and kind not in _CONTEXT_TYPES:
            raise Invalid(f"build context entry {path!r}: device nodes and fifos are not accepted here")
        target = os.readlink(name, dir_fd=fd) if kind == stat.S_IFLNK else ""
        attributes = self._xattrs_at(fd, name) if kind == stat.S_IFREG else ()
        self._include(self._entry(path, info, target, attributes))

    def _include(self, entry: Entry) -> None:
        if self._pending:
            self.entries += self._pending
            self._pending.clear()
        self.entries.append(entry)

    def _entry(self, path: str, info: os.stat_result, target: str, xattrs: Xattrs) -> Entry:
        return Entry(
            path,
            info.st_mode if path or self._location or not self._is_context else stat.S_IFDIR | ROOT_MODE,
            0 if self._is_context else info.st_uid,
            0 if self._is_context else info.st_gid,
            info.st_size,
            info.st_mtime_ns,
            info.st_ctime_ns,
            info.st_rdev,
            info.st_dev,
            info.st_ino,
            info.st_nlink,
            target,
            xattrs,
        )

    def _xattrs_at(self, fd: int, name: str) -> Xattrs:
        return () if self._is_context else _read_xattrs(f"/proc/self/fd/{fd}/{name}")


def _name_of(item: tuple[str, object]) -> str:
    return item[0]


def _read_xattrs(path: str) -> Xattrs:
    try:
        names = os.listxattr(path, follow_symlinks=True)
    except OSError:
        return ()  # a file system without extended attributes
    return tuple((name, os.getxattr(path, name)) for name in sorted(names) if name.startswith(_KEPT_XATTRS))
