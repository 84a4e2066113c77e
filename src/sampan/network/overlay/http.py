"""A small HTTP/1.1 client for JSON over asyncio: what etcd's gateway takes, bounded in everything it reads.

One request per connection, so that nothing has to be known about an earlier answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from sampan.errors import Unavailable

MAX_BODY = 32 << 20
_MAX_LINE = 1 << 20
_MAX_HEADERS = 100
_CONNECT_SECONDS = 3.0
_HEAD_SECONDS = 5.0
"""Also for an answer that never ends: that it begins is to be seen soon."""


class Unreachable(Unavailable):
    """There was no connection: nothing was asked."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


async def post(
    address: Address, path: str, body: bytes, headers: Mapping[str, str], *, seconds: float
) -> Answer:
    """Raises `Unavailable` with the reason: no connection, no answer in time, none that makes sense."""
    try:
        async with asyncio.timeout(seconds):
            async with opened(address, path, body, headers) as stream:
                parts, size = [], 0
                async for part in stream.body():
                    size += len(part)
                    if size > MAX_BODY:
                        _broken(address, f"the answer is larger than {MAX_BODY >> 20} MiB")
                    parts.append(part)
                return Answer(stream.status, stream.headers, b"".join(parts))
    except TimeoutError:
        raise Unavailable(f"{address} does not answer within {seconds:.0f} s") from None


class Stream:
    """An answer whose body comes in time."""

    def __init__(
        self,
        address: Address,
        reader: asyncio.StreamReader,
        transport: asyncio.WriteTransport,
        status: int,
        headers: Mapping[str, str],
    ):
        self._address = address
        self._reader = reader
        self._transport = transport
        self.status = status
        self.headers = headers

    def abort(self) -> None:
        """Whoever reads it sees it break off."""
        self._transport.abort()

    async def body(self) -> AsyncIterator[bytes]:
        """Pieces of the body until its end. Raises `Unavailable` when it breaks off."""
        try:
            if self.headers.get("transfer-encoding", "").lower() == "chunked":
                async for part in self._chunks():
                    yield part
            elif "content-length" in self.headers:
                yield await self._reader.readexactly(self._number(self.headers["content-length"], 10))
            else:
                while part := await self._reader.read(1 << 16):
                    yield part
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise Unavailable(f"{self._address} broke off its answer: {_reason(error)}") from error

    async def lines(self) -> AsyncIterator[bytes]:
        """The body line by line, without line ends."""
        rest = bytearray()
        async for part in self.body():
            first, *more = part.split(b"\n")
            rest += first
            if len(rest) > MAX_BODY:
                _broken(self._address, "a line of the answer has no end")
            for after in more:
                if rest:
                    yield bytes(rest)
                rest = bytearray(after)
        if rest:
            yield bytes(rest)

    async def _chunks(self) -> AsyncIterator[bytes]:
        """RFC 9112, section 7.1."""
        while True:
            line = await self._reader.readuntil(b"\r\n")
            size = self._number(line.partition(b";")[0].strip().decode("latin-1"), 16)
            if size == 0:
                return
            yield await self._reader.readexactly(size)
            await self._reader.readexactly(2)

    def _number(self, text: str, base: int) -> int:
        digits = "0123456789abcdef"[:base]
        if not 0 < len(text) <= 9 or any(letter not in digits for letter in text.lower()):
            _broken(self._address, "the answer's length is not a number")
        value = int(text, base)
        if value > MAX_BODY:
            _broken(self._address, f"the answer is larger than {MAX_BODY >> 20} MiB")
        return value


@contextlib.asynccontextmanager
async def opened(
    address: Address, path: str, body: bytes, headers: Mapping[str, str]
) -> AsyncIterator[Stream]:
    """A request has been sent and answered; the connection ends with the block. Raises `Unavailable`."""
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=address.tls, limit=_MAX_LINE
            )
    except (OSError, TimeoutError, UnicodeError) as error:  # the last: a name that is none
        raise Unreachable(f"cannot connect to {address}: {_reason(error)}") from error
    try:
        try:
            fields = {
                "Host": str(address),
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                "Connection": "close",
                **headers,
            }
            head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            writer.write(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)
            async with asyncio.timeout(_HEAD_SECONDS):
                await writer.drain()
                status, answered = await _head(address, reader)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise Unavailable(f"{address} does not answer: {_reason(error)}") from error
        yield Stream(address, reader, writer.transport, status, answered)
    finally:
        writer.transport.abort()


async def _head(address: Address, reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    line = (await reader.readuntil(b"\r\n")).decode("latin-1").split(" ", 2)
    if len(line) < 2 or not line[0].startswith("HTTP/1.") or not (line[1].isdecimal() and len(line[1]) == 3):
        _broken(address, "it does not speak HTTP")
    headers: dict[str, str] = {}
    for _ in range(_MAX_HEADERS):
        field = (await reader.readuntil(b"\r\n")).decode("latin-1").rstrip("\r\n")
        if not field:
            return int(line[1]), headers
        name, _, value = field.partition(":")
        headers[name.strip().lower()] = value.strip()
    raise _nonsense(address, "the answer has too many header fields")


def _broken(address: Address, what: str) -> NoReturn:
    raise _nonsense(address, what)


def _nonsense(address: Address, what: str) -> Unavailable:
    return Unavailable(f"the answer of {address} makes no sense: {what}")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, asyncio.IncompleteReadError):
        return "the connection was closed"
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
