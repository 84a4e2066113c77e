"""Decompression of a layer in a thread of its own, so that the network is read, hashed and stored meanwhile.

All of it is done by C code that lets other threads run; on two cores a pull takes about two thirds of the time.
"""

from __future__ import annotations

import queue
import threading

from sampan.errors import Internal, SampanError
from sampan.storage.layers import Layer, LayerIngest

_WAITING = 8
"""Chunks (of at most 1 MiB) between the two threads."""


class LayerFeeder:
    """Writes into a `LayerIngest` from another thread. Ended by `commit` or `abort`; one caller."""

    def __init__(self, layer: LayerIngest) -> None:
        self._layer = layer
        self._queue: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        self._error: Exception | None = None
        self._dropping = False
        self._thread = threading.Thread(target=self._feed, name="layer-feed", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Raises what an earlier write has led to: `Invalid` for a bad stream, `Unavailable` for a full disk."""
        self._check()
        self._queue.put(data)

    def commit(self) -> Layer:
        """Wait until everything is written, then verify and publish. Raises like `write`."""
        self._end()
        self._check()
        return self._layer.commit()

    def abort(self) -> None:
        """Idempotent; does nothing after a commit."""
        self._dropping = True
        self._end()
        self._layer.abort()

    def _end(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _check(self) -> None:
        if isinstance(self._error, SampanError):
            raise self._error
        if self._error is not None:
            raise Internal(f"storing the layer: {self._error!r}") from self._error

    def _feed(self) -> None:
        while (data := self._queue.get()) is not None:
            # After a failure the rest is taken and dropped, so that nobody waits for room in the queue.
            if self._error is None and not self._dropping:
                try:
                    self._layer.write(data)
                except (SampanError, OSError, MemoryError, ValueError, RuntimeError) as error:
                    self._error = error
