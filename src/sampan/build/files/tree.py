"""A tree of files to copy from (the context, a stage, an image) and what a COPY selects in it.

Everything is reached from a directory descriptor and resolved inside it: a symbolic link that points out of
the tree ends at the tree's root, as after a chroot.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from sampan.errors import Invalid, NotFound
from sampan.linux.paths import open_in_root
from sampan.oci.ignore import IgnoreRules, compile_match, has_wildcards

MAX_ENTRIES = 2_000_000
MAX_DEPTH = 512
_KEPT_XATTRS = ("user.", "security.capability")
_NOT_FOUND = "file not found in build context or excluded by .dockerignore"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file as it lies in the tree. `path` is relative to the selected source; "" is the source itself."""

    path: str
    mode: int
    """Type and permission bits."""
    uid: int
    gid: int
    size: int
    mtime_ns: int
    device: int
    inode: tuple[int, int]
    links: int
    target: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """A source that was found: where its root is in the tree, what it is called, what is in it."""

    location: str
    """Its resolved path in the tree ("" is the tree's root)."""
    asked: str
    """The path by which it was found: its last part is its name inside a directory."""
    entries: tuple[Entry, ...]
    kept: str = ""
    """The path that `COPY --parents` keeps."""

    @property
    def name(self) -> str:
        return posixpath.basename(self.asked)

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.entries[0].mode)


@dataclass(slots=True)
class Tree:
    """`fd` stays the caller's. `is_context`: owners do not count there, and ignore rules apply."""

    fd: int
    rules: IgnoreRules
    is_context: bool
    hashes: dict[tuple[int, int], str] = field(default_factory=dict)
    """SHA-256 of files' content by (device, inode), for the time of one build."""

    def select(self, source: str, exclude: Sequence[str] = ()) -> list[Selection]:
        """What `source` (a path or a pattern) names, sorted by path.

        Raises `NotFound` for a path that does not exist, `Invalid` for one that climbs out.
        """
        path = self._inside(source)
        if has_wildcards(path):
            return [self._selection(found, exclude) for found in sorted(self._matches(path))]
        return [self._selection(path, exclude)]

    def exactly(self, path: str) -> Selection:
        """What stands at a path in which no character is a pattern. Raises as `select` does."""
        return self._selection(self._inside(path), ())

    def open(self, selection: Selection, entry: Entry, flags: int = os.O_RDONLY) -> int:
        """A descriptor of the entry itself; symbolic links on the way stay inside the tree."""
        path = posixpath.join(selection.location, entry.path) if entry.path else selection.location
        return open_in_root(self.fd, path or ".", flags | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _inside(self, source: str) -> str:
        path = posixpath.normpath(source.lstrip("/") or ".")
        if path == ".." or path.startswith("../"):
            if self.is_context:
                raise Invalid(f"forbidden path outside the build context: {source} ()")
            path = posixpath.normpath("/" + path).lstrip("/") or "."
        return "" if path == "." else path

    def _selection(self, path: str, exclude: Sequence[str]) -> Selection:
        """The source's own last link is followed; it keeps the name that was asked for."""
        try:
            fd = open_in_root(self.fd, path or ".", os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._missing(path) from error
        except OSError as error:
            raise Invalid(f"cannot read {path!r}: {error.strerror}") from error
        try:
            location = self._location_of(fd)
            info = os.fstat(fd)
        finally:
            os.close(fd)
        is_dir = stat.S_ISDIR(info.st_mode)
        for checked in {path, location} - {""}:
            if self.rules.prunes(checked) if is_dir else self.rules.excludes(checked):
                raise self._missing(path)
        below = IgnoreRules("\n".join(exclude))
        entries = tuple(_scan(self.fd, location, info, self.rules, below, self.is_context))
        return Selection(location, path, entries)

    def _location_of(self, fd: int) -> str:
        """The path below the root of the file behind `fd`.

        The kernel's names of both are compared: they belong to one mount, so one is the other's prefix.
        """
        root = os.readlink(f"/proc/self/fd/{self.fd}").rstrip("/")
        full = os.readlink(f"/proc/self/fd/{fd}")
        if full != root and not full.startswith(root + "/"):
            raise Invalid("the build context was moved while it was read")
        return full[len(root) :].lstrip("/")

    def _matches(self, pattern: str) -> Iterator[str]:
        """Paths that match, found part by part, so that only directories that can matter are read.

        Links are followed in the part before the first wildcard only, as Docker does.
        """
        parts = pattern.split("/")
        first = next(index for index, part in enumerate(parts) if has_wildcards(part))
        found = ["/".join(parts[:first])]
        for part in parts[first:]:
            found = [
                path for base in found for path in self._children(base, part, follow=part is parts[first])
            ]
        yield from found

    def _children(self, base: str, part: str, *, follow: bool) -> list[str]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        matcher = compile_match(part)
        try:
            fd = open_in_root(self.fd, base or ".", flags)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            if error.errno == errno.ELOOP:
                return []
            raise
        try:
            names = [name for name in os.listdir(fd) if matcher.fullmatch(name)]
        finally:
            os.close(fd)
        paths = [posixpath.join(base, name) for name in names]
        return [path for path in paths if not self.rules.excludes(path) or not self.rules.prunes(path)]

    def _missing(self, path: str) -> NotFound:
        words = _NOT_FOUND if self.is_context else "file not found"
        return NotFound(f"{words}: stat {path}: file does not exist")


def _scan(
    root_fd: int,
    location: str,
    info: os.stat_result,
    rules: IgnoreRules,
    below: IgnoreRules,
    is_context: bool,
) -> Iterator[Entry]:
    """The source and everything in it, parents before children, each directory sorted by name."""
    top = _entry("", info, "", (), is_context)
    if not stat.S_ISDIR(info.st_mode):
        fd = open_in_root(root_fd, location, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield replace(top, xattrs=_xattrs(fd))
        finally:
            os.close(fd)
        return
    yield top
    count = 0
    pending: list[Entry] = []
    fd = open_in_root(root_fd, location or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for entry in _walk(fd, location, "", rules, below, is_context, 0):
        count += 1
        if count > MAX_ENTRIES:
            raise Invalid(f"the source has more than {MAX_ENTRIES} files")
        # An ignored directory exists only for what a later `!` brings back in it.
        pending = [parent for parent in pending if entry.path.startswith(parent.path + "/")]
        path = posixpath.join(location, entry.path)
        if rules.excludes(path) or below.excludes(entry.path):
            if stat.S_ISDIR(entry.mode):
                pending.append(entry)
            continue
        yield from pending
        pending = []
        yield entry


def _walk(
    fd: int, location: str, base: str, rules: IgnoreRules, below: IgnoreRules, is_context: bool, depth: int
) -> Iterator[Entry]:
    """Closes `fd`."""
    if depth > MAX_DEPTH:
        os.close(fd)
        raise Invalid(f"directories are nested deeper than {MAX_DEPTH}: {base[:200]}...")
    try:
        for name in sorted(os.listdir(fd)):
            path = f"{base}/{name}" if base else name
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISSOCK(info.st_mode):
                continue
            if not stat.S_ISDIR(info.st_mode):
                target = os.readlink(name, dir_fd=fd) if stat.S_ISLNK(info.st_mode) else ""
                yield _entry(path, info, target, _xattrs_at(fd, name, info), is_context)
                continue
            full = posixpath.join(location, path)
            if rules.prunes(full) or below.prunes(path):
                continue
            yield _entry(path, info, "", _xattrs_at(fd, name, info), is_context)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            child = os.open(name, flags, dir_fd=fd)
            yield from _walk(child, location, path, rules, below, is_context, depth + 1)
    finally:
        os.close(fd)


def _entry(
    path: str, info: os.stat_result, target: str, xattrs: tuple[tuple[str, bytes], ...], is_context: bool
) -> Entry:
    return Entry(
        path,
        info.st_mode,
        0 if is_context else info.st_uid,
        0 if is_context else info.st_gid,
        info.st_size,
        info.st_mtime_ns,
        info.st_rdev,
        (info.st_dev, info.st_ino),
        info.st_nlink,
        target,
        xattrs,
    )


def _xattrs_at(fd: int, name: str, info: os.stat_result) -> tuple[tuple[str, bytes], ...]:
    if not stat.S_ISREG(info.st_mode) and not stat.S_ISDIR(info.st_mode):
        return ()
    return _read_xattrs(f"/proc/self/fd/{fd}/{name}")


def _xattrs(fd: int) -> tuple[tuple[str, bytes], ...]:
    return _read_xattrs(f"/proc/self/fd/{fd}")


def _read_xattrs(path: str) -> tuple[tuple[str, bytes], ...]:
    try:
        names = os.listxattr(path)
    except OSError:
        return ()  # a file system without extended attributes
    return tuple((name, os.getxattr(path, name)) for name in sorted(names) if name.startswith(_KEPT_XATTRS))
