"""File trees as plain values, for comparing what different tools made of the same input.

A tree is read from a directory, or made by applying layers' tars one after another, by the rules of the OCI
image-spec (layer.md) alone: nothing of the engine's own storage is used, so that it can judge that.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_CHUNK = 1 << 20
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_TAR_KINDS = {
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "link",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}
_XATTR = "SCHILY.xattr."


@dataclass(frozen=True)
class Inode:
    """What stat, getxattr and read say of a file.

    `content`: SHA-256 of a file's content, a symlink's target, `major:minor` of a device. `mtime`: nanoseconds.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int = 0
    content: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Tree:
    """`inodes` by number, and which number each path (relative to the top, `.` for the top) leads to."""

    paths: dict[str, int]
    inodes: dict[int, Inode]

    def __getitem__(self, path: str) -> Inode:
        return self.inodes[self.paths[path]]

    @property
    def entries(self) -> dict[str, Inode]:
        return {path: self.inodes[number] for path, number in self.paths.items()}

    @property
    def hard_links(self) -> frozenset[frozenset[str]]:
        """The sets of paths that lead to one inode, where there are several."""
        names: dict[int, set[str]] = {}
        for path, number in self.paths.items():
            names.setdefault(number, set()).add(path)
        return frozenset(frozenset(group) for group in names.values() if len(group) > 1)

    def in_seconds(self) -> Tree:
        """Times cut to whole seconds, as most layers have them."""
        second = 1_000_000_000
        cut = {
            number: replace(each, mtime=each.mtime // second * second) for number, each in self.inodes.items()
        }
        return Tree(self.paths, cut)

    def below(self, directory: str) -> dict[str, Inode]:
        return {path: each for path, each in self.entries.items() if path.startswith(f"{directory}/")}


def differences(expected: Tree, given: Tree) -> list[str]:
    """A line for each path that is missing, additional or different, and for each hard link."""
    found = []
    theirs, ours = expected.entries, given.entries
    for path in sorted(theirs.keys() | ours.keys()):
        if path not in ours:
            found.append(f"{path!r} is missing: {theirs[path]}")
        elif path not in theirs:
            found.append(f"{path!r} is additional: {ours[path]}")
        elif theirs[path] != ours[path]:
            found.append(f"{path!r}: {theirs[path]} != {ours[path]}")
    for text, groups in (
        ("only expected", expected.hard_links - given.hard_links),
        ("only given", given.hard_links - expected.hard_links),
    ):
        found += [f"hard links {text}: {sorted(group)}" for group in groups]
    return found


def tree_of_directory(top: Path) -> Tree:
    """Everything below `top`, and `top` itself."""
    paths: dict[str, int] = {}
    inodes: dict[int, Inode] = {}
    numbers: dict[tuple[int, int], int] = {}
    for path, name in _walk(top):
        status = os.lstat(path)
        # Directories of an overlay may share numbers with files of other layers.
        key = (status.st_dev, status.st_ino) if not stat.S_ISDIR(status.st_mode) else (-1, len(paths))
        number = numbers.setdefault(key, len(numbers))
        paths[name] = number
        if number not in inodes:
            inodes[number] = _inode(path, status)
    return Tree(paths, inodes)


def _walk(top: Path) -> Iterator[tuple[str, str]]:
    """(path, path relative to the top) of all."""
    pending = [(str(top), ".")]
    while pending:
        path, name = pending.pop()
        yield path, name
        if stat.S_ISDIR(os.lstat(path).st_mode):
            pending += [
                (f"{path}/{entry}", entry if name == "." else f"{name}/{entry}") for entry in os.listdir(path)
            ]


def _inode(path: str, status: os.stat_result) -> Inode:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    content = ""
    if kind == "file":
        with open(path, "rb") as file:
            content = _digest(file)
    elif kind == "link":
        content = os.readlink(path)
    elif kind in ("char", "block"):
        content = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    names = sorted(
        name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith("trusted.overlay.")
    )
    return Inode(
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        content,
        tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names),
    )


def _digest(file: IO[bytes]) -> str:
    found = hashlib.sha256()
    while piece := file.read(_CHUNK):
        found.update(piece)
    return found.hexdigest()


class LayeredTree:
    """What layers' tars applied in order give, each by `apply`."""

    def __init__(self, start: Tree | None = None) -> None:
        self._paths = dict(start.paths) if start else {}
        self._inodes = dict(start.inodes) if start else {}
        self._next = max(self._inodes, default=-1) + 1

    @property
    def tree(self) -> Tree:
        there = set(self._paths.values())
        return Tree(
            dict(self._paths), {number: each for number, each in self._inodes.items() if number in there}
        )

    def apply(self, archive: tarfile.TarFile) -> None:
        """A whiteout hides what the layers before had; it does not matter where in the archive it stands."""
        own: set[str] = set()
        for member in archive:
            name = os.path.normpath(member.name.lstrip("/") or ".")
            directory, _, last = name.rpartition("/")
            if last == _OPAQUE:
                self._remove_below(directory or ".", own)
            elif last.startswith(_WHITEOUT):
                hidden = last.removeprefix(_WHITEOUT)
                self._remove(f"{directory}/{hidden}" if directory else hidden, own)
            else:
                self._add(archive, member, name)
                own.add(name)

    def _add(self, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> None:
        self._imply(os.path.dirname(name))
        old = self._paths.get(name)
        if member.islnk():
            target = self._paths[os.path.normpath(member.linkname.lstrip("/"))]
            if target != old:
                self._remove(name, set())
                self._paths[name] = target
            return
        new = inode_of_member(archive, member)
        if old is not None and self._inodes[old].kind == new.kind == "dir":
            self._inodes[old] = new
            return
        self._remove(name, set())
        self._put(name, new)

    def _imply(self, directory: str) -> None:
        """Parents that no archive names."""
        if directory and directory not in self._paths:
            self._imply(os.path.dirname(directory))
            self._put(directory, Inode("dir", 0o755, 0, 0))

    def _put(self, name: str, inode: Inode) -> None:
        self._paths[name] = self._next
        self._inodes[self._next] = inode
        self._next += 1

    def _remove(self, path: str, own: set[str]) -> None:
        number = self._paths.get(path)
        if number is None:
            return
        if path not in own:
            del self._paths[path]
        if self._inodes[number].kind == "dir":
            self._remove_below(path, own)

    def _remove_below(self, path: str, own: set[str]) -> None:
        start = "" if path == "." else f"{path}/"
        for each in [
            each for each in self._paths if each.startswith(start) and each != "." and each not in own
        ]:
            del self._paths[each]


def inode_of_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Inode:
    """Times as exact as the archive has them."""
    kind = _TAR_KINDS.get(member.type, "file")
    content = ""
    if kind == "file":
        file = archive.extractfile(member)
        content = _digest(file) if file is not None else ""
    elif kind == "link":
        content = member.linkname
    elif kind in ("char", "block"):
        content = f"{member.devmajor}:{member.devminor}"
    xattrs = sorted(
        (key.removeprefix(_XATTR), value.encode("utf-8", "surrogateescape"))
        for key, value in member.pax_headers.items()
        if key.startswith(_XATTR)
    )
    mode = 0o777 if kind == "link" else member.mode & 0o7777
    return Inode(kind, mode, member.uid, member.gid, _nanoseconds(member), content, tuple(xattrs))


def _nanoseconds(member: tarfile.TarInfo) -> int:
    """From the record itself: as a float it would lose its last digits."""
    text = member.pax_headers.get("mtime")
    if text is None:
        return int(member.mtime) * 1_000_000_000
    whole, _, fraction = text.lstrip("-").partition(".")
    value = int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, "0") or 0)
    return -value if text.startswith("-") else value
