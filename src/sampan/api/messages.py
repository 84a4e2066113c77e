"""Requests and responses of the Engine API's HTTP server, as handlers see them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec

from sampan.errors import Invalid

T = TypeVar("T")

DRY_RUN = "dry-run"
"""Beyond Docker, of the prunes: nothing is removed, the answer says what would be; see `sampan.api.trials`."""

MAX_JSON_BODY = 4 * 1024 * 1024
"""Bytes of a request body that is decoded in memory; uploads are streamed and have no such bound."""


class Connection(Protocol):
    """What a request needs of the connection that it came by."""

    @property
    def same_host(self) -> bool:
        """The client is on this host: it has connected to a Unix socket."""

    async def read_body(self) -> bytes: ...

    async def take_socket(self, head: bytes) -> tuple[socket.socket, bytes]: ...


@dataclass(frozen=True, slots=True)
class Hijacked:
    """A connection taken out of HTTP's hands: raw bytes flow both ways from now on.

    The receiver owns `socket` and must close it; `preread` are bytes that the client had sent already.
    """

    socket: socket.socket
    preread: bytes


class Request:
    """One HTTP request. `headers` has lower-case names; `query` has the last value of each name."""

    __slots__ = ("_body", "_connection", "_query", "closed", "headers", "match", "method", "path", "version")

    def __init__(
        self,
        method: str,
        path: str,
        query: Mapping[str, list[str]],
        headers: Mapping[str, str],
        connection: Connection,
        *,
        version: str = "",
    ) -> None:
        self.method = method
        self.path = path
        self.version = version
        self.headers = headers
        self.match: dict[str, str] = {}
        self.closed = asyncio.Event()
        """Set when the client went away."""
        self._query = query
        self._connection = connection
        self._body: bytes | None = None

    @property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in self._query.items()}

    def get(self, name: str, default: str = "") -> str:
        """The first value, as Docker takes it: docker-py sends `dockerfile` with the file's content behind its name."""
        values = self._query.get(name)
        return values[0] if values else default

    @property
    def same_host(self) -> bool:
        """The client has connected to a Unix socket of this host."""
        return self._connection.same_host

    def query_list(self, name: str) -> list[str]:
        return self._query.get(name, [])

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean in the query, true and false as Docker's daemon reads them."""
        text = self.get(name).strip().lower()
        if not text:
            return default if name not in self._query else False
        return text not in ("0", "no", "false", "none")

    def integer(self, name: str, default: int | None = None) -> int | None:
        text = self.get(name)
        if not text:
            return default
        try:
            return int(text)
        except ValueError:
            raise Invalid(f"invalid value {text!r} for {name}: expected a number") from None

    def filters(self) -> dict[str, list[str]]:
        """The `filters` parameter in either of its forms: {"k": ["v"]} or {"k": {"v": true}}."""
        text = self.get("filters")
        if not text:
            return {}
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError):
            raise Invalid(f"invalid filters {text[:200]!r}: expected a JSON object") from None
        if not isinstance(raw, dict):
            raise Invalid(f"invalid filters {text[:200]!r}: expected a JSON object")
        return {name: _filter_values(name, values) for name, values in raw.items()}

    async def body(self, limit: int = MAX_JSON_BODY) -> bytes:
        """The whole body; `Invalid` when it has more than `limit` bytes."""
        if self._body is None:
            parts: list[bytes] = []
            total = 0
            async for chunk in self.stream():
                total += len(chunk)
                if total > limit:
                    raise Invalid(f"request body is larger than {limit} bytes")
                parts.append(chunk)
            self._body = b"".join(parts)
        return self._body

    async def decode(self, kind: type[T]) -> T:
        """The JSON body as `kind`; an empty body is an empty object. `Invalid` when it does not fit."""
        raw = await self.body()
        try:
            return msgspec.json.decode(raw or b"{}", type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Invalid(f"invalid JSON: {error}") from error
        except RecursionError as error:
            raise Invalid("invalid JSON: it is nested too deeply") from error

    async def stream(self) -> AsyncIterator[bytes]:
        """The body in pieces as they arrive, for uploads; `ConnectionError` if the client goes away in it."""
        while chunk := await self._connection.read_body():
            yield chunk

    async def hijack(
        self, content_type: str = "application/vnd.docker.raw-stream", protocol: str = "tcp"
    ) -> Hijacked:
        """Answer the upgrade and take the connection; nothing else can be sent by HTTP afterwards."""
        if self.headers.get("upgrade"):
            head = (
                f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\n"
                f"Connection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
            )
        else:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n"
        taken, preread = await self._connection.take_socket(head.encode())
        return Hijacked(taken, preread)


def _filter_values(name: str, values: object) -> list[str]:
    if isinstance(values, dict):
        return [str(value) for value, wanted in values.items() if wanted]
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return values
    raise Invalid(f"invalid filter {name!r}: expected a list of strings")


@dataclass(slots=True)
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@dataclass(slots=True)
class StreamingResponse:
    """A response whose body is produced bit by bit (chunked).

    The status line is sent with the first chunk, so that an error before it still becomes a status of
    its own; `flush_headers` sends it at once (for `wait`, `events`, `logs`: their clients wait for it).
    When the client goes away, the iterator is closed (`aclose`).
    `bulk`: much data for one client, which may wait in the socket.
    """

    chunks: AsyncIterator[bytes]
    content_type: str = "application/json"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    flush_headers: bool = False
    bulk: bool = False


class HijackedResponse:
    """Returned by a handler that took the connection over: nothing is left to send."""


AnyResponse = Response | StreamingResponse | HijackedResponse

Handler = Callable[[Any, Request], Awaitable[AnyResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """`pattern` has `{name}` for one path segment and `{name*}` for one or more."""

    method: str
    pattern: str
    handler: Handler


def json_response(value: object, status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(value) + b"\n")


def no_content() -> Response:
    return Response(204)
