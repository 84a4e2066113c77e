"""A client of a container's name server over TCP (RFC 7766)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from sampan.network.dns_loop import READ, WRITE, Loop
from sampan.network.dns_message import MAX_QUERY

_MAX_PIPELINED = 16  # queries of a connection that are under way
_IDLE = 10.0  # seconds until a silent client is dropped
_MAX_QUEUED = 1 << 17  # bytes of answers that a client does not take

Answer = Callable[[bytes], None]
"""Takes what is to be said, without the id."""


class StreamClient:
    """One connection: queries may be sent one after the other, answers come as they are there.

    `ask` takes a query and what is to be done with the answer; False: it gets none.
    """

    def __init__(
        self,
        loop: Loop,
        ask: Callable[[bytes, Answer], bool],
        client: socket.socket,
        ended: Callable[[StreamClient], None],
    ) -> None:
        self._loop, self._ask, self._client, self._ended = loop, ask, client, ended
        self._incoming, self._outgoing = b"", b""
        self._under_way = 0
        self._events = READ
        self._idle = loop.later(_IDLE, self._expire)
        loop.add(client.fileno(), READ, self._on_event)

    def close(self) -> None:
        """Idempotent."""
        if self._client.fileno() < 0:
            return
        self._idle.cancel()
        self._loop.remove(self._client.fileno())
        self._client.close()
        self._ended(self)

    def _on_event(self, events: int) -> None:
        try:
            if events & WRITE:
                self._flush()
            elif not self._receive():
                self.close()
                return
        except OSError:
            self.close()
            return
        self._take()

    def _receive(self) -> bool:
        try:
            data = self._client.recv(MAX_QUERY + 2)
        except BlockingIOError:
            return True
        self._incoming += data
        return bool(data)

    def _take(self) -> None:
        """Answer what has come, as long as the client takes answers."""
        while len(self._incoming) >= 2 and self._under_way < _MAX_PIPELINED and self._client.fileno() >= 0:
            (length,) = struct.unpack("!H", self._incoming[:2])
            if length > MAX_QUERY:
                self.close()
                return
            if len(self._incoming) < 2 + length:
                break
            query, self._incoming = self._incoming[2 : 2 + length], self._incoming[2 + length :]
            self._renew()
            self._under_way += 1
            if not self._ask(query, self._answer(query[:2])):
                self.close()
                return
        self._watch()

    def _answer(self, number: bytes) -> Answer:
        def answer(said: bytes) -> None:
            if self._client.fileno() < 0:
                return
            self._outgoing += struct.pack("!H", 2 + len(said)) + number + said
            try:
                self._flush()
            except OSError:
                self.close()
                return
            self._under_way -= 1
            self._take_later()

        return answer

    def _take_later(self) -> None:
        """Not from within: an answer may come while queries are being taken."""
        if self._incoming:
            self._loop.later(0.0, self._go_on)
        else:
            self._watch()

    def _go_on(self) -> None:
        if self._client.fileno() >= 0:
            self._take()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                self._outgoing = self._outgoing[self._client.send(self._outgoing) :]
                self._renew()
        except BlockingIOError:
            pass
        if len(self._outgoing) > _MAX_QUEUED:
            raise ConnectionError("the client does not take its answers")

    def _renew(self) -> None:
        self._idle.cancel()
        self._idle = self._loop.later(_IDLE, self._expire)

    def _expire(self) -> None:
        if self._under_way and not self._outgoing:
            self._renew()  # it waits for us
        else:
            self.close()

    def _watch(self) -> None:
        """Read only when the client takes its answers."""
        if self._client.fileno() < 0:
            return
        full = self._under_way >= _MAX_PIPELINED
        events = WRITE if self._outgoing else 0 if full else READ
        if events != self._events:
            self._events = events
            self._loop.change(self._client.fileno(), events)
