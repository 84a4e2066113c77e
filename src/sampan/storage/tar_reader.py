"""A streaming tar reader of sampan's own: ustar, old GNU and pax, from chunks of bytes, bounded, in one pass.

Every malformed or truncated stream is an `Invalid` that names the byte offset; no other exception comes
from the archive's content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from sampan.storage import tar_format as tf
from sampan.storage import tar_pax, tar_sparse
from sampan.storage.tar_format import BLOCK, ZERO_BLOCK, Member, TarLimits, bad_tar

_FILES = frozenset({tf.REGULAR, tf.REGULAR_OLD, tf.CONTIGUOUS, tf.GNU_SPARSE})
_LINKS = frozenset({tf.HARD_LINK, tf.SYMLINK})
_EXTENSIONS = frozenset({tf.PAX_HEADER, tf.PAX_SOLARIS, tf.PAX_GLOBAL, tf.GNU_LONG_NAME, tf.GNU_LONG_LINK})


class TarReader:
    """Iterate for the members; between two steps `take` and `read` give the current one's stored bytes.

    `chunks` should be large (1 MiB): a member inside one chunk is handed out without copying. What follows
    the end of the archive is read and thrown away, so that the source is always used up.
    """

    def __init__(self, chunks: Iterable[bytes], limits: TarLimits | None = None) -> None:
        self._chunks = iter(chunks)
        self._limits = limits or TarLimits()
        self._buffer = b""
        self._view = memoryview(b"")
        self._pos = 0
        self._base = 0  # offset of _buffer[0] in the stream
        self._left = 0  # stored bytes of the current member not taken yet
        self._padding = 0
        self._members = 0
        self._global: tar_pax.Records = {}
        self._local: tar_pax.Records = {}
        self._long_name = b""
        self._long_link = b""

    def __iter__(self) -> Iterator[Member]:
        while (member := self.next()) is not None:
            yield member

    @property
    def offset(self) -> int:
        """Bytes of the stream used so far."""
        return self._base + self._pos

    @property
    def left(self) -> int:
        """Stored bytes of the current member that were not taken yet."""
        return self._left

    def take(self) -> memoryview:
        """Some of the current member's stored bytes, as they come; empty when it has no more."""
        if not self._left:
            return memoryview(b"")
        pos = self._pos
        available = len(self._buffer) - pos
        if not available:
            self._refill()
            pos, available = 0, len(self._buffer)
        count = min(self._left, available)
        self._left -= count
        self._pos = pos + count
        return self._view[pos : pos + count]

    def read(self) -> bytes:
        """All the rest of the current member's stored bytes; for members known to be small."""
        left = self._left
        end = self._pos + left
        if end <= len(self._buffer):
            data = self._buffer[self._pos : end]
            self._pos = end
        else:
            data = self._exactly(left)
        self._left = 0
        return data

    def next(self) -> Member | None:
        """The next member, or None at the end of the archive. Raises `Invalid`."""
        if self._left:
            self._skip(self._left)
            self._left = 0
        if self._padding:
            # Go's reader takes an archive that ends without its last padding, and Docker's client sends such ones.
            if self._pos < len(self._buffer) or self._more():
                self._skip(self._padding)
            self._padding = 0
        while (block := self._header_block()) is not None:
            offset = self._base + self._pos - BLOCK
            fields = tf.HEADER.unpack(block)
            if not tf.checksum_matches(block, fields[6]):
                raise bad_tar(offset, "header checksum does not match")
            if fields[7] in _EXTENSIONS:
                self._extension(fields[7], fields[4], offset)
                continue
            try:
                member = self._member(block, fields, offset)
            except ValueError:
                raise bad_tar(offset, "a malformed number in a header") from None
            self._members += 1
            if self._members > self._limits.members:
                raise bad_tar(offset, f"more than {self._limits.members} members")
            return member
        if self._local or self._long_name or self._long_link:
            raise bad_tar(self.offset, "an extended header without a member")
        self._drain()
        return None

    def _member(self, block: bytes, fields: tuple[bytes, ...], offset: int) -> Member:
        number = tf.number
        name, mode, uid, gid, size, mtime, _, kind, link, magic, _, uname, gname, major, minor, prefix = (
            fields
        )
        name = tf.text(name)
        link = tf.text(link) if link[0] else b""
        if prefix[0] and magic == tf.MAGIC_USTAR:
            name = tf.text(prefix) + b"/" + name
        if self._long_name or self._long_link:
            name, link = self._long_name or name, self._long_link or link
            self._long_name = self._long_link = b""
        sparse = kind == tf.GNU_SPARSE
        if kind in _FILES:
            # Before ustar a directory was a file whose name ends with a slash.
            kind = tf.DIRECTORY if kind == tf.REGULAR_OLD and name.endswith(b"/") else tf.REGULAR
        stored = 0 if kind in tf.WITHOUT_DATA else number(size)
        device = kind == tf.CHAR_DEVICE or kind == tf.BLOCK_DEVICE
        member = Member(
            name, kind, link, number(mode) & 0o7777, number(uid), number(gid), stored, number(mtime), 0,
            number(major) if device else 0, number(minor) if device else 0,
            tf.text(uname), tf.text(gname), stored, None, None, offset,
        )  # fmt: skip
        if self._local or self._global:
            member = self._with_records(member)
        self._left = member.stored
        if sparse:
            member = self._with_old_sparse(member, block)
        self._check(member)
        self._padding = -member.stored % BLOCK
        return member

    def _check(self, member: Member) -> None:
        """Raises `Invalid` for values that no file can have."""
        if (
            not member.name
            or len(member.name) > self._limits.name
            or len(member.link) > self._limits.name
            or b"\0" in member.name
            or b"\0" in member.link
        ):
            raise bad_tar(member.offset, "a missing or impossible name")
        if not 0 <= member.stored <= self._limits.file_size or member.size > self._limits.file_size:
            raise bad_tar(member.offset, f"a file of {member.size} bytes")
        if not (0 <= member.uid < 0xFFFFFFFF and 0 <= member.gid < 0xFFFFFFFF):
            raise bad_tar(member.offset, f"owner {member.uid}:{member.gid} is out of range")
        if not (0 <= member.major < 0x1000 and 0 <= member.minor < 0x100000):
            raise bad_tar(member.offset, f"device number {member.major}:{member.minor} is out of range")
        if not -(1 << 62) < member.mtime < 1 << 62:
            raise bad_tar(member.offset, "a time that is out of range")

    def _with_records(self, member: Member) -> Member:
        """The member as its pax records say. Raises `Invalid`."""
        records, offset = {**self._global, **self._local}, member.offset
        self._local = {}
        size = tar_pax.integer(records, b"size", offset) if b"size" in records else member.stored
        stored = 0 if member.type in tf.WITHOUT_DATA else size
        mtime, nanoseconds = member.mtime, 0
        if b"mtime" in records:
            mtime, nanoseconds = tar_pax.timestamp(records[b"mtime"], offset)
        changed = msgspec.structs.replace(
            member,
            name=records.get(b"path", member.name),
            link=records.get(b"linkpath", member.link) if member.type in _LINKS else member.link,
            uid=tar_pax.integer(records, b"uid", offset) if b"uid" in records else member.uid,
            gid=tar_pax.integer(records, b"gid", offset) if b"gid" in records else member.gid,
            uname=records.get(b"uname", member.uname),
            gname=records.get(b"gname", member.gname),
            size=stored,
            stored=stored,
            mtime=mtime,
            mtime_nsec=nanoseconds,
            xattrs=tar_pax.xattrs_of(records, self._limits, offset),
        )
        if member.type == tf.REGULAR and (b"GNU.sparse.major" in records or b"GNU.sparse.size" in records):
            return self._with_pax_sparse(changed, records)
        return changed

    def _with_pax_sparse(self, member: Member, records: tar_pax.Records) -> Member:
        sparse, size, name = tar_sparse.from_records(records, self._limits, member.offset)
        stored = member.stored
        if sparse is None:
            self._left = stored
            sparse, taken = tar_sparse.map_in_data(self._stored_block, self._limits, member.offset)
            stored -= taken
        sparse = tar_sparse.check_map(sparse, size, stored, member.offset)
        return msgspec.structs.replace(
            member, name=name or member.name, size=size, stored=stored, sparse=sparse
        )

    def _stored_block(self) -> bytes:
        if self._left < BLOCK:
            raise bad_tar(self.offset, "a sparse map longer than its member")
        self._left -= BLOCK
        return self._exactly(BLOCK)

    def _with_old_sparse(self, member: Member, block: bytes) -> Member:
        sparse, size = tar_sparse.old_gnu(block, lambda: self._exactly(BLOCK), self._limits, member.offset)
        sparse = tar_sparse.check_map(sparse, size, member.stored, member.offset)
        return msgspec.structs.replace(member, size=size, sparse=sparse)

    def _extension(self, kind: bytes, size_field: bytes, offset: int) -> None:
        """A header that says something about the next member, or (global) all that follow."""
        try:
            size = tf.number(size_field)
        except ValueError:
            size = -1
        if not 0 <= size <= self._limits.extended:
            raise bad_tar(offset, "an extended header of an impossible size")
        data = self._exactly(size)
        self._skip(-size % BLOCK)
        if kind == tf.GNU_LONG_NAME:
            self._long_name = tf.text(data)
        elif kind == tf.GNU_LONG_LINK:
            self._long_link = tf.text(data)
        elif kind == tf.PAX_GLOBAL:
            tar_pax.parse_records(data, offset, self._global)
            if sum(len(key) + len(value) for key, value in self._global.items()) > self._limits.extended:
                raise bad_tar(offset, "global pax headers that are too large")
        else:
            self._local = {}
            tar_pax.parse_records(data, offset, self._local)

    def _header_block(self) -> bytes | None:
        """The next block; None at the end of the archive (two zero blocks, or the end of the stream)."""
        pos = self._pos
        end = pos + BLOCK
        if end <= len(self._buffer):
            self._pos = end
            block = self._buffer[pos:end]
        else:
            maybe = self._block_or_end()
            if maybe is None:
                return None
            block = maybe
        if block[0] or block != ZERO_BLOCK:
            return block
        second = self._block_or_end()
        if second is not None and second != ZERO_BLOCK:
            raise bad_tar(self.offset - BLOCK, "data after a lone zero block")
        return None

    def _block_or_end(self) -> bytes | None:
        while self._pos == len(self._buffer):
            if not self._more():
                return None
        return self._exactly(BLOCK)

    def _exactly(self, count: int) -> bytes:
        """Raises `Invalid` when the stream ends before."""
        pos = self._pos
        end = pos + count
        if end <= len(self._buffer):
            self._pos = end
            return self._buffer[pos:end]
        pieces = [self._buffer[pos:]]
        missing = end - len(self._buffer)
        while missing:
            self._pos = len(self._buffer)
            self._refill()
            piece = self._buffer[:missing]
            pieces.append(piece)
            missing -= len(piece)
            self._pos = len(piece)
        return b"".join(pieces)

    def _skip(self, count: int) -> None:
        self._pos += count
        while (over := self._pos - len(self._buffer)) > 0:
            self._pos = len(self._buffer)
            self._refill()
            self._pos = over

    def _refill(self) -> None:
        if not self._more():
            raise bad_tar(self._base + self._pos, "unexpected end of the stream")

    def _more(self) -> bool:
        """Replace the (used up) buffer by the next chunk that is not empty."""
        for chunk in self._chunks:
            if chunk:
                self._base += len(self._buffer)
                self._buffer, self._view, self._pos = chunk, memoryview(chunk), 0
                return True
        return False

    def _drain(self) -> None:
        while self._more():
            pass
        self._pos = len(self._buffer)
