"""zstd frames one after the other: what the archive's parts are compressed in (RFC 8878)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final

import zstandard

LEVEL: Final = 3
_GATHER: Final = 1 << 20
_WAITING: Final = 6
"""Pieces of some MiB that wait for the compressor: reading and hashing go on while it is busy."""


def _processors() -> int:
    return len(os.sched_getaffinity(0))


class Frames:
    """Plain bytes in, compressed ones out to `out` (in a thread of this object's), on all processors.

    A context manager; `cut` before its end, or what is not out yet is dropped. Errors of `out` are raised by the calls
    that follow. `offset` counts compressed bytes, and is true after `cut`.
    """

    def __init__(self, out: Callable[[bytes], object]) -> None:
        self._out = out
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, threads=_processors(), write_checksum=True)
        self._frame: Any = None
        self._pieces: list[bytes] = []
        self._pending = 0
        self._thread = ThreadPoolExecutor(1, "compress")
        self._work: deque[Future[None]] = deque()
        self.offset = 0

    def __enter__(self) -> Frames:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def write(self, piece: bytes) -> None:
        """Small pieces are gathered."""
        self._pieces.append(piece)
        self._pending += len(piece)
        if self._pending >= _GATHER:
            self._flush()

    def cut(self) -> None:
        """End the frame; the next byte begins another one."""
        self._flush()
        self._work.append(self._thread.submit(self._end))
        while self._work:
            self._work.popleft().result()

    def raw(self, data: bytes) -> None:
        """Bytes that are a frame already."""
        self.cut()
        self._emit(data)

    def _flush(self) -> None:
        if not self._pieces:
            return
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._pending = 0
        if len(self._work) >= _WAITING:
            self._work.popleft().result()
        self._work.append(self._thread.submit(self._compress, data))

    def _compress(self, data: bytes) -> None:
        if self._frame is None:
            self._frame = self._compressor.compressobj()
        self._emit(self._frame.compress(data))

    def _end(self) -> None:
        if self._frame is not None:
            self._emit(self._frame.flush())
            self._frame = None

    def _emit(self, data: bytes) -> None:
        if data:
            self.offset += len(data)
            self._out(data)
