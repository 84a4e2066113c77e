"""A commit's files written into an empty directory, by descriptor and by our own hands.

A repository is a stranger's: names are checked, nothing that exists is replaced, no link is followed, no hook, filter
or attribute is looked at, and all of it is bounded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sampan.build.errors import BuildCancelled
from sampan.errors import Invalid, NotFound

if TYPE_CHECKING:
    from sampan.build.fetch.git_pack import ObjectReader

MAX_ENTRIES = 1_000_000
MAX_DEPTH = 200
MAX_BYTES = 32 << 30
_MAX_LINK = 4095
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KIND, _TREE, _LINK, _MODULE, _FILE = 0o170000, 0o040000, 0o120000, 0o160000, 0o100000


@dataclass(frozen=True, slots=True)
class Written:
    """A file or link that was written: its path from the repository's root."""

    path: str
    mode: int
    object_id: str


@dataclass(slots=True)
class Total:
    """Of a repository with all of its submodules."""

    count: int = 0
    size: int = 0


@dataclass(slots=True)
class Checkout:
    """`module(path, id, descriptor, depth)` fills the directory of a submodule; None: they stay empty.

    `time` (Unix) is given to all that is written; None leaves the time of writing.
    """

    objects: ObjectReader
    cancelled: threading.Event
    time: int | None = None
    module: Callable[[str, str, int, int], None] | None = None
    files: list[Written] = field(default_factory=list)
    total: Total = field(default_factory=Total)

    def write(self, tree: str, directory: int, path: str = "", depth: int = 0) -> None:
        """The tree with that id into the directory behind the descriptor. Raises `Invalid`."""
        if depth > MAX_DEPTH:
            raise Invalid(f"the git repository is nested deeper than {MAX_DEPTH}")
        for raw, mode, object_id in self.objects.entries(tree):
            if self.cancelled.is_set():
                raise BuildCancelled
            self.total.count += 1
            if self.total.count > MAX_ENTRIES:
                raise Invalid(f"the git repository has more than {MAX_ENTRIES} files")
            name = checked_name(raw)
            try:
                self._entry(name, mode, object_id, directory, f"{path}/{name}" if path else name, depth)
            except FileExistsError as error:
                raise Invalid(f"the git repository has two files called {path}/{name}") from error
        self._stamp(directory)

    def _entry(self, name: str, mode: int, object_id: str, directory: int, path: str, depth: int) -> None:
        kind = mode & _KIND
        if kind in (_TREE, _MODULE):
            os.mkdir(name, 0o755, dir_fd=directory)
            inner = os.open(name, _DIRECTORY, dir_fd=directory)
            try:
                os.fchmod(inner, 0o755)
                if kind == _TREE:
                    self.write(object_id, inner, path, depth + 1)
                elif self.module is not None:
                    self.module(path, object_id, inner, depth + 1)
            finally:
                os.close(inner)
            if kind == _MODULE:
                self.files.append(Written(path, _MODULE, object_id))
            return
        if kind == _LINK:
            self._link(name, object_id, directory)
        elif kind == _FILE:
            self._file(name, 0o755 if mode & 0o100 else 0o644, object_id, directory)
        else:
            raise Invalid(f"the git repository has a file of unknown kind: {path} ({mode:o})")
        normal = _LINK if kind == _LINK else _FILE | (0o755 if mode & 0o100 else 0o644)
        self.files.append(Written(path, normal, object_id))

    def _file(self, name: str, permissions: int, object_id: str, directory: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, permissions, dir_fd=directory)
        with os.fdopen(fd, "wb") as file:
            for piece in self.objects.blob(object_id):
                self.total.size += len(piece)
                if self.total.size > MAX_BYTES:
                    raise Invalid(f"the git repository's files are larger than {MAX_BYTES} bytes")
                file.write(piece)
            file.flush()
            os.fchmod(fd, permissions)
            self._stamp(fd)

    def _link(self, name: str, object_id: str, directory: int) -> None:
        target = b"".join(self.objects.blob(object_id))
        if not target or len(target) > _MAX_LINK or b"\0" in target:
            raise Invalid(f"the git repository has a symbolic link that is none: {name}")
        os.symlink(target, os.fsencode(name), dir_fd=directory)
        if self.time is not None:
            os.utime(name, (self.time, self.time), dir_fd=directory, follow_symlinks=False)

    def _stamp(self, fd: int) -> None:
        if self.time is not None:
            os.utime(fd, (self.time, self.time))


def subtree(objects: ObjectReader, tree: str, subdir: str) -> str:
    """The id of the tree at `subdir`. Raises `NotFound`; `Invalid` when the way there is a link."""
    for part in subdir.split("/") if subdir else ():
        found = {os.fsdecode(raw): (mode, object_id) for raw, mode, object_id in objects.entries(tree)}
        mode, tree = found.get(part, (0, ""))
        if mode & _KIND == _LINK:
            raise Invalid(f"subdirectory {subdir!r} of the git repository is or passes a symbolic link")
        if mode & _KIND != _TREE:
            raise NotFound(f"subdirectory {subdir!r} is not in the git repository")
    return tree


def checked_name(raw: bytes) -> str:
    """One path component that can't lead anywhere. Raises `Invalid`."""
    if raw in (b"", b".", b"..") or b"/" in raw or b"\0" in raw or raw.lower() == b".git" or len(raw) > 255:
        raise Invalid(f"the git repository has a file with an unsafe name: {raw[:64]!r}")
    return os.fsdecode(raw)
