"""Asking other resolvers: UDP or TCP as the client did, one server after the other."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
from collections.abc import Callable, Sequence

from sampan.network.dns_loop import READ, WRITE, Due, Loop
from sampan.network.dns_message import MAX_STREAM, Query, failure, reply_to, with_id

TIMEOUT = 4.0  # seconds for each server, as Docker
MAX_SERVERS = 3  # as the C library
PORT = 53
_MAX_WRONG = (
    8  # datagrams that are no answer to the question: then somebody is guessing, and TCP can't be guessed
)
_ROUNDS = 16

OpenSocket = Callable[[int, int], socket.socket]
"""Family and type -> a non-blocking socket in the namespace from which is asked. Raises OSError."""


def open_here(family: int, kind: int) -> socket.socket:
    return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def server_address(text: str) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]]:
    """Family and address of "192.0.2.1", "fe80::1%eth0" or "192.0.2.1#5353" (the port as dnsmasq and systemd write it).

    Raises OSError, ValueError.
    """
    host, _, port = text.partition("#")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.getaddrinfo(
        host, int(port or PORT), family, socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
    )
    address: tuple[str, int] | tuple[str, int, int, int] = found[0][4]  # type: ignore[assignment]
    return family, address


class Exchange:
    """One question on its way to resolvers; `done` is called once, with the answer (without an id) for all who wait.

    Each server is asked from a fresh port and with a fresh id, which is what a forger would have to guess; who asks the
    same meanwhile waits for the same answer, so that there is no second guess at it (RFC 5452, section 5). A truncated
    answer is passed on as it is: the client then asks over TCP, and so do we. The last bad answer (SERVFAIL, REFUSED)
    is the answer when there is no good one.
    """

    def __init__(
        self,
        loop: Loop,
        query: Query,
        servers: Sequence[str],
        opener: OpenSocket,
        *,
        stream: bool,
        timeout: float,
        done: Callable[[bytes], None],
    ) -> None:
        self.waiting: list[Callable[[bytes], None]] = []
        self.query = query
        self._loop, self._open, self._timeout, self._done = loop, opener, timeout, done
        self._servers = list(servers[:MAX_SERVERS])
        self._stream = stream
        self._last: bytes | None = None
        self._socket: socket.socket | None = None
        self._due: Due | None = None
        self._server = ""
        self._number = 0
        self._wrong = 0
        self._outgoing = self._incoming = b""

    def start(self) -> None:
        """May be done when it returns."""
        while self._servers:
            self._server = self._servers.pop(0)
            if self._ask(stream=self._stream):
                return
        self._finish(self._last if self._last is not None else failure(self.query))

    def close(self) -> None:
        """Give up without an answer. Idempotent."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._socket is not None:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _finish(self, answer: bytes) -> None:
        self.close()
        self._done(answer)

    def _next(self) -> None:
        self.close()
        self.start()

    def _ask(self, *, stream: bool) -> bool:
        """False when this server can't be asked."""
        self._number = secrets.randbelow(1 << 16)
        self._wrong = 0
        question = with_id(self.query.raw, self._number)
        try:
            family, address = server_address(self._server)
            self._socket = self._open(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
            code = self._socket.connect_ex(address)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
            if stream:
                self._outgoing, self._incoming = struct.pack("!H", len(question)) + question, b""
                self._loop.add(self._socket.fileno(), WRITE, self._on_stream)
            else:
                self._socket.send(question)
                self._loop.add(self._socket.fileno(), READ, self._on_datagram)
        except (OSError, ValueError):
            self.close()
            return False
        self._due = self._loop.later(self._timeout, self._next)
        return True

    def _answered(self, data: bytes) -> bool:
        """False for what is no answer to the question."""
        reply = reply_to(self.query, self._number, data)
        if reply is None:
            return False
        if reply.failed:
            self._last = reply.data
            self._next()
        else:
            self._finish(reply.data)
        return True

    def _on_datagram(self, _events: int) -> None:
        asked = self._socket
        for _ in range(_ROUNDS):
            if asked is None or asked is not self._socket:
                return
            try:
                data = asked.recv(MAX_STREAM)
            except BlockingIOError:
                return
            except OSError:  # nobody is there
                self._next()
                return
            if self._answered(data):
                return
            self._wrong += 1
            if self._wrong >= _MAX_WRONG:
                self.close()
                if not self._ask(stream=True):
                    self.start()
                return

    def _on_stream(self, _events: int) -> None:
        asked = self._socket
        if asked is None:
            return
        try:
            if self._outgoing:
                self._outgoing = self._outgoing[asked.send(self._outgoing) :]
                if not self._outgoing:
                    self._loop.change(asked.fileno(), READ)
                return
            data = asked.recv(MAX_STREAM + 2)
        except BlockingIOError:
            return
        except OSError:
            self._next()
            return
        self._incoming += data
        if len(self._incoming) >= 2:
            (length,) = struct.unpack("!H", self._incoming[:2])
            if len(self._incoming) >= 2 + length:
                if not self._answered(self._incoming[2 : 2 + length]):
                    self._next()
                return
        if not data:
            self._next()
