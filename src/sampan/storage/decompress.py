"""Compressed streams, pushed in: gzip (RFC 1952, several members), zstd (RFC 8878, several frames), bzip2, xz or plain.

The kind is told by the first bytes, as every container engine does: media types are often wrong.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol, cast

import zstandard
from isal import igzip_lib

from sampan.errors import Invalid

CHUNK: Final = 1 << 20
_MEMORY_MAX: Final = 128 << 20  # an xz or zstd dictionary: what the tools' strongest ordinary levels need
_MAGIC_MAX: Final = 6
_FEW: Final = 8
_SMALL: Final = 16 << 10
_MANY: Final = 4_000_000  # as many as an archive has members: each takes its time, also with nothing in it


class _Stream(Protocol):
    """One compressed member; bz2.BZ2Decompressor's manner."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


class _ZstdStream:
    """One zstd frame in bz2's manner.

    The library's push interface has no bound on its output, so whole blocks go in, few at a time: a block
    is at most 128 KiB when decompressed (RFC 8878, 3.1.1.2.4).
    """

    _BLOCKS: Final = CHUNK // (128 << 10)
    _DICTIONARY: Final = (0, 1, 2, 4)
    _SIZE: Final = (0, 2, 4, 8)

    def __init__(self) -> None:
        self._object = zstandard.ZstdDecompressor(max_window_size=_MEMORY_MAX).decompressobj()
        self._buffer = b""
        self._head = True
        self._checksum = 0
        self._skip = -1  # bytes left of a skippable frame
        self.eof = False
        self.needs_input = True

    @property
    def unused_data(self) -> bytes:
        return self._buffer

    def decompress(self, data: bytes, max_length: int = CHUNK, /) -> bytes:
        self._buffer = self._buffer + data if self._buffer else data
        self.needs_input = True
        ready = self._header() if self._head else 0
        if self._skip >= 0:
            return self._skipped()
        if self._head:
            return b""
        ready = self._blocks(ready)
        chunk, self._buffer = self._buffer[:ready], self._buffer[ready:]
        return self._object.decompress(chunk) if chunk else b""

    def _header(self) -> int:
        """The frame header's size when it is all there; `_head` stays set otherwise."""
        buffer = self._buffer
        if len(buffer) < 8:
            return 0
        if not buffer.startswith(_ZSTD):
            self._skip = 8 + int.from_bytes(buffer[4:8], "little")
            return 0
        descriptor = buffer[4]
        single = descriptor >> 5 & 1
        size = 6 - single + self._DICTIONARY[descriptor & 3]
        size += self._SIZE[descriptor >> 6] or single
        if len(buffer) < size:
            return 0
        self._checksum = 4 if descriptor & 4 else 0
        self._head = False
        return size

    def _blocks(self, end: int) -> int:
        """Where the next few blocks that are all there end; `end` is where they begin."""
        buffer = self._buffer
        for _ in range(self._BLOCKS):
            if len(buffer) < end + 3:
                return end
            head = int.from_bytes(buffer[end : end + 3], "little")
            size = 3 + (1 if head >> 1 & 3 == 1 else min(head >> 3, 128 << 10))
            if head & 1:
                size += self._checksum
            if len(buffer) < end + size:
                return end
            end += size
            if head & 1:
                self.eof = True
                return end
        self.needs_input = False
        return end

    def _skipped(self) -> bytes:
        taken = min(self._skip, len(self._buffer))
        self._skip -= taken
        self._buffer = self._buffer[taken:]
        self.eof = self._skip == 0
        return b""


_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE: Final = tuple(bytes((0x50 + number,)) + b"\x2a\x4d\x18" for number in range(16))


def _gzip() -> _Stream:
    stream: _Stream = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return stream


def _xz() -> _Stream:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY_MAX)


_KINDS: Final[tuple[tuple[tuple[bytes, ...], Callable[[], _Stream]], ...]] = (
    ((_GZIP,), _gzip),
    ((_ZSTD, *_ZSTD_SKIPPABLE), _ZstdStream),
    ((b"BZh",), bz2.BZ2Decompressor),
    ((b"\xfd7zXZ\0",), _xz),
)
# isal's type stub has its error class as an instance.
_IsalError: Final = cast("type[Exception]", igzip_lib.IsalError)
_ERRORS: Final = (_IsalError, zstandard.ZstdError, lzma.LZMAError, OSError, EOFError, ValueError)


class Decompressor:
    """`feed` gives plain bytes for what is pushed in; `finish` checks that the stream was complete."""

    def __init__(self, max_size: int) -> None:
        """`max_size`: plain bytes that are accepted at most; `Invalid` beyond."""
        self._max_size = max_size
        self._head = b""  # too short to tell the kind of member
        self._magics: tuple[bytes, ...] = ()
        self._new: Callable[[], _Stream] | None = None
        self._stream: _Stream | None = None
        self._started = False
        self._padding = False
        self._members = 0  # that have ended
        self.size = 0  # plain bytes given out

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Plain pieces, of about 1 MiB at most when compressed. Raises `Invalid` for a corrupt stream."""
        if not self._started:
            self._head += data
            if len(self._head) < _MAGIC_MAX:
                return
            data = self._start()
        for piece in self._pieces(data):
            self.size += len(piece)
            if self.size > self._max_size:
                raise Invalid(f"the stream is larger than {self._max_size} bytes when decompressed")
            yield piece

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        """A stream of many members comes in small pieces: at each member's end the rest of the piece is copied."""
        start, end = 0, len(data)
        while start < end:
            stop = end if self._members < _FEW else start + _SMALL
            yield from self._decompress(data[start:stop])
            start = stop

    def finish(self) -> Iterator[bytes]:
        """What is left. Raises `Invalid` when the stream is cut short."""
        if not self._started:
            yield from self._decompress(self._start())
        if self._stream is not None or self._head:
            raise Invalid("the compressed stream ends before its end: unexpected EOF")

    def _start(self) -> bytes:
        self._started = True
        head, self._head = self._head, b""
        for magics, new in _KINDS:
            if head.startswith(magics):
                self._magics, self._new = magics, new
        return head

    def _decompress(self, data: bytes) -> Iterator[bytes]:
        if self._new is None:
            if data:
                yield data
            return
        while True:
            if self._stream is None:
                data = self._between(data)
                if not data:
                    return
                self._stream = self._new()
            try:
                plain = self._stream.decompress(data, CHUNK)
            except _ERRORS as error:
                raise Invalid(f"the compressed stream is corrupt: {error}") from error
            if plain:
                yield plain
            if self._stream.eof:
                self._members += 1
                if self._members > _MANY:
                    raise Invalid(f"the compressed stream has more than {_MANY} members")
                data = self._stream.unused_data
                self._stream = None
            elif self._stream.needs_input:
                return
            else:
                data = b""

    def _between(self, data: bytes) -> bytes:
        """Between two members: zeros may pad the end of the stream, anything else must begin another member."""
        data, self._head = self._head + data, b""
        stripped = data.lstrip(b"\0")
        self._padding = self._padding or len(stripped) < len(data)
        if not stripped:
            return b""
        if self._padding or not any(stripped.startswith(magic[: len(stripped)]) for magic in self._magics):
            raise Invalid("the compressed stream is followed by garbage")
        if len(stripped) < _MAGIC_MAX:
            self._head = stripped
            return b""
        return stripped


def decompressed(chunks: Iterable[bytes], max_size: int) -> Iterator[bytes]:
    """The plain bytes of a stream that comes in chunks. Raises `Invalid`."""
    decompressor = Decompressor(max_size)
    for chunk in chunks:
        yield from decompressor.feed(chunk)
    yield from decompressor.finish()
