"""The name server at 127.0.0.11 of containers on user-defined networks.

It runs on the daemon's event loop; only its sockets are inside the containers' namespaces. Names of the
network are answered from records; everything else is asked of the host's resolvers, from the host's
namespace (so that a resolver on the host's loopback works too).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Coroutine, Sequence

from sampan.linux.netlink_namespace import in_namespace
from sampan.network import dns_message
from sampan.network.dns_forward import TIMEOUT, forward
from sampan.network.dns_sockets import open_sockets
from sampan.network.model import NameRecords

_log = logging.getLogger(__name__)

_MAX_QUERIES = 256  # of one container under way at once; more are refused
_MAX_CONNECTIONS = 32  # of one container over TCP
_IDLE = 10.0  # seconds until a silent TCP client is dropped
_MAX_QUEUED = 1 << 16  # bytes of answers that a client over TCP does not take


def _open_in(namespace: int) -> tuple[socket.socket, socket.socket]:
    """With a descriptor of its own: who gives up waiting may close his, and its number may get another meaning."""
    try:
        return in_namespace(namespace, open_sockets)
    finally:
        os.close(namespace)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, served: ServedNamespace) -> None:
        self._served = served

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        query = dns_message.parse_query(data)
        if query is None:
            return
        reply = self._served.answer_nowait(query)
        if reply is not None:
            self._transport.sendto(dns_message.fit(reply, query), address)
        else:
            self._served.start(self._forward(query, address))

    async def _forward(self, query: dns_message.Query, address: tuple[str, int]) -> None:
        reply = await self._served.forward(query, tcp=False)
        if not self._transport.is_closing():
            self._transport.sendto(reply, address)


class ServedNamespace:
    """The name server of one container: made by `NameServer.serve`."""

    def __init__(self, server: NameServer, records: NameRecords, upstream: tuple[str, ...] | None) -> None:
        self._server = server
        self._records = records
        self._upstream = upstream
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._transport: asyncio.BaseTransport | None = None
        self._listener: asyncio.Server | None = None

    async def open(self, namespace: int) -> None:
        datagrams, stream = await asyncio.to_thread(_open_in, os.dup(namespace))
        loop = asyncio.get_running_loop()
        try:
            self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagrams)
            self._listener = await asyncio.start_server(self._serve_stream, sock=stream, limit=_MAX_QUEUED)
        except BaseException:
            self.close()
            datagrams.close()
            stream.close()
            raise

    def update(self, records: NameRecords) -> None:
        """Replace the records; the next query sees them."""
        self._records = records

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        if self._transport is not None:
            self._transport.close()
        if self._listener is not None:
            self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        self._server.forget(self)

    def start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def answer_nowait(self, query: dns_message.Query) -> bytes | None:
        """The answer, when no resolver has to be asked for it."""
        self._turn += 1
        reply = dns_message.answer(query, self._records, self._turn)
        if reply is None and not self._records.forward:
            return dns_message.failure(query)
        if reply is None and len(self._tasks) >= _MAX_QUERIES:
            return dns_message.refusal(query)
        return reply

    async def forward(self, query: dns_message.Query, *, tcp: bool) -> bytes:
        servers = self._server.upstream if self._upstream is None else self._upstream
        reply = await forward(query, servers, tcp=tcp, timeout=self._server.timeout)
        return dns_message.failure(query) if reply is None else reply

    async def _serve_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= _MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        self._connections += 1
        try:
            await self._answer_stream(reader, writer)
        except (OSError, asyncio.IncompleteReadError):  # it went away, or said nothing for too long
            _log.debug("a name server client over TCP has ended")
        finally:
            self._connections -= 1
            if task is not None:
                self._tasks.discard(task)
            writer.close()

    async def _answer_stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(_IDLE):
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                if length > dns_message.MAX_QUERY:
                    return
                query = dns_message.parse_query(await reader.readexactly(length))
            if query is None:
                return
            reply = self.answer_nowait(query)
            if reply is None:
                reply = await self.forward(query, tcp=True)
            writer.write(struct.pack("!H", len(reply)) + reply)
            async with asyncio.timeout(_IDLE):
                await writer.drain()


class NameServer:
    """Answers queries of all containers of one engine. Use it from the event loop's thread only."""

    def __init__(self, upstream: Sequence[str], *, timeout: float = TIMEOUT) -> None:
        """`upstream`: addresses of the host's resolvers, asked from the host's namespace in this order
        ("address" or "address#port"). `timeout`: seconds for each."""
        self.upstream = tuple(upstream)
        self.timeout = timeout
        self._served: set[ServedNamespace] = set()

    async def serve(
        self, namespace: int, records: NameRecords, upstream: Sequence[str] | None = None
    ) -> ServedNamespace:
        """Answer at 127.0.0.11:53 (UDP and TCP) in the namespace (a descriptor, not kept); takes over from an engine
        that served there before.

        `upstream` replaces the host's resolvers for this container (`--dns`). Conflict: see `open_sockets`.
        """
        served = ServedNamespace(self, records, None if upstream is None else tuple(upstream))
        await served.open(namespace)
        self._served.add(served)
        return served

    def forget(self, served: ServedNamespace) -> None:
        self._served.discard(served)

    async def close(self) -> None:
        """Close every served namespace."""
        for served in list(self._served):
            served.close()
