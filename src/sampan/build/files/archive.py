"""ADD's archives: is a file a tar (compressed or not)? Told by content, never by name, as Docker does."""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from collections.abc import Callable

import zstandard

_HEAD = 64 << 10
_BLOCKWISE_HEAD = 1 << 20
"""bzip2 and zstd give nothing before a whole block has come: up to 900,000 bytes, and a little more."""
_BLOCK = 512


def is_tar(fd: int) -> bool:
    """Whether the file behind `fd` begins with a tar header, after one decompression. Its offset stays."""
    head = os.pread(fd, _HEAD, 0)
    for magic, decompress in _FORMATS:
        if head.startswith(magic):
            if magic in _BLOCKWISE:
                head = os.pread(fd, _BLOCKWISE_HEAD, 0)
            try:
                return _is_header(decompress(head))
            except (zlib.error, OSError, EOFError, lzma.LZMAError, zstandard.ZstdError, ValueError):
                return False
    return _is_header(head)


def _is_header(block: bytes) -> bool:
    """The checksum of the first header is right, or the archive is the empty one."""
    block = block[:_BLOCK]
    if len(block) < _BLOCK:
        return False
    field = block[148:156].strip(b" \0")
    try:
        wanted = int(field, 8)
    except ValueError:
        return False
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    return bool(block.strip(b"\0")) and wanted == unsigned


def _zstd(head: bytes) -> bytes:
    """No more than a header: three bytes can stand for 128 KiB, a megabyte for more memory than there is."""
    return zstandard.ZstdDecompressor(max_window_size=128 << 20).stream_reader(head).read(_BLOCK)


_BLOCKWISE = (b"BZh", b"\x28\xb5\x2f\xfd")
_FORMATS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b", lambda head: zlib.decompressobj(31).decompress(head, _BLOCK)),
    (b"BZh", lambda head: bz2.BZ2Decompressor().decompress(head, _BLOCK)),
    (b"\xfd7zXZ\0", lambda head: lzma.LZMADecompressor(memlimit=256 << 20).decompress(head, _BLOCK)),
    (b"\x28\xb5\x2f\xfd", _zstd),
)
