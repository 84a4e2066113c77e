"""The relay: published ports as listening sockets of the host, where NAT will not do. A process of its own.

    python -m sampan.network.relay <control descriptor> <door descriptor>

It is given bound sockets over the control socket (SOCK_SEQPACKET, one text message each, SCM_RIGHTS):
    "add <id> tcp|udp|sctp <address> <port>" with the socket;  "remove <id>", answered "removed <id>";
"release <id>", the same but that connections go on;  "stop".
TCP moves by splice(2) through a pipe for each direction; UDP has a connected socket for each client.
When the daemon dies it goes on serving. The next daemon says "retire" at the door, a listening abstract socket
with the name of `retire_address` that was made before this process: the listening sockets are closed, "retired" is
answered, and the process ends with its last connection. Few imports: its memory counts once per engine.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import struct
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol

from sampan.network.relay_room import Room

UDP_IDLE = 90.0  # seconds, as Docker's proxy
UDP_SESSIONS = 2048  # for each port; the oldest goes
_DATAGRAM = 65536
_MESSAGE = 1 << 18  # bytes of a longest message of SCTP; a longer one is cut in two
_SPLICE = 1 << 20
_ROUNDS = 16  # of one connection before the others get their turn
_EDGE = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO, _IPV6_PKTINFO = 49, 50
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL = 60, 15  # seconds
_SCTP = 132  # IPPROTO_SCTP, also the level of its options
_SCTP_NODELAY = 3
_PAUSE = (
    0.2  # seconds without accepting when a port has had its share of the descriptors, or they have run out
)
_OF_CONNECTION = 6  # descriptors: two sockets, two pipes
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Handler = Callable[[int], None]
Sweep = Callable[[float], float | None]
"""Given the time, ends what has timed out; returns in how many seconds to ask again (None: not needed)."""
Ancillary = list[tuple[int, int, bytes]]


def retire_address(instance: str) -> str:
    """The abstract Unix socket on which a relay that lost its daemon is told to make room."""
    return f"\0sampan-relay/{instance}"


def same_mounts(process: int) -> bool:
    """Whether a process has our mount namespace: no container has."""
    try:
        return os.path.samefile(f"/proc/{process}/ns/mnt", "/proc/self/ns/mnt")
    except OSError:
        return False  # it has ended


class Loop:
    """epoll with one handler for each descriptor, connections that have more to do, and what times out.

    Of a thousand ports most have nothing that could time out: an event costs the same however many there are.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self.again: dict[int, Handler] = {}
        self._due: dict[Sweep, float] = {}
        self._soonest = inf
        self.room = Room(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def add(self, descriptor: int, events: int, handler: Handler) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, events)

    def remove(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)
        self.again.pop(descriptor, None)

    def expect(self, sweep: Sweep, seconds: float) -> None:
        """Ask it in so many seconds, unless it is to be asked already."""
        at = self._due.setdefault(sweep, time.monotonic() + seconds)
        self._soonest = min(self._soonest, at)

    def expire(self, now: float) -> float | None:
        """Ask those whose time has come; returns the seconds to the next one (None: there is none)."""
        if now >= self._soonest:
            for sweep in [one for one, at in self._due.items() if at <= now]:
                again = sweep(now)
                if again is None:
                    del self._due[sweep]
                else:
                    self._due[sweep] = now + again
            self._soonest = min(self._due.values(), default=inf)
        return self._soonest - now if self._due else None

    def turn(self) -> None:
        timeout = self.expire(time.monotonic())
        waiting, self.again = self.again, {}
        events = dict(self._poll.poll(0 if waiting else timeout))
        for descriptor in {**waiting, **dict.fromkeys(events)}:
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler(events.get(descriptor, 0))


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
        for _ in range(_ROUNDS):
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
            for _ in range(_ROUNDS):
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


def _family(target: tuple[str, int]) -> int:
    return socket.AF_INET6 if ":" in target[0] else socket.AF_INET


def _keep_alive(end: socket.socket) -> None:
    """No delay for small pieces, and an end for connections whose other side has vanished; SCTP sees to that itself."""
    if end.proto == _SCTP:
        end.setsockopt(_SCTP, _SCTP_NODELAY, 1)
        return
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL)


class Port(Protocol):
    """What listens: one published port."""

    def close(self, *, sessions: bool) -> None:
        """Stop listening, and end the connections when `sessions`."""

    @property
    def busy(self) -> bool:
        """Somebody is connected."""


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
            server = socket.socket(_family(self._target), kind, self._listener.proto)
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
        for _ in range(_ROUNDS):
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
        for _ in range(_ROUNDS):
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
        server = socket.socket(_family(target), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
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


class Relay:
    def __init__(self, control: socket.socket, door: socket.socket) -> None:
        self._loop = Loop()
        self._ports: dict[str, Port] = {}
        self._leaving: list[Port] = []
        self._control = control
        self._running = True
        self._orphan = False
        self._retired = False
        control.setblocking(False)
        self._loop.add(control.fileno(), select.EPOLLIN, self._on_control)
        self._door = door
        door.settimeout(1)
        self._loop.add(self._door.fileno(), select.EPOLLIN, self._on_door)

    def run(self) -> None:
        while self._running:
            self._loop.turn()
            self._leaving = [port for port in self._leaving if port.busy]
            if (self._retired or (self._orphan and not self._ports)) and not self._leaving:
                return

    def _on_control(self, _events: int) -> None:
        self._take_message()

    def _take_message(self) -> bool:
        """Obey one message of the daemon; False when there is none."""
        if self._orphan:
            return False
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, 4096, 4)
        except BlockingIOError:
            return False
        except OSError:
            message, descriptors = b"", []
        if not message:
            self._loop.remove(self._control.fileno())
            self._control.close()
            self._orphan = True
            return False
        words = message.decode("ascii", "replace").split()
        if words[0] == "add" and len(words) == 5 and len(descriptors) == 1:
            self._add(words, socket.socket(fileno=descriptors[0]))
        elif words[0] in ("remove", "release") and len(words) == 2:
            port = self._ports.pop(words[1], None)
            if port is not None:
                port.close(sessions=words[0] == "remove")
                self._leaving.append(port)
            self._answer(f"removed {words[1]}")
        elif words[0] == "stop":
            self._running = False
        return True

    def _answer(self, text: str) -> None:
        try:
            self._control.send(text.encode())
        except OSError:  # the daemon is gone, as the next read will say
            return

    def _add(self, words: list[str], bound: socket.socket) -> None:
        _, key, protocol, address, number = words
        target = (address, int(number))
        self._ports[key] = (UdpPort if protocol == "udp" else StreamPort)(self._loop, bound, target)

    def _on_door(self, _events: int) -> None:
        """Only the same user outside of containers may say it: abstract sockets have no permissions, and a container
        with the host's network finds them too."""
        try:
            caller, _ = self._door.accept()
        except OSError:
            return
        with caller:
            caller.settimeout(1)
            credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            process, user, _ = struct.unpack("=iII", credentials)
            if user != os.geteuid() or not same_mounts(process):
                return
            try:
                if caller.recv(64) != b"retire":
                    return
                self._retire()
                caller.send(b"retired")
            except OSError:
                return  # the caller went away

    def _retire(self) -> None:
        while self._take_message():  # what a daemon that is gone has still sent holds sockets too
            pass
        self._loop.remove(self._door.fileno())
        self._door.close()
        for port in self._ports.values():
            port.close(sessions=False)
            self._leaving.append(port)
        self._ports.clear()
        self._retired = True


def main(arguments: Sequence[str]) -> int:
    control, door = (socket.socket(fileno=int(number)) for number in arguments)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Relay(control, door).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
