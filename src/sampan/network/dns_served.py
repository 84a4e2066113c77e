"""One container's name server: its two sockets in the container's namespace, and who asks there."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence

from sampan.linux import namespaces
from sampan.network.dns_forward import Exchange, open_here
from sampan.network.dns_loop import READ, Due, Loop
from sampan.network.dns_message import (
    MAX_QUERY,
    MAX_STREAM,
    Query,
    answers,
    failure,
    fit,
    parse_query,
    refusal,
)
from sampan.network.dns_records import Directory
from sampan.network.dns_stream import Answer, StreamClient
from sampan.network.model import Outlook
from sampan.network.relay_room import Room
from sampan.network.resolvconf import EMBEDDED

_ROUNDS = 64  # datagrams of one container before the others get their turn,
_FRESH = 4  # and of those that have to be read by the library
_MAX_KNOWN = 512  # questions of one outlook whose answers are kept
_MAX_WAITING = 256  # queries of one container that are forwarded at once; more are refused
_MAX_CONNECTIONS = 32  # of one container over TCP
_PAUSE = 0.2  # seconds without accepting when descriptors have run out
_SIOCGSKNS = 0x894C  # a descriptor of the namespace that a socket belongs to (linux/sockios.h)


class Turns:
    """Several answers to one question, given in turn: the round robin of shared names."""

    __slots__ = ("_answers", "_next")

    def __init__(self, found: list[bytes]) -> None:
        self._answers, self._next = found, 0

    def next(self) -> bytes:
        self._next = (self._next + 1) % len(self._answers)
        return self._answers[self._next]


Known = bytes | Turns | Query
"""The answer to a question, or a question that is to be forwarded."""


class View:
    """An outlook, and what has been found out for those who have it.

    By the question's bytes, all but the id: one that was asked before is answered without being read. Forgotten
    whenever one of its networks changes.
    """

    def __init__(self, outlook: Outlook, directory: Directory) -> None:
        self.outlook = outlook
        self._directory = directory
        self.datagrams: OrderedDict[bytes, Known] = OrderedDict()
        self.streams: OrderedDict[bytes, Known] = OrderedDict()

    def forget(self) -> None:
        self.datagrams.clear()
        self.streams.clear()

    def find(self, data: bytes, *, stream: bool) -> Known | None:
        """Read a question that is not known yet; None: it gets no answer."""
        query = parse_query(data)
        if not isinstance(query, Query):
            return query  # nothing to keep: it is cheap, and a stranger's
        limit = MAX_STREAM if stream else query.udp_size
        found = answers(query, self._directory, self.outlook, limit)
        known: Known = query if found is None else found[0] if len(found) == 1 else Turns(found)
        kept = self.streams if stream else self.datagrams
        if len(kept) >= _MAX_KNOWN:
            kept.popitem(last=False)
        kept[data[2:]] = known
        return known


class Surroundings:
    """What all served containers have in common."""

    def __init__(self, loop: Loop, resolvers: Callable[[], Sequence[str]], timeout: float) -> None:
        self.loop, self.resolvers, self.timeout = loop, resolvers, timeout
        self.room = Room(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def open_beside(self, neighbour: socket.socket, family: int, kind: int) -> socket.socket:
        """A socket in the namespace of another one. This process has one thread, so nobody else is led astray; if the
        way back fails, the process ends, and the daemon starts another."""
        namespace = fcntl.ioctl(neighbour.fileno(), _SIOCGSKNS)
        try:
            namespaces.join(namespace, namespaces.NEWNET)
        finally:
            os.close(namespace)
        try:
            return open_here(family, kind)
        finally:
            try:
                namespaces.join(self._own, namespaces.NEWNET)
            except OSError as exc:
                raise SystemExit(f"the name server can not leave a container's namespace: {exc}") from exc


class Served:
    """`namespace`: its inode."""

    def __init__(
        self,
        surroundings: Surroundings,
        namespace: int,
        datagrams: socket.socket,
        stream: socket.socket,
        view: View,
    ) -> None:
        self.namespace = namespace
        self.sockets = datagrams, stream
        self.view = view
        self._surroundings, self._loop = surroundings, surroundings.loop
        self._exchanges: dict[tuple[bool, bytes], Exchange] = {}
        self._waiting = 0
        self._clients: set[StreamClient] = set()
        self._pause: Due | None = None
        self._closed = False
        self._room = surroundings.room
        self._room.take(len(self.sockets))
        for one in self.sockets:
            one.setblocking(False)
        self._loop.add(datagrams.fileno(), READ, self._on_datagrams)
        self._loop.add(stream.fileno(), READ, self._on_client)

    @property
    def busy(self) -> bool:
        """Somebody waits for the answer of a resolver."""
        return bool(self._exchanges)

    def leave(self) -> None:
        """Take nothing more from the sockets; somebody else has them now. What is under way is answered."""
        for one in self.sockets:
            self._loop.remove(one.fileno())
        if self._pause is not None:
            self._pause.cancel()

    def close(self) -> None:
        self._closed = True
        self.leave()
        for exchange in self._exchanges.values():
            exchange.close()
        self._room.give_back(len(self._exchanges) + len(self.sockets))
        self._exchanges.clear()
        for client in list(self._clients):
            client.close()
        for one in self.sockets:
            one.close()

    def _on_datagrams(self, _events: int) -> None:
        bound = self.sockets[0]
        receive, send, known_ones = bound.recvfrom, bound.sendto, self.view.datagrams
        fresh = _FRESH
        for _ in range(_ROUNDS):
            try:
                data, client = receive(MAX_QUERY + 1)
            except (
                OSError
            ):  # nothing more; or an error of an earlier answer, and there may be more at the next turn
                return
            known = known_ones.get(data[2:])
            if known.__class__ is bytes:
                answer = known
            elif known.__class__ is Turns:
                answer = known.next()
            else:
                self._ask(data, known, self._to(client, data[:2]), stream=False)
                fresh -= 1
                if not fresh:
                    return
                continue
            try:
                send(data[:2] + answer, client)
            except OSError:
                continue  # its socket is gone, or nothing fits into the queue: datagrams may be lost

    def _to(self, client: tuple[str, int], number: bytes) -> Answer:
        def answer(said: bytes) -> None:
            try:
                self.sockets[0].sendto(number + said, client)
            except OSError:
                return  # as above

        return answer

    def ask(self, data: bytes, reply: Answer) -> bool:
        """A query over TCP. False: it gets no answer."""
        known = self.view.streams.get(data[2:])
        return self._ask(data, known, reply, stream=True)

    def _ask(self, data: bytes, known: Known | None, reply: Answer, *, stream: bool) -> bool:
        if known is None:
            known = self.view.find(data, stream=stream)
            if known is None:
                return False
        if isinstance(known, Turns):
            reply(known.next())
        elif isinstance(known, Query):
            self._forward(known, reply, stream=stream)
        else:
            reply(known)
        return True

    def _forward(self, query: Query, reply: Answer, *, stream: bool) -> None:
        servers = self._servers()
        if not servers:
            reply(failure(query))
            return
        if self._waiting >= _MAX_WAITING:
            reply(refusal(query))
            return
        self._waiting += 1
        key = stream, query.raw[2:]
        under_way = self._exchanges.get(key)
        if under_way is not None:
            under_way.waiting.append(reply)
            return
        if not self._has_room():
            self._waiting -= 1
            reply(refusal(query))
            return
        self._room.take(1)

        def done(answer: bytes) -> None:
            del self._exchanges[key]
            self._room.give_back(1)
            self._waiting -= len(exchange.waiting)
            said = answer if stream else fit(answer, query)
            for waiting in exchange.waiting:
                waiting(said)

        exchange = Exchange(
            self._loop,
            query,
            servers,
            open_here if self.view.outlook.servers is None else self._open_inside,
            stream=stream,
            timeout=self._surroundings.timeout,
            done=done,
        )
        exchange.waiting.append(reply)
        self._exchanges[key] = exchange
        exchange.start()

    def _has_room(self) -> bool:
        """For one more socket: containers that ask without end leave the others theirs."""
        return self._room.has(len(self._exchanges) + len(self._clients), 1)

    def _servers(self) -> Sequence[str]:
        outlook = self.view.outlook
        if outlook.servers is not None:
            # Its own address would be itself.
            return [server for server in outlook.servers if server.partition("#")[0] != EMBEDDED]
        return self._surroundings.resolvers() if outlook.host_resolvers else ()

    def _open_inside(self, family: int, kind: int) -> socket.socket:
        return self._surroundings.open_beside(self.sockets[0], family, kind)

    def _on_client(self, _events: int) -> None:
        try:
            client, _ = self.sockets[1].accept()
        except OSError as exc:
            if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._loop.remove(self.sockets[1].fileno())
                self._pause = self._loop.later(_PAUSE, self._listen)
            return
        if len(self._clients) >= _MAX_CONNECTIONS or not self._has_room():
            client.close()
            return
        client.setblocking(False)
        self._room.take(1)
        self._clients.add(StreamClient(self._loop, self.ask, client, self._client_left))

    def _client_left(self, client: StreamClient) -> None:
        self._clients.discard(client)
        self._room.give_back(1)

    def _listen(self) -> None:
        self._loop.add(self.sockets[1].fileno(), READ, self._on_client)
