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
    """zstandard's stream in the manner of bz2: it has no `max_length`, so input goes in by small pieces.

    A block is at most 128 KiB plain and takes 4 bytes at least (RFC 8878, 3.1.1.2.3), which bounds the output.
    """

    _PIECE: Final = 64

    def __init__(self) -> None:
        self._object = zstandard.ZstdDecompressor(max_window_size=_MEMORY_MAX).decompressobj()
        self._input = memoryview(b"")
        self._piece = CHUNK

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def needs_input(self) -> bool:
        return not self._input

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data + bytes(self._input)

    def decompress(self, data: bytes, max_length: int = CHUNK, /) -> bytes:
        if data:
            self._input = memoryview(data)
        out: list[bytes] = []
        size = 0
        while self._input and size < max_length and not self._object.eof:
            piece, self._input = self._input[: self._piece], self._input[self._piece :]
            plain = self._object.decompress(piece)
            # A stream that expands much is read by smaller pieces, so that memory stays bounded.
            if len(plain) > max_length:
                self._piece = max(self._PIECE, self._piece // 8)
            out.append(plain)
            size += len(plain)
        return b"".join(out)


def _xz() -> _Stream:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY_MAX)


def _gzip() -> _Stream:
    stream: _Stream = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return stream


_KINDS: Final[tuple[tuple[bytes, Callable[[], _Stream]], ...]] = (
    (b"\x1f\x8b", _gzip),
    (b"\x28\xb5\x2f\xfd", _ZstdStream),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\0", _xz),
)
# isal's type stub has its error class as an instance.
_IsalError: Final = cast("type[Exception]", igzip_lib.IsalError)
_ERRORS: Final = (_IsalError, zstandard.ZstdError, lzma.LZMAError, OSError, EOFError, ValueError)


class Decompressor:
    """`feed` gives plain bytes for what is pushed in; `finish` checks that the stream was complete."""

    def __init__(self, max_size: int) -> None:
        """`max_size`: plain bytes that are accepted at most; `Invalid` beyond."""
        self._max_size = max_size
        self._head = b""
        self._new: Callable[[], _Stream] | None = None
        self._stream: _Stream | None = None
        self._started = False
        self._padding = False
        self.size = 0  # plain bytes given out

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Plain pieces of about 1 MiB at most. Raises `Invalid` for a corrupt stream."""
        if not self._started:
            self._head += data
            if len(self._head) < _MAGIC_MAX:
                return
            data = self._start()
        for piece in self._decompress(data):
            self.size += len(piece)
            if self.size > self._max_size:
                raise Invalid(f"the stream is larger than {self._max_size} bytes when decompressed")
            yield piece

    def finish(self) -> Iterator[bytes]:
        """What is left. Raises `Invalid` when the stream is cut short."""
        if not self._started:
            head = self._start()
            yield from self._decompress(head)
        if self._stream is not None:
            raise Invalid("the compressed stream ends before its end: unexpected EOF")

    def _start(self) -> bytes:
        self._started = True
        head, self._head = self._head, b""
        for magic, new in _KINDS:
            if head.startswith(magic):
                self._new = new
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
                data = self._stream.unused_data
                self._stream = None
            elif self._stream.needs_input:
                return
            else:
                data = b""

    def _between(self, data: bytes) -> bytes:
        """Between two members: zeros may pad the end, anything else must begin another member."""
        stripped = data.lstrip(b"\0")
        if self._padding and stripped:
            raise Invalid("the compressed stream is followed by garbage")
        self._padding = self._padding or (len(stripped) < len(data) and self.size > 0)
        if self._padding and stripped:
            raise Invalid("the compressed stream is followed by garbage")
        return stripped


def decompressed(chunks: Iterable[bytes], max_size: int) -> Iterator[bytes]:
    """The plain bytes of a stream that comes in chunks. Raises `Invalid`."""
    decompressor = Decompressor(max_size)
    for chunk in chunks:
        yield from decompressor.feed(chunk)
    yield from decompressor.finish()
