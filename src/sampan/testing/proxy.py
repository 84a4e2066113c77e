"""A TCP proxy that counts, holds back and cuts, for tests of what a bad connection leads to.

with CuttingProxy(registry.port) as proxy:
    proxy.hold_down_at = 5 << 20
    ...
    proxy.held.wait(10)
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType

_BLOCK = 1 << 16


class CuttingProxy:
    """Listens at `host` on a free port, and passes on to `port` of 127.0.0.1. A context manager.

    `down` and `up` count the bytes passed to the clients and to the server. All limits are on such totals:
    hold_down_at: from there on nothing more passes to a client, and `held` is set. cut_up_at: the connection
    that gets there is closed, once. cut_before: the connection on which a client's piece begins so is closed before
    the piece is passed on, once.
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1") -> None:
        self._target = ("127.0.0.1", port)
        self._listening = socket.create_server((host, 0))
        self.host = f"{host}:{self._listening.getsockname()[1]}"
        self.held = threading.Event()
        self.cuts = 0
        self.down = 0
        self.up = 0
        self.hold_down_at: int | None = None
        self.cut_up_at: int | None = None
        self.cut_before: bytes | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.drop_connections()
        self._thread.join()

    def reset(self) -> None:
        """No limits any more, counts from nothing; connections that are held are closed."""
        self.hold_down_at = self.cut_up_at = self.cut_before = None
        self.drop_connections()
        with self._lock:
            self.down = self.up = self.cuts = 0
        self.held.clear()

    def drop_connections(self) -> None:
        with self._lock:
            doomed = tuple(self._open)
        for one in doomed:
            _close(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection(self._target)
            except OSError:
                _close(client)
                continue
            with self._lock:
                self._open |= {client, server}
            for source, sink, passing in ((client, server, self._upward), (server, client, self._downward)):
                threading.Thread(target=self._pass, args=(source, sink, passing), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, passing: Callable[[bytes], bytes]) -> None:
        with contextlib.suppress(OSError):  # either side may close whenever it likes
            while data := source.recv(_BLOCK):
                kept = passing(data)
                sink.sendall(kept)
                if len(kept) < len(data) and passing == self._upward:
                    break
        for one in (source, sink):
            _close(one)
            with self._lock:
                self._open.discard(one)

    def _upward(self, data: bytes) -> bytes:
        with self._lock:
            if self.cut_before is not None and data.startswith(self.cut_before):
                self.cut_before = None
                self.cuts += 1
                return b""
            if self.cut_up_at is not None and self.up + len(data) > self.cut_up_at:
                data = data[: max(self.cut_up_at - self.up, 0)]
                self.cut_up_at = None
                self.cuts += 1
            self.up += len(data)
            return data

    def _downward(self, data: bytes) -> bytes:
        with self._lock:
            if self.hold_down_at is not None and self.down + len(data) >= self.hold_down_at:
                data = data[: max(self.hold_down_at - self.down, 0)]
                self.held.set()
            self.down += len(data)
            return data


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
