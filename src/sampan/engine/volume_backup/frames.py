"""zstd frames one after the other: what the archive's parts are compressed in (RFC 8878)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import zstandard

LEVEL: Final = 3
_GATHER: Final = 256 << 10


def _processors() -> int:
    return len(os.sched_getaffinity(0))


class Frames:
    """Plain bytes in, compressed ones out to `out`, on all processors. `offset` counts compressed bytes."""

    def __init__(self, out: Callable[[bytes], object]) -> None:
        self._out = out
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, threads=_processors(), write_checksum=True)
        self._frame: Any = None
        self._pieces: list[bytes] = []
        self._pending = 0
        self.offset = 0

    def write(self, piece: bytes) -> None:
        """Small pieces are gathered."""
        self._pieces.append(piece)
        self._pending += len(piece)
        if self._pending >= _GATHER:
            self._flush()

    def write_view(self, piece: memoryview) -> None:
        """`piece` may change when this returns."""
        if len(piece) < _GATHER:
            self.write(bytes(piece))
            return
        self._flush()
        self._compress(piece)

    def cut(self) -> None:
        """End the frame; the next byte begins another one."""
        self._flush()
        if self._frame is not None:
            self._emit(self._frame.flush())
            self._frame = None

    def raw(self, data: bytes) -> None:
        """Bytes that are a frame already."""
        self.cut()
        self._emit(data)

    def _flush(self) -> None:
        if self._pieces:
            data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            self._pending = 0
            self._compress(data)

    def _compress(self, data: bytes | memoryview) -> None:
        if self._frame is None:
            self._frame = self._compressor.compressobj()
        self._emit(self._frame.compress(data))

    def _emit(self, data: bytes) -> None:
        if data:
            self.offset += len(data)
            self._out(data)
