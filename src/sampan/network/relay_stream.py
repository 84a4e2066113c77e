"""Published ports of TCP and SCTP: a connection to the container for each client, bytes or messages moved both ways."""

from __future__ import annotations

import errno
import os
import select
import socket
import time

from sampan.network.relay_loop import ROUNDS, Handler, Loop
from sampan.network.relay_port import family

_MESSAGE = 1 << 18  # bytes of a longest message of SCTP; a longer one is cut in two
_SPLICE = 1 << 20
_EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL = 60, 15  # seconds
_SCTP = 132  # IPPROTO_SCTP, also the level of its options
_SCTP_NODELAY = 3
_PAUSE = (
    0.2  # seconds without accepting when a port has had its share of the descriptors, or they have run out
)
_OF_CONNECTION = 6  # descriptors: two sockets, two pipes
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Direction:
    """Bytes from one socket to the other through a pipe."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self._source, self._sink = source, sink
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._held = 0  # bytes in the pipe
        self._ended = False
        self.finished = False

    def close(self) -> None:
        os.close(self._in)
        os.close(self._out)

    def pump(self) -> bool:
        """Move what can be moved now; True when it stopped only to let others have their turn."""
        for _ in range(ROUNDS):
            moved = False if self._ended else self._fill()
            if self._held:
                moved = self._drain() or moved
            if self._ended and not self._held:
                if not self.finished:
                    self.finished = True
                    self._sink.shutdown(socket.SHUT_WR)
                return False
            if not moved:
                return False
        return True

    def _fill(self) -> bool:
        count = _splice(self._source.fileno(), self._in)
        if count is None:
            return False
        self._ended = count == 0
        self._held += count
        return True

    def _drain(self) -> bool:
        count = _splice(self._out, self._sink.fileno())
        if count is None:
            return False
        self._held -= count
        return True


class Messages:
    """Whole messages from one SCTP association to the other: what was said in one piece arrives in one."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self._source, self._sink = source, sink
        self._held = b""
        self._ended = False
        self.finished = False

    def close(self) -> None:
        self._held = b""

    def pump(self) -> bool:
        """As `Direction.pump`."""
        try:
            for _ in range(ROUNDS):
                if not self._held and not self._ended:
                    self._held = self._source.recv(_MESSAGE)
                    self._ended = not self._held
                if self._held:
                    self._sink.send(self._held)
                    self._held = b""
                if self._ended:
                    if not self.finished:
                        self.finished = True
                        self._sink.shutdown(socket.SHUT_WR)
                    return False
        except BlockingIOError:
            return False
        return True


def _splice(source: int, sink: int) -> int | None:
    try:
        return os.splice(source, sink, _SPLICE, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
    except BlockingIOError:
        return None


class Connection:
    """One client and the connection to the container that was made for it."""

    def __init__(self, loop: Loop, client: socket.socket, server: socket.socket, ended: Handler) -> None:
        self._loop, self._client, self._server, self._ended = loop, client, server, ended
        self._connected = False
        self._directions: list[Direction | Messages] = []
        loop.add(server.fileno(), _EDGE, self._on_event)

    def _on_event(self, _events: int) -> None:
        try:
            if not self._connected and not self._finish_connecting():
                return
            self._pump()
        except OSError:  # either side has reset: the other is closed too, which is all there is to say
            self.close()

    def _finish_connecting(self) -> bool:
        code = self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        try:
            self._server.getpeername()
        except OSError as exc:
            if exc.errno == errno.ENOTCONN:
                return False
            raise
        self._connected = True
        kind = Messages if self._server.proto == _SCTP else Direction
        self._directions.append(kind(self._client, self._server))
        self._directions.append(kind(self._server, self._client))
        self._loop.add(self._client.fileno(), _EDGE, self._on_event)
        return True

    def _pump(self) -> None:
        more = [direction.pump() for direction in self._directions]
        if all(direction.finished for direction in self._directions):
            self.close()
        elif any(more):
            self._loop.again[self._server.fileno()] = self._on_event

    def close(self) -> None:
        key = self._server.fileno()
        if key < 0:
            return
        for end in (self._client, self._server):
            self._loop.remove(end.fileno())
            end.close()
        for direction in self._directions:
            direction.close()
        self._ended(key)


def _keep_alive(end: socket.socket) -> None:
    """No delay for small pieces, and an end for connections whose other side has vanished; SCTP sees to that itself."""
    if end.proto == _SCTP:
        end.setsockopt(_SCTP, _SCTP_NODELAY, 1)
        return
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)


class StreamPort:
    """Of TCP, or of SCTP in its form with one association for each socket."""

    def __init__(self, loop: Loop, listener: socket.socket, target: tuple[str, int]) -> None:
        self._loop, self._listener, self._target = loop, listener, target
        self._connections: dict[int, Connection] = {}
        self._paused_until = 0.0
        listener.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        self._loop.add(self._listener.fileno(), select.EPOLLIN, self._on_client)

    @property
    def busy(self) -> bool:
        return bool(self._connections)

    def _on_client(self, _events: int) -> None:
        if not self._loop.room.has(len(self._connections) * _OF_CONNECTION, _OF_CONNECTION):
            self._pause()
            return
        try:
            client, _ = self._listener.accept()
        except OSError as exc:
            if exc.errno in _OUT_OF_DESCRIPTORS:
                self._pause()
            return
        try:
            kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
            server = socket.socket(family(self._target), kind, self._listener.proto)
        except OSError:
            client.close()
            self._pause()
            return
        client.setblocking(False)
        for end in (client, server):
            _keep_alive(end)
        if server.connect_ex(self._target) not in (0, errno.EINPROGRESS):
            client.close()
            server.close()
            return
        self._loop.room.take(_OF_CONNECTION)
        self._connections[server.fileno()] = Connection(self._loop, client, server, self._forget)

    def _forget(self, key: int) -> None:
        if self._connections.pop(key, None) is not None:
            self._loop.room.give_back(_OF_CONNECTION)

    def _pause(self) -> None:
        self._loop.remove(self._listener.fileno())
        self._paused_until = time.monotonic() + _PAUSE
        self._loop.expect(self._sweep, _PAUSE)

    def _sweep(self, now: float) -> float | None:
        if not self._paused_until or self._listener.fileno() < 0:
            return None
        if now < self._paused_until:
            return self._paused_until - now
        self._paused_until = 0.0
        self._listen()
        return None

    def close(self, *, sessions: bool) -> None:
        if self._listener.fileno() >= 0:
            self._loop.remove(self._listener.fileno())
            self._listener.close()
        if sessions:
            for connection in list(self._connections.values()):
                connection.close()
