"""Asking the host's resolvers: UDP or TCP as the client did, one server after the other."""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Sequence

from sampan.network.dns_message import Query, is_failure, is_reply_to, passed_on, with_id

TIMEOUT = 4.0  # seconds for each server, as Docker
MAX_SERVERS = 3  # as the C library
PORT = 53


class _Answer(asyncio.DatagramProtocol):
    def __init__(self, query: Query, number: int, future: asyncio.Future[bytes]) -> None:
        self._query, self._number, self._future = query, number, future

    def datagram_received(self, data: bytes, _address: object) -> None:
        if not self._future.done() and is_reply_to(data, self._query, self._number):
            self._future.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._future.done():
            self._future.set_exception(exc)


def server_address(text: str) -> tuple[str, int]:
    """("192.0.2.1", 53) of "192.0.2.1" or "192.0.2.1#5353" (the port as dnsmasq and systemd write it)."""
    host, _, port = text.partition("#")
    return host, int(port or PORT)


async def _ask_udp(query: Query, server: tuple[str, int]) -> bytes:
    """From a fresh port and with a fresh id, which is what a forger would have to guess."""
    number = secrets.randbelow(1 << 16)
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bytes] = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Answer(query, number, future), remote_addr=server
    )
    try:
        transport.sendto(with_id(query.raw, number))
        return await future
    finally:
        transport.close()


async def _ask_tcp(query: Query, server: tuple[str, int]) -> bytes:
    number = secrets.randbelow(1 << 16)
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(struct.pack("!H", len(query.raw)) + with_id(query.raw, number))
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        reply = await reader.readexactly(length)
    finally:
        writer.close()
    if not is_reply_to(reply, query, number):
        raise ConnectionError("the resolver answered something else")
    return reply


async def forward(
    query: Query, servers: Sequence[str], *, tcp: bool, timeout: float = TIMEOUT
) -> bytes | None:
    """The first good answer, with the client's id; else the last bad one (SERVFAIL, REFUSED); else None.

    A truncated answer over UDP is passed on as it is: the client then asks over TCP, and so do we.
    """
    last: bytes | None = None
    for server in servers[:MAX_SERVERS]:
        try:
            async with asyncio.timeout(timeout):
                reply = await (_ask_tcp if tcp else _ask_udp)(query, server_address(server))
        except (
            OSError,
            asyncio.IncompleteReadError,
        ):  # no answer (TimeoutError is an OSError), or none there
            continue
        last = passed_on(reply, query)
        if not is_failure(last):
            return last
    return last
