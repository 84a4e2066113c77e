"""A layer's tar stream on its way in: decompressed by the caller's thread, hashed in a second, stored in a third.

Inflating and hashing run in C without the interpreter lock, so that on two cores the three overlap.
Chunks are about 1 MiB, and few may wait: memory stays bounded whoever is slow.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

import msgspec

from sampan.errors import Internal, SampanError, Unavailable
from sampan.oci.digest import Digest
from sampan.storage.decompress import CHUNK, Decompressor
from sampan.storage.erofs import ErofsWriter
from sampan.storage.extract import ExtractOptions, extract_tar
from sampan.storage.tar_format import TarLimits
from sampan.storage.tar_reader import TarReader

_WAITING: Final = 8  # chunks between two threads
_INPUT: Final = 256 << 10  # compressed bytes gathered for one call of the decompressor


class LayerLimits(msgspec.Struct, frozen=True):
    plain_size: int = 256 << 30  # bytes of the decompressed stream; more is a bomb, not a layer
    tar: TarLimits = TarLimits()


class Content(msgspec.Struct, frozen=True):
    """What was stored."""

    size: int
    entries: int


class LayerSink(Protocol):
    """Where a tar stream becomes a layer's content."""

    def consume(self, chunks: Iterator[bytes]) -> None:
        """Take the whole stream. Raises `SampanError`, OSError."""

    def finish(self, digest: bytes) -> Content:
        """Complete it and bring it to disk. `digest` is the SHA-256 of the stream."""


class ErofsSink:
    """An EROFS image in the empty file `fd`."""

    def __init__(self, fd: int, limits: TarLimits) -> None:
        self._fd = fd
        self._limits = limits
        self._writer = ErofsWriter(fd, limits)

    def consume(self, chunks: Iterator[bytes]) -> None:
        self._writer.write_all(TarReader(chunks, self._limits))

    def finish(self, digest: bytes) -> Content:
        stats = self._writer.finish(digest[:16])
        os.fsync(self._fd)
        return Content(stats.size, stats.entries)


class DirectorySink:
    """A tree unpacked into the empty directory `fd`, where EROFS can't be mounted."""

    def __init__(self, fd: int, limits: TarLimits, sync: Callable[[], None]) -> None:
        self._fd = fd
        self._limits = limits
        self._sync = sync
        self._content = Content(0, 0)

    def consume(self, chunks: Iterator[bytes]) -> None:
        options = ExtractOptions(whiteouts=True, max_entries=self._limits.members)
        extracted = extract_tar(chunks, self._fd, options)
        self._content = Content(extracted.size, extracted.entries)

    def finish(self, digest: bytes) -> Content:
        self._sync()
        return self._content


class _Stage(threading.Thread):
    """A thread that consumes chunks; after its failure it takes and drops the rest, so that nobody waits for it."""

    def __init__(self, name: str, consume: Callable[[Iterator[bytes]], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._queue: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._consume = consume
        self._cancelled = False
        self.error: BaseException | None = None

    def put(self, chunk: bytes) -> None:
        self._queue.put(chunk)

    def end(self) -> None:
        """No more chunks; waits until all are consumed."""
        if self.is_alive():
            self._queue.put(None)
        self.join()

    def cancel(self) -> None:
        self._cancelled = True
        self.end()

    def run(self) -> None:
        chunks = self._chunks()
        try:
            self._consume(chunks)
        except (SampanError, OSError, MemoryError, ValueError, RuntimeError) as error:
            self.error = error
        except (
            BaseException
        ) as error:  # whatever it is, `write` or `commit` must raise it in the caller's thread
            self.error = error
            raise
        finally:
            for _ in chunks:
                pass

    def _chunks(self) -> Iterator[bytes]:
        while (chunk := self._queue.get()) is not None:
            if not self._cancelled and self.error is None:
                yield chunk


class Pipeline:
    """Push the stream in by `write`, then `finish`, or `cancel` at any time."""

    def __init__(self, sink: LayerSink, limits: LayerLimits) -> None:
        self._sink = sink
        self._decompressor = Decompressor(limits.plain_size)
        self._hash = hashlib.sha256()
        self._input: list[bytes] = []
        self._input_size = 0
        self._plain: list[bytes] = []
        self._plain_size = 0
        self._hasher = _Stage("layer-hash", self._update)
        self._storer = _Stage("layer-store", sink.consume)
        self._hasher.start()
        self._storer.start()

    def _update(self, chunks: Iterable[bytes]) -> None:
        for chunk in chunks:
            self._hash.update(chunk)

    def write(self, data: bytes) -> None:
        """Raises what the stages raised: `Invalid` for a bad stream, `Unavailable` when it can't be stored."""
        self._input.append(data)
        self._input_size += len(data)
        if self._input_size >= _INPUT:
            self._push(self._decompressor.feed(self._take_input()))

    def _take_input(self) -> bytes:
        data = b"".join(self._input) if len(self._input) != 1 else bytes(self._input[0])
        self._input.clear()
        self._input_size = 0
        return data

    def _push(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self._plain.append(piece)
            self._plain_size += len(piece)
            if self._plain_size >= CHUNK:
                self._push_chunk()
        self._check()

    def _push_chunk(self) -> None:
        chunk = b"".join(self._plain) if len(self._plain) != 1 else self._plain[0]
        self._plain.clear()
        self._plain_size = 0
        self._check()
        self._hasher.put(chunk)
        self._storer.put(chunk)

    def _check(self) -> None:
        error = self._storer.error or self._hasher.error
        if error is None:
            return
        if isinstance(error, SampanError):
            raise error
        if isinstance(error, OSError):
            raise Unavailable(f"storing the layer: {error.strerror or error}") from error
        raise Internal(f"storing the layer: {error!r}") from error

    def digest(self) -> Digest:
        """The end of the stream: the diff-id of everything. Raises like `write`."""
        self._push(self._decompressor.feed(self._take_input()))
        self._push(self._decompressor.finish())
        if self._plain:
            self._push_chunk()
        self._storer.end()
        self._hasher.end()
        self._check()
        return Digest("sha256:" + self._hash.hexdigest())

    def finish(self) -> Content:
        """After `digest`: complete the content, on disk. Raises `Unavailable`."""
        try:
            return self._sink.finish(self._hash.digest())
        except OSError as error:
            raise Unavailable(f"storing the layer: {error.strerror or error}") from error

    def cancel(self) -> None:
        """Stop the threads; idempotent."""
        self._storer.cancel()
        self._hasher.cancel()
