"""Making a volume's tree of a backup's entries.

Every entry's directory is on a stack of open descriptors: no path is looked up, no link followed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sampan.engine.volume_backup.format import BASE, DATA, DEPTH_MAX, ENTRIES_MAX, SIZE_MAX, Entry, piece_mark
from sampan.engine.volume_backup.members import KINDS, described, relative, shown, times
from sampan.engine.volume_backup.own_manifest import OwnManifest
from sampan.engine.volume_backup.reuse import Bases, link_or_copy
from sampan.engine.volume_backup.room import check_room
from sampan.engine.volume_backup.walk import SMALL, open_below
from sampan.errors import Invalid
from sampan.storage import tar_format as tf
from sampan.storage.tar_format import Member
from sampan.storage.tar_reader import TarReader

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SUCH_ATTRIBUTE: Final = frozenset({errno.ENOTSUP, errno.EPERM, errno.EINVAL, errno.ENODATA})
_TAKEN: Final = (b"user.", b"trusted.", b"security.capability", b"system.posix_acl_")
_NODES: Final = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK}


@dataclass(frozen=True, slots=True)
class Limits:
    """size: bytes of the volume's files. devices: device nodes are made (0:0, overlayfs's whiteout, always is)."""

    size: int = SIZE_MAX
    entries: int = ENTRIES_MAX
    devices: bool = False


@dataclass(slots=True)
class _Open:
    """A directory on the stack: it gets its attributes when all is in it."""

    path: bytes
    descriptor: int
    entry: Entry
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Placing:
    def __init__(
        self,
        root: int,
        manifest: OwnManifest,
        bases: Bases | None,
        digests: dict[bytes, Entry] | None,
        limits: Limits,
        progress: Callable[[int, int], object],
    ) -> None:
        """`root`: the volume's directory, which is empty. The others as `reading.unpack` has them."""
        self._root = root
        self._manifest = manifest
        self._bases = bases
        self._digests = digests
        self._limits = limits
        self._progress = progress
        self._stack: list[_Open] = []
        self._entries = self._size = 0
        self.total = 0
        """Bytes of files, as the backup says; 0 when it says nothing."""
        self.incremental = False
        """The backup has files of its base."""
        self.lost = 0
        """Attributes that this file system does not take."""

    def close(self) -> None:
        for one in self._stack:
            if one.descriptor != self._root:
                os.close(one.descriptor)

    def place(self, path: bytes, member: Member, reader: TarReader) -> None:
        """An entry by its path in the volume, b"" for the volume's directory. Raises `Invalid`, OSError, …"""
        self._entries += 1
        if self._entries > self._limits.entries:
            raise Invalid(f"the backup has more than {self._limits.entries} entries")
        if self._entries % 16384 == 0:
            check_room(self._root)
        if not path:
            self._top(member)
            return
        parent, name = self._parent(path)
        if member.type == tf.DIRECTORY:
            self._directory(parent, path, name, member)
        elif member.type == tf.HARD_LINK:
            self._linked(parent, path, name, member)
        elif member.type == tf.REGULAR:
            self._file(parent, path, name, member, reader)
        elif member.type == tf.SYMLINK:
            os.symlink(member.link, name, dir_fd=parent)
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
            os.utime(name, ns=times(member), dir_fd=parent, follow_symlinks=False)
            self._manifest.add(described(path, member, target=member.link, mode=0))
        elif member.type in KINDS:
            self._node(parent, path, name, member)
        else:
            raise Invalid(f"{shown(path)}: a backup has no entries of type {member.type!r}")

    def leave_all(self) -> None:
        """Directories get their attributes when all is in them. Raises `Invalid` when there was nothing."""
        if not self._stack:
            raise Invalid("the backup has no entries")
        while self._stack:
            self._leave()

    def _top(self, member: Member) -> None:
        if self._stack or member.type != tf.DIRECTORY:
            raise Invalid("the backup has its top directory twice, or something else there")
        entry = described(b"", member)
        self._stack.append(_Open(b"", self._root, entry, member.xattrs or {}))
        self._manifest.add(entry)

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        """The open directory of the entry, and its name: the archive's order is the tree's."""
        above, _, name = path.rpartition(b"/")
        while self._stack and self._stack[-1].path != above:
            self._leave()
        if not self._stack:
            raise Invalid(
                f"{shown(path)}: the backup is not in order, its directory does not stand before it"
            )
        return self._stack[-1].descriptor, name

    def _leave(self) -> None:
        one = self._stack.pop()
        try:
            self._attributes(one.descriptor, one.entry, one.xattrs)
        finally:
            if one.descriptor != self._root:
                os.close(one.descriptor)

    def _directory(self, parent: int, path: bytes, name: bytes, member: Member) -> None:
        if len(self._stack) >= DEPTH_MAX:
            raise Invalid(f"the backup's directories are nested more than {DEPTH_MAX} deep")
        os.mkdir(name, 0o700, dir_fd=parent)
        entry = described(path, member)
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        self._stack.append(_Open(path, descriptor, entry, member.xattrs or {}))
        self._manifest.add(entry)

    def _file(self, parent: int, path: bytes, name: bytes, member: Member, reader: TarReader) -> None:
        self._count(member.size)
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            sha256 = _write_sparse(descriptor, member, reader) if member.sparse is not None else ""
            sha256 = sha256 or self._write(descriptor, member, reader)
            self._tell()
            entry = described(path, member, size=member.size, sha256=sha256, sparse=member.sparse is not None)
            self._attributes(descriptor, entry, member.xattrs or {})
        finally:
            os.close(descriptor)
        self._known(path, entry)

    def _write(self, descriptor: int, member: Member, reader: TarReader) -> str:
        if member.stored <= SMALL:
            data = reader.read()
            _write_all(descriptor, memoryview(data))
            return hashlib.sha256(data).hexdigest()
        hashed = hashlib.sha256()
        left = member.stored
        while left:
            piece = reader.take()
            left -= len(piece)
            self._tell(left)
            hashed.update(piece)
            _write_all(descriptor, piece)
        return hashed.hexdigest()

    def _linked(self, parent: int, path: bytes, name: bytes, member: Member) -> None:
        if member.link.startswith(BASE + b"/"):
            self._from_base(parent, path, name, member)
            return
        target = relative(member.link, DATA)
        above, _, last = target.rpartition(b"/")
        if not target:
            raise Invalid(f"{shown(path)}: a hard link to a directory")
        try:
            directory = open_below(self._root, above, os.O_PATH | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Invalid(f"{shown(path)}: a hard link to what the backup has not") from error
        try:
            mode = os.stat(last, dir_fd=directory, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                raise Invalid(f"{shown(path)}: a hard link to a directory")
            os.link(last, name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError as error:
            raise Invalid(f"{shown(path)}: a hard link to what the backup has not") from error
        finally:
            os.close(directory)
        # The kind stands for itself: its attributes are the first name's.
        entry = described(path, member, target=target)
        self._manifest.add(
            Entry(entry.path, "hardlink", entry.mode, entry.uid, entry.gid, entry.mtime, target=entry.target)
        )

    def _from_base(self, parent: int, path: bytes, name: bytes, member: Member) -> None:
        if self._bases is None or not self.incremental:
            raise Invalid(f"{shown(path)}: a file of a base in a backup that has none")
        before = self._bases.entry(relative(member.link, BASE))
        self._count(before.size)
        self._tell()
        descriptor = link_or_copy(
            self._bases, before, parent, name, lambda size: check_room(self._root, size)
        )
        try:
            entry = described(path, member, size=before.size, sha256=before.sha256, sparse=before.sparse)
            entry = Entry(
                entry.path, "file", entry.mode, entry.uid, entry.gid, entry.mtime,
                entry.size, entry.sha256, entry.sparse, xattrs=entry.xattrs,
            )  # fmt: skip
            self._attributes(descriptor, entry, member.xattrs or {})
        finally:
            os.close(descriptor)
        self._known(path, entry)

    def _node(self, parent: int, path: bytes, name: bytes, member: Member) -> None:
        entry = described(path, member)
        if entry.type != "fifo" and entry.device != (0, 0) and not self._limits.devices:
            raise Invalid(
                f"the backup has the device node {shown(path)} ({entry.type} {member.major}:{member.minor})",
                hint="give --devices to have device nodes made, if you trust the backup",
            )
        device = os.makedev(*entry.device) if entry.device is not None else 0
        os.mknod(name, _NODES[entry.type] | 0o600, device, dir_fd=parent)
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._attributes(f"/proc/self/fd/{descriptor}", entry, member.xattrs or {})
        finally:
            os.close(descriptor)
        self._manifest.add(entry)

    def _attributes(self, target: int | str, entry: Entry, xattrs: dict[bytes, bytes]) -> None:
        """Owner first: changing it clears the set-id bits and the capabilities."""
        os.chown(target, entry.uid, entry.gid)
        os.chmod(target, entry.mode)
        for name, value in xattrs.items():
            if not name.startswith(_TAKEN):
                raise Invalid(f"the backup has an attribute that no backup has: {shown(name)}")
            try:
                os.setxattr(target, name, value)
            except OSError as error:
                if error.errno not in _NO_SUCH_ATTRIBUTE:
                    raise
                self.lost += 1
        os.utime(target, ns=(entry.mtime, entry.mtime))

    def _tell(self, left: int = 0) -> None:
        """How far it is; `left`: bytes that are to come of a file that was counted. May raise, to end it."""
        self._progress(self._size - left, self.total)

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self._limits.size:
            raise Invalid(f"the backup's files are larger than {self._limits.size} bytes")

    def _known(self, path: bytes, entry: Entry) -> None:
        self._manifest.add(entry)
        if self._digests is not None:
            self._digests[path] = entry


def _write_sparse(descriptor: int, member: Member, reader: TarReader) -> str:
    hashed = hashlib.sha256()
    piece = memoryview(b"")
    for offset, length in member.sparse or ():
        hashed.update(piece_mark(offset, length))
        os.lseek(descriptor, offset, os.SEEK_SET)
        while length:
            piece = piece or reader.take()
            taken = piece[:length]
            hashed.update(taken)
            _write_all(descriptor, taken)
            length -= len(taken)
            piece = piece[len(taken) :]
    os.ftruncate(descriptor, member.size)
    return hashed.hexdigest()


def _write_all(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece) :]
