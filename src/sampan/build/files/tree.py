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
from dataclasses import dataclass, field
from types import TracebackType

from sampan.build.errors import SourceChanged
from sampan.build.files.checksums import Checksums
from sampan.build.files.missing import OUTSIDE, hint_for
from sampan.build.files.scan import Entry, Scanner
from sampan.errors import Invalid, NotFound
from sampan.linux.paths import open_in_root
from sampan.oci.ignore import IgnoreRules, compile_match, has_wildcards

_NOT_FOUND = "file not found in build context or excluded by .dockerignore"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Selection:
    """A source that was found: where its root is in the tree, what it is called, what is in it."""

    location: str
    """Its resolved path in the tree ("" is the tree's root)."""
    asked: str
    """The path by which it was found: its last part is its name inside a directory."""
    entries: tuple[Entry, ...]

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
    checksums: Checksums = field(default_factory=Checksums)
    """Of the files' content: what this build knows, and for a context in place also what earlier ones knew."""
    scratch: str = ""
    """A directory for copies; empty: the system's for temporary files."""
    in_place: bool = False
    """Others may write to this tree: it is the client's own directory."""

    def select(self, source: str, exclude: Sequence[str] = ()) -> list[Selection]:
        """What `source` (a path or a pattern) names, sorted by path.

        Raises `NotFound` for a path that does not exist, `Invalid` for one that climbs out.
        """
        path = self._inside(source)
        below = _rules_of(exclude)
        if has_wildcards(path):
            found = [self._selection(match, below) for match in sorted(self._matches(path))]
            return [
                one
                for one in found
                if one.is_dir or not (below.excludes(one.name) or below.excludes(one.asked))
            ]
        try:
            return [self._selection(path, below)]
        except NotFound as error:
            if self.is_context and posixpath.normpath(source.lstrip("/")).startswith(".."):
                error.hint = OUTSIDE
            raise

    def select_parents(self, source: str, exclude: Sequence[str] = ()) -> list[Selection]:
        """What `COPY --parents` copies: directories with nothing in them but what matches, and the way to it.

        The way begins behind a `/./`, or at the tree's root. Patterns are those of `.dockerignore`, with `**`; links
        are not followed behind the beginning. Raises as `select` does; `NotFound` for no match of what is no pattern.
        """
        before, pivot, after = source.partition("/./")
        top, pattern = (before, after) if pivot else ("", source)
        top, pattern = self._inside(top or "."), self._inside(pattern or ".")
        tops = sorted(self._matches(top)) if has_wildcards(top) else [top]
        wanted = [f"!{_as_line(pattern)}", *exclude] if pattern else list(exclude)
        below = _rules_of(["**", *wanted] if pattern else wanted)
        found = [self._selection(path, below) for path in tops]
        if not has_wildcards(source) and all(len(selection.entries) == 1 for selection in found):
            raise self._missing(posixpath.join(top, pattern))
        return found

    def exactly(self, path: str) -> Selection:
        """What stands at a path in which no character is a pattern. Raises as `select` does."""
        return self._selection(self._inside(path), IgnoreRules())

    def hides(self, path: str) -> bool:
        """Whether the ignore file leaves something out of what stands at a path. Raises as `exactly` does."""
        if not self.rules:
            return False
        whole = Tree(self.fd, IgnoreRules(), is_context=False).exactly(path)
        return len(whole.entries) != len(self.exactly(path).entries)

    def open(self, selection: Selection, entry: Entry, flags: int = os.O_RDONLY) -> int:
        """A descriptor of the entry itself; symbolic links on the way stay inside the tree."""
        path = posixpath.join(selection.location, entry.path) if entry.path else selection.location
        return open_in_root(self.fd, path or ".", flags | os.O_NOFOLLOW | os.O_CLOEXEC)

    def mtime_of(self, entry: Entry) -> int:
        """Nanoseconds. Whole seconds for a context's file, as a tar has them."""
        return max(entry.mtime_ns, 0) // 10**9 * 10**9 if self.is_context else entry.mtime_ns

    def changed(self, selection: Selection, entry: Entry) -> SourceChanged:
        return SourceChanged(posixpath.join(selection.location, entry.path).rstrip("/"))

    def _inside(self, source: str) -> str:
        """A path that climbs out of the tree ends at its root, as BuildKit has it."""
        return posixpath.normpath("/" + source).lstrip("/")

    def _selection(self, path: str, below: IgnoreRules) -> Selection:
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
        flags = _DIRECTORY if is_dir else os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = open_in_root(self.fd, location or ".", flags)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceChanged(path) from error
        scanner = Scanner(location, self.rules, below, is_context=self.is_context)
        return Selection(location, path, tuple(scanner.scan(fd, info)))

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
        return NotFound(
            f"{words}: stat {path}: file does not exist", hint=hint_for(self.fd, path, self.rules)
        )


def _rules_of(patterns: Sequence[str]) -> IgnoreRules:
    """Of patterns that do not come from a file: a `#` begins no comment."""
    return IgnoreRules("\n".join(f"\\{text}" if text.startswith("#") else text for text in patterns))


def _as_line(pattern: str) -> str:
    """A pattern as a line of an ignore file. Raises `Invalid` for one that can't be."""
    if "\n" in pattern or pattern != pattern.strip():
        raise Invalid(f"{pattern!r} can't be copied with its parents: a pattern of one line is wanted")
    return pattern


class Opener:
    """Opens a selection's entries for reading, in their order: each directory is resolved once. Closed at the end."""

    def __init__(self, tree: Tree, selection: Selection) -> None:
        self._tree = tree
        self._selection = selection
        self._parent: str | None = None
        self._fd = -1

    def open(self, entry: Entry) -> int:
        """Raises `SourceChanged` when something else is there now."""
        parent, _, name = entry.path.rpartition("/")
        try:
            if not self._selection.is_dir:
                return self._tree.open(self._selection, entry, os.O_RDONLY | os.O_NONBLOCK)
            if parent != self._parent:
                self.close()
                self._fd = open_in_root(
                    self._tree.fd, posixpath.join(self._selection.location, parent) or ".", _DIRECTORY
                )
                self._parent = parent
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                raise
            raise self._tree.changed(self._selection, entry) from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._parent = -1, None

    def __enter__(self) -> Opener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
