"""Reading a backup into an empty directory that nobody else sees, believing nothing it says.

The order of the archive is the tree's: every entry's directory is on a stack of open descriptors, so that no path is
looked up, no link followed, and nothing can be outside. What was unpacked is described in the manifest's words, and
the archive's own manifest has to say the same.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from sampan.engine.volume_backup.format import (
    ARCHIVE_LIMITS,
    BASE,
    DATA,
    DEPTH_MAX,
    ENTRIES_MAX,
    HEAD_MAX,
    HEAD_NAME,
    LINE_MAX,
    MANIFEST_MAX,
    MANIFEST_NAME,
    SIZE_MAX,
    SUMMARY_MAX,
    SUMMARY_NAME,
    Entry,
    Head,
    Kind,
    Summary,
    bounded_time,
    decode_head,
    decode_summary,
    encode_line,
    piece_mark,
    text_of,
)
from sampan.engine.volume_backup.reuse import Bases, link_or_copy
from sampan.engine.volume_backup.room import check_room
from sampan.engine.volume_backup.walk import open_below
from sampan.engine.volume_backup.writing import spool
from sampan.errors import Conflict, Invalid, SampanError, Unavailable
from sampan.storage import tar_format as tf
from sampan.storage.decompress import decompressed
from sampan.storage.metadata import no_space
from sampan.storage.tar_format import Member
from sampan.storage.tar_reader import TarReader

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_SUCH_ATTRIBUTE: Final = frozenset({errno.ENOTSUP, errno.EPERM, errno.EINVAL, errno.ENODATA})
_HOST: Final = frozenset({errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_LOOK_EVERY: Final = 64 << 20
_PLAIN_MAX: Final = 1 << 50
_KINDS: Final[dict[bytes, Kind]] = {
    tf.REGULAR: "file",
    tf.DIRECTORY: "dir",
    tf.SYMLINK: "symlink",
    tf.FIFO: "fifo",
    tf.CHAR_DEVICE: "char",
    tf.BLOCK_DEVICE: "block",
}
_NODES: Final = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK}


@dataclass(frozen=True, slots=True)
class Limits:
    """size: bytes of the volume's files. devices: device nodes are made (0:0, overlayfs's whiteout, always is)."""

    size: int = SIZE_MAX
    entries: int = ENTRIES_MAX
    devices: bool = False


@dataclass(slots=True)
class Restored:
    """lost_xattrs: attributes that this file system does not take."""

    head: Head
    summary: Summary
    lost_xattrs: int = 0


@dataclass(slots=True)
class _Open:
    """A directory on the stack: it gets its attributes when all is in it."""

    path: bytes
    descriptor: int
    entry: Entry
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


def unpack(
    layers: Iterable[Iterable[bytes]],
    root: int,
    directory: Path,
    *,
    bases: Bases | None = None,
    digests: dict[bytes, Entry] | None = None,
    limits: Limits | None = None,
    progress: Callable[[int, int], object] = lambda _size, _total: None,
) -> Restored:
    """Unpack one backup, whose compressed archive is `layers`, into the empty directory `root`.

    directory: where temporary files go, on the same file system. bases: the backup before, where this one has such.
    digests: gets the entry of every file by its path. progress: bytes of files that are there, and what the backup says
    of all (0 when it says nothing). Raises `Invalid` (the backup), `Conflict` (it needs another
    base), `Unavailable` (the disk), and leaves in `root` what was unpacked till then.
    """
    with spool(directory) as lines:
        reader = _Unpacking(root, lines, bases, digests, limits or Limits(), progress)
        try:
            following = iter(layers)
            for layer in following:
                reader.archive(layer, following)
            return reader.finish()
        finally:
            reader.close()


class _Unpacking:
    def __init__(
        self,
        root: int,
        lines: BinaryIO,
        bases: Bases | None,
        digests: dict[bytes, Entry] | None,
        limits: Limits,
        progress: Callable[[int, int], object],
    ) -> None:
        self._root = root
        self._lines = lines
        self._hash = hashlib.sha256()
        self._lines_size = 0
        self._bases = bases
        self._digests = digests
        self._limits = limits
        self._progress = progress
        self._stack: list[_Open] = []
        self._head: Head | None = None
        self._summary: Summary | None = None
        self._checked = False
        self._entries = self._size = self._lost = 0
        self._written = self._looked = 0

    def close(self) -> None:
        for one in self._stack:
            if one.descriptor != self._root:
                os.close(one.descriptor)

    def archive(self, layer: Iterable[bytes], following: Iterator[Iterable[bytes]]) -> None:
        """A layer, and those of the following ones in which its last file goes on."""

        def plain() -> Iterator[bytes]:
            yield from self._watched(decompressed(layer, _PLAIN_MAX))
            while reader.left and (more := next(following, None)) is not None:
                yield from self._watched(decompressed(more, _PLAIN_MAX))

        limits = msgspec.structs.replace(ARCHIVE_LIMITS, members=self._limits.entries + 8)
        reader = TarReader(plain(), limits)
        for member in reader:
            try:
                self._member(member, reader)
            except OSError as error:
                if isinstance(error, ConnectionError):
                    raise
                raise _translated(member.name, error) from error

    def _watched(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """What is small compressed can be more than the disk has: others' room is left to them."""
        for piece in pieces:
            self._written += len(piece)
            if self._written - self._looked >= _LOOK_EVERY:
                self._looked = self._written
                check_room(self._root)
            yield piece

    def _member(self, member: Member, reader: TarReader) -> None:
        name = member.name
        if self._head is None:
            if name != HEAD_NAME or member.type != tf.REGULAR:
                raise Invalid("this is no backup of a volume: it does not begin with its description")
            self._begin(decode_head(_small(member, reader, HEAD_MAX)))
        elif self._summary is not None:
            raise Invalid(f"the backup goes on behind its end: {_shown(name)}")
        elif name == MANIFEST_NAME:
            self._compare(member, reader)
        elif name == SUMMARY_NAME:
            self._end(decode_summary(_small(member, reader, SUMMARY_MAX)))
        elif self._checked:
            raise Invalid(f"the backup has an entry behind its manifest: {_shown(name)}")
        elif name.startswith(DATA + b"/"):
            self._entry(_relative(name, DATA), member, reader)
        else:
            raise Invalid(f"the backup has an entry that no backup has: {_shown(name)}")

    def _begin(self, head: Head) -> None:
        self._head = head
        if not head.base:
            return
        if self._bases is None:
            raise Conflict(
                f"the backup has only what changed since the backup {head.base[:12]}",
                hint="give that one too: --base FILE, a reference or a snapshot",
            )
        if self._bases.id != head.base:
            raise Conflict(
                f"the backup needs the backup {head.base[:12]} as its base, not {self._bases.id[:12]}"
            )

    # Entries

    def _entry(self, path: bytes, member: Member, reader: TarReader) -> None:
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
            times = _times(member)
            os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
            self._line(_described(path, member, target=member.link, mode=0))
        elif member.type in _KINDS:
            self._node(parent, path, name, member)
        else:
            raise Invalid(f"{_shown(path)}: a backup has no entries of type {member.type!r}")

    def _top(self, member: Member) -> None:
        if self._stack or member.type != tf.DIRECTORY:
            raise Invalid("the backup has its top directory twice, or something else there")
        entry = _described(b"", member)
        self._stack.append(_Open(b"", self._root, entry, member.xattrs or {}))
        self._line(entry)

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        """The open directory of the entry, and its name: the archive's order is the tree's."""
        above, _, name = path.rpartition(b"/")
        while self._stack and self._stack[-1].path != above:
            self._leave()
        if not self._stack:
            raise Invalid(
                f"{_shown(path)}: the backup is not in order, its directory does not stand before it"
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
        entry = _described(path, member)
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        self._stack.append(_Open(path, descriptor, entry, member.xattrs or {}))
        self._line(entry)

    def _file(self, parent: int, path: bytes, name: bytes, member: Member, reader: TarReader) -> None:
        self._count(member.size)
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            sha256 = _write_sparse(descriptor, member, reader) if member.sparse is not None else ""
            sha256 = sha256 or self._write(descriptor, member, reader)
            self._tell()
            entry = _described(
                path, member, size=member.size, sha256=sha256, sparse=member.sparse is not None
            )
            self._attributes(descriptor, entry, member.xattrs or {})
        finally:
            os.close(descriptor)
        self._known(path, entry)

    def _write(self, descriptor: int, member: Member, reader: TarReader) -> str:
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
        target = _relative(member.link, DATA)
        above, _, last = target.rpartition(b"/")
        if not target:
            raise Invalid(f"{_shown(path)}: a hard link to a directory")
        try:
            directory = open_below(self._root, above, os.O_PATH | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Invalid(f"{_shown(path)}: a hard link to what the backup has not") from error
        try:
            mode = os.stat(last, dir_fd=directory, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                raise Invalid(f"{_shown(path)}: a hard link to a directory")
            os.link(last, name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError as error:
            raise Invalid(f"{_shown(path)}: a hard link to what the backup has not") from error
        finally:
            os.close(directory)
        # The kind stands for itself: its attributes are the first name's.
        entry = _described(path, member, target=target)
        self._line(
            Entry(entry.path, "hardlink", entry.mode, entry.uid, entry.gid, entry.mtime, target=entry.target)
        )

    def _from_base(self, parent: int, path: bytes, name: bytes, member: Member) -> None:
        if self._bases is None or self._head is None or not self._head.base:
            raise Invalid(f"{_shown(path)}: a file of a base in a backup that has none")
        before = self._bases.entry(_relative(member.link, BASE))
        self._count(before.size)
        self._tell()
        descriptor = link_or_copy(
            self._bases, before, parent, name, lambda size: check_room(self._root, size)
        )
        try:
            entry = _described(path, member, size=before.size, sha256=before.sha256, sparse=before.sparse)
            entry = Entry(
                entry.path, "file", entry.mode, entry.uid, entry.gid, entry.mtime,
                entry.size, entry.sha256, entry.sparse, xattrs=entry.xattrs,
            )  # fmt: skip
            self._attributes(descriptor, entry, member.xattrs or {})
        finally:
            os.close(descriptor)
        self._known(path, entry)

    def _node(self, parent: int, path: bytes, name: bytes, member: Member) -> None:
        entry = _described(path, member)
        if entry.type != "fifo" and entry.device != (0, 0) and not self._limits.devices:
            raise Invalid(
                f"the backup has the device node {_shown(path)} ({entry.type} {member.major}:{member.minor})",
                hint="give --devices to have device nodes made, if you trust the backup",
            )
        device = os.makedev(*entry.device) if entry.device is not None else 0
        os.mknod(name, _NODES[entry.type] | 0o600, device, dir_fd=parent)
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            self._attributes(f"/proc/self/fd/{descriptor}", entry, member.xattrs or {})
        finally:
            os.close(descriptor)
        self._line(entry)

    def _attributes(self, target: int | str, entry: Entry, xattrs: dict[bytes, bytes]) -> None:
        """Owner first: changing it clears the set-id bits and the capabilities."""
        os.chown(target, entry.uid, entry.gid)
        os.chmod(target, entry.mode)
        for name, value in xattrs.items():
            if not name.startswith(_TAKEN):
                raise Invalid(f"the backup has an attribute that no backup has: {_shown(name)}")
            try:
                os.setxattr(target, name, value)
            except OSError as error:
                if error.errno not in _NO_SUCH_ATTRIBUTE:
                    raise
                self._lost += 1
        os.utime(target, ns=(entry.mtime, entry.mtime))

    def _tell(self, left: int = 0) -> None:
        """How far it is; `left`: bytes that are to come of a file that was counted. May raise, to end it."""
        self._progress(self._size - left, self._head.size if self._head is not None else 0)

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > self._limits.size:
            raise Invalid(f"the backup's files are larger than {self._limits.size} bytes")

    def _known(self, path: bytes, entry: Entry) -> None:
        self._line(entry)
        if self._digests is not None:
            self._digests[path] = entry

    def _line(self, entry: Entry) -> None:
        line = encode_line(entry)
        self._hash.update(line)
        self._lines.write(line)
        self._lines_size += len(line)

    # The end

    def _compare(self, member: Member, reader: TarReader) -> None:
        """The archive's manifest with what was unpacked."""
        if self._checked:
            raise Invalid("the backup has two manifests")
        if member.stored > MANIFEST_MAX or member.sparse is not None:
            raise Invalid("the backup's manifest is impossibly large")
        self._checked = True
        self._lines.seek(0)
        position = 0
        while piece := bytes(reader.take()):
            if self._lines.read(len(piece)) != piece:
                raise Invalid(
                    f"the backup is damaged: its manifest does not fit its content, from the entry "
                    f"{self._line_at(position, piece)} on"
                )
            position += len(piece)
        if position != self._lines_size:
            raise Invalid("the backup is damaged: its manifest has fewer entries than the archive")

    def _line_at(self, position: int, piece: bytes) -> str:
        """The path of the first entry that differs from the manifest; `position`: of `piece` in the lines."""
        self._lines.seek(position)
        mine = self._lines.read(len(piece))
        same = next((at for at, pair in enumerate(zip(mine, piece, strict=False)) if pair[0] != pair[1]), 0)
        start = max(position + same - LINE_MAX, 0)
        self._lines.seek(start)
        before = self._lines.read(position + same - start)
        self._lines.seek(start + before.rfind(b"\n") + 1)
        line = self._lines.readline(LINE_MAX)
        return repr(line.partition(b'"path":"')[2].partition(b'"')[0].decode("utf-8", "replace")[:200])

    def _end(self, summary: Summary) -> None:
        if not self._checked:
            raise Invalid("the backup has no manifest")
        if summary.id != self._hash.hexdigest():
            raise Invalid("the backup is damaged: its summary is about another one")
        self._summary = summary

    def finish(self) -> Restored:
        if self._head is None or self._summary is None:
            raise Invalid("the backup ends before its end: it was cut off")
        if not self._stack:
            raise Invalid("the backup has no entries")
        try:
            while self._stack:
                self._leave()
        except OSError as error:
            raise _translated(b"", error) from error
        return Restored(self._head, self._summary, self._lost)


_TAKEN: Final = (b"user.", b"trusted.", b"security.capability", b"system.posix_acl_")


def _described(
    path: bytes,
    member: Member,
    *,
    size: int = 0,
    sha256: str = "",
    sparse: bool = False,
    target: bytes = b"",
    mode: int | None = None,
) -> Entry:
    """The member in the manifest's words."""
    kind = _KINDS.get(member.type, "hardlink")
    device = (member.major, member.minor) if kind in ("char", "block") else None
    return Entry(
        text_of(path),
        kind,
        member.mode if mode is None else mode,
        member.uid,
        member.gid,
        bounded_time(member.mtime * 1_000_000_000 + member.mtime_nsec),
        size,
        sha256,
        sparse,
        text_of(target),
        device,
        {text_of(name): member.xattrs[name] for name in sorted(member.xattrs)} if member.xattrs else {},
    )


def _relative(name: bytes, top: bytes) -> bytes:
    """A name below `top`, b"" for that itself. Raises `Invalid` for one that is not written as a backup does."""
    if not name.startswith(top + b"/"):
        raise Invalid(f"{_shown(name)} is not in the backup's {top.decode()}")
    rest = name[len(top) + 1 :].removesuffix(b"/")
    if rest and any(part in (b"", b".", b"..") for part in rest.split(b"/")):
        raise Invalid(f"{_shown(name)}: a path that leads elsewhere")
    return rest


def _small(member: Member, reader: TarReader, limit: int) -> bytes:
    if member.stored > limit or member.sparse is not None:
        raise Invalid(f"{_shown(member.name)} is impossibly large")
    return reader.read()


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


def _times(member: Member) -> tuple[int, int]:
    time = member.mtime * 1_000_000_000 + member.mtime_nsec
    return time, time


def _shown(name: bytes) -> str:
    return repr(text_of(name[:200]))


def _translated(name: bytes, error: OSError) -> SampanError:
    """What the backup caused is its fault (two entries of one name, a name too long); a full disk is not."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space("volumes")
    text = f"restoring {_shown(name)}: {error.strerror or error}"
    return Unavailable(text) if error.errno in _HOST else Invalid(text)
