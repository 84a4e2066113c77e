"""Published ports of UDP: a connected socket for each client, which ends when nobody has used it for its time."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Sequence

from sampan.network.relay_loop import ROUNDS, Loop
from sampan.network.relay_port import family

UDP_IDLE = 90.0  # seconds, as Docker's proxy
UDP_SESSIONS = 2048  # for each port; the oldest goes
_DATAGRAM = 65536
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO, _IPV6_PKTINFO = 49, 50

Ancillary = list[tuple[int, int, bytes]]


class UdpSession:
    """One client of a UDP port. It answers from the address of ours that the client has written to."""

    def __init__(self, server: socket.socket, client: tuple[object, ...], source: Ancillary) -> None:
        self.server, self.client, self.source = server, client, source
        self.used = time.monotonic()


class UdpPort:
    def __init__(self, loop: Loop, bound: socket.socket, target: tuple[str, int]) -> None:
        self._loop, self._bound, self._target = loop, bound, target
        self._sessions: OrderedDict[object, UdpSession] = OrderedDict()
        bound.setblocking(False)
        loop.add(bound.fileno(), select.EPOLLIN, self._on_client)

    @property
    def busy(self) -> bool:
        return bool(self._sessions)

    def _on_client(self, _events: int) -> None:
        for _ in range(ROUNDS):
            try:
                data, ancillary, _, client = self._bound.recvmsg(_DATAGRAM, 256)
            except OSError:  # nothing more, or an ICMP error of an earlier answer
                return
            session = self._session(client, answer_from(ancillary))
            if session is None:
                return
            try:
                session.server.send(data)
            except OSError:
                continue  # datagrams may be lost: the container does not listen, or its queue is full

    def _session(self, client: tuple[object, ...], source: Ancillary) -> UdpSession | None:
        key = (client, tuple(source))
        session = self._sessions.get(key)
        if session is None:
            while self._sessions and self._is_full():
                self._end(next(iter(self._sessions)))
            server = _connected(self._target)
            if server is None:
                return None
            self._loop.room.take(1)
            session = self._sessions[key] = UdpSession(server, client, source)
            self._loop.add(server.fileno(), select.EPOLLIN, lambda _: self._on_answer(key))
            self._loop.expect(self._sweep, UDP_IDLE)
        self._sessions.move_to_end(key)
        session.used = time.monotonic()
        return session

    def _is_full(self) -> bool:
        own = len(self._sessions)
        return own >= UDP_SESSIONS or not self._loop.room.has(own, 1)

    def _on_answer(self, key: object) -> None:
        session = self._sessions[key]
        for _ in range(ROUNDS):
            try:
                data = session.server.recv(_DATAGRAM)
                self._bound.sendmsg([data], session.source, 0, session.client)
            except OSError:
                return  # nothing more, "connection refused" by the container, or the client is unreachable
            session.used = time.monotonic()
            self._sessions.move_to_end(key)

    def _end(self, key: object) -> None:
        session = self._sessions.pop(key)
        self._loop.remove(session.server.fileno())
        session.server.close()
        self._loop.room.give_back(1)

    def _sweep(self, now: float) -> float | None:
        while self._sessions:
            key, session = next(iter(self._sessions.items()))
            if now - session.used < UDP_IDLE:
                return session.used + UDP_IDLE - now
            self._end(key)
        return None

    def close(self, *, sessions: bool) -> None:
        """UDP has no connections that could go on without the socket; all sessions end."""
        if self._bound.fileno() < 0:
            return
        for key in list(self._sessions):
            self._end(key)
        self._loop.remove(self._bound.fileno())
        self._bound.close()


def _connected(target: tuple[str, int]) -> socket.socket | None:
    """None when descriptors have run out, or no way leads there (the bridge is gone): a datagram may be lost."""
    try:
        server = socket.socket(family(target), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError:
        return None
    try:
        server.connect(target)
    except OSError:
        server.close()
        return None
    return server


def report_destination(bound: socket.socket) -> None:
    """Have the kernel say with each datagram which of our addresses it came to. It notes that when the datagram
    arrives, so this is for the one who binds the socket."""
    if bound.family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    else:
        bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def answer_from(ancillary: Sequence[tuple[int, int, bytes]]) -> Ancillary:
    """Ancillary data that sends from the address a datagram came to. A broadcast can't be answered from.

    struct in_pktinfo is (interface index, local address, destination), struct in6_pktinfo (address, index).
    """
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            _, local, _ = struct.unpack("=i4s4s", data[:12])
            return [(socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4s", 0, local, bytes(4)))]
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
            return [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, data[:20])]
    return []
