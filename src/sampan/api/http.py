"""The HTTP/1.1 server of the Engine API: connections on asyncio, parsed by httptools.

One request at a time per connection. Bytes that arrive while a request is being answered are kept
unparsed, because after a hijack they belong to whoever took the connection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

import httptools

from sampan import __version__
from sampan.api.messages import (
    AnyResponse,
    HijackedResponse,
    Request,
    Response,
    StreamingResponse,
    json_response,
)
from sampan.api.router import API_VERSION
from sampan.errors import Invalid, SampanError, http_status

log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 64 * 1024
CLOSE_SECONDS = 10.0
"""How long requests that were cancelled at the server's end may take to undo what they had begun."""
HEAD_SECONDS = 60.0
"""How long a client from the network may take for a request's head; one without any is not kept for ever."""
_BODY_HIGH_WATER = 1024 * 1024
MAX_METRICS_CLIENTS = 64
"""Connections to an address that anybody may ask: beyond these the oldest is closed."""
_PENDING_HIGH_WATER = 256 * 1024
_BULK_BUFFER = 4 << 20
_SO_SNDBUFFORCE = 32
"""As `SO_SNDBUF` (socket(7)), beyond what other users are allowed; Python has no name for it."""

_REASONS = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 304: "Not Modified", 400: "Bad Request",
    401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 409: "Conflict", 500: "Internal Server Error",
    501: "Not Implemented", 503: "Service Unavailable",
}  # fmt: skip

_COMMON = (
    f"Api-Version: {API_VERSION}\r\nDocker-Experimental: false\r\nOstype: linux\r\n"
    f"Server: Sampan/{__version__} (linux)\r\n"
)

Dispatch = Callable[[Request], Awaitable[AnyResponse]]


class _Message:
    """One request as it arrives: its head, and the pieces of its body that nobody has taken yet."""

    __slots__ = ("arrived", "body", "complete", "headers", "keep_alive", "request", "size", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[str, str] = {}
        self.keep_alive = True
        self.request: Request | None = None
        self.body: deque[bytes] = deque()
        self.size = 0
        self.complete = False
        self.arrived = asyncio.Event()


class HttpConnection(asyncio.Protocol):
    """One client connection."""

    def __init__(
        self,
        dispatch: Dispatch,
        connections: dict[HttpConnection, None],
        tasks: set[asyncio.Task[None]],
        head_seconds: float | None = None,
        max_connections: int | None = None,
    ) -> None:
        """The connection is among `connections` while it is open, its request's work among `tasks` to its end.

        `head_seconds`: for the first head from the connection's beginning, for each later one from its first byte.
        """
        self._head_seconds = head_seconds
        self._max_connections = max_connections
        self._head_timer: asyncio.TimerHandle | None = None
        self._dispatch = dispatch
        self._connections = connections
        self._tasks = tasks
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._incoming = _Message()
        self._waiting: deque[_Message] = deque()
        self._current: _Message | None = None
        self._pending = bytearray()
        self._upgrade_body: int | None = None
        self._head_size = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None
        self._streaming = False
        self._hijacked = False
        self._paused = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._connections[self] = None
        while self._max_connections is not None and len(self._connections) > self._max_connections:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.shut_down()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.pop(self, None)
        self._transport = None
        self._head_came()
        if self._hijacked:
            return
        self._writable.set()
        if self._current is not None and self._current.request is not None:
            self._current.arrived.set()
            self._current.request.closed.set()
        if self._streaming and self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._upgrade_body is not None:
            self._take_upgrade_body(data)
        elif self._current is not None and self._current.complete:
            self._pending += data
            if len(self._pending) > _PENDING_HIGH_WATER:
                self._pause()
        else:
            self._feed(data)

    def shut_down(self) -> None:
        """Close the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def _expect_head(self) -> None:
        if self._head_seconds is not None and self._head_timer is None:
            loop = asyncio.get_running_loop()
            self._head_timer = loop.call_later(self._head_seconds, self._head_is_late)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._current is not None:
            self._expect_head()  # a pipelined head is not read on before the request before it is answered
            return
        log.info("a connection is closed: no complete request head within %g s", self._head_seconds)
        self.shut_down()

    # httptools

    def on_message_begin(self) -> None:
        self._incoming = _Message()
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        self._incoming.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._incoming.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._head_size = 0
        self._head_came()
        message = self._incoming
        url = httptools.parse_url(message.url)
        path = (url.path or b"/").decode("utf-8", "replace")
        query = parse_qs((url.query or b"").decode("utf-8", "replace"), keep_blank_values=True)
        method = self._parser.get_method().decode("ascii")
        message.request = Request(method, path, query, message.headers, self)
        message.keep_alive = self._parser.should_keep_alive() and "upgrade" not in message.headers
        if self._current is None:
            self._begin(message)
        else:
            self._waiting.append(message)

    def on_body(self, body: bytes) -> None:
        self._head_size = 0
        message = self._incoming
        message.body.append(body)
        message.size += len(body)
        if message.size > _BODY_HIGH_WATER:
            self._pause()
        message.arrived.set()

    def on_message_complete(self) -> None:
        self._head_size = 0
        if (
            not self._parser.should_upgrade()
        ):  # else the parser means the head alone; the body is still to come
            self._complete()

    def _complete(self) -> None:
        self._incoming.complete = True
        self._incoming.arrived.set()

    # Connection, for Request

    async def read_body(self) -> bytes:
        """The next piece of the body, b"" at its end."""
        message = self._current
        if message is None:
            return b""
        while not message.body:
            if message.complete:
                return b""
            if self._transport is None:
                raise ConnectionResetError("the client closed the connection in the middle of the request")
            message.arrived.clear()
            await message.arrived.wait()
        chunk = message.body.popleft()
        message.size -= len(chunk)
        if message.size < _BODY_HIGH_WATER // 2:
            self._resume()
        return chunk

    @property
    def same_host(self) -> bool:
        if self._transport is None:
            return False
        connected = self._transport.get_extra_info("socket")
        return connected is not None and connected.family == socket.AF_UNIX

    async def take_socket(self, head: bytes) -> tuple[socket.socket, bytes]:
        while await self.read_body():
            pass  # what was not read of the request is not the stream's
        transport = self._transport
        if transport is None:
            raise ConnectionResetError("the client closed the connection")
        transport.set_write_buffer_limits(high=0)
        self._write(head)
        await self._writable.wait()
        transport.pause_reading()
        self._hijacked = True
        original = transport.get_extra_info("socket")
        taken = socket.socket(fileno=os.dup(original.fileno()))
        transport.abort()  # closes the descriptor without shutting the connection down
        return taken, bytes(self._pending)

    # Answering

    def _begin(self, message: _Message) -> None:
        self._current = message
        if message.headers.get("expect", "").lower() == "100-continue":
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if message.request is not None:
            self._task = asyncio.get_running_loop().create_task(self._answer(message.request))
            self._tasks.add(self._task)
            self._task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: Request) -> None:
        response: AnyResponse
        try:
            response = await self._dispatch(request)
        except SampanError as error:
            if self._hijacked:
                log.warning(
                    "%s %s failed after its connection was taken: %s", request.method, request.path, error
                )
                return
            response = error_response(error)
        except ConnectionError:
            self._close()
            return
        except Exception as error:
            full = _full_disk(error)
            if full:
                log.error("%s %s failed: %s", request.method, request.path, full)
            else:
                log.exception("%s %s failed", request.method, request.path)
            said = full or _replaced_engine(error) or "internal error, see the daemon's log"
            response = json_response({"message": said}, 500)
        if isinstance(response, HijackedResponse) or self._hijacked:
            return
        if isinstance(response, StreamingResponse):
            await self._send_stream(request, response)
        else:
            self._send(request, response)
        # Who does not take the answers to the requests it has sent is not given more of them.
        await self._writable.wait()
        await self._next_request()

    def _send(self, request: Request, response: Response) -> None:
        bodyless = response.status in (204, 304)
        length = "" if bodyless else f"Content-Length: {len(response.body)}\r\n"
        content_type = "" if bodyless or not response.body else f"Content-Type: {response.content_type}\r\n"
        head = self._head(response.status, response.headers, content_type + length)
        self._write(head + (b"" if bodyless or request.method == "HEAD" else response.body))

    async def _send_stream(self, request: Request, response: StreamingResponse) -> None:
        head = self._head(
            response.status,
            response.headers,
            f"Content-Type: {response.content_type}\r\nTransfer-Encoding: chunked\r\n",
        )
        self._streaming = True
        if response.bulk:
            self._widen()
        try:
            if response.flush_headers:
                self._write(head)
                head = b""
            async for chunk in response.chunks:
                if chunk:
                    self._write(b"%s%x\r\n%s\r\n" % (head, len(chunk), chunk))
                    head = b""
                    await self._writable.wait()
            self._write(head + b"0\r\n\r\n")
        except SampanError as error:
            if head:
                self._send(request, error_response(error))
            else:
                log.warning("%s %s broke off: %s", request.method, request.path, error)
                self._close()
        except ConnectionError:
            self._close()
        except Exception:
            log.exception("%s %s broke off", request.method, request.path)
            self._close()
        finally:
            self._streaming = False
            close = getattr(response.chunks, "aclose", None)
            if close is not None:
                await close()

    def _widen(self) -> None:
        """Let some MiB wait in the socket: on a busy host every change between us and the client takes its time."""
        connected = self._transport.get_extra_info("socket") if self._transport is not None else None
        if connected is None:
            return
        try:
            connected.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BULK_BUFFER)
        except PermissionError:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BULK_BUFFER)

    async def _next_request(self) -> None:
        if self._current is None or not self._current.keep_alive or self._transport is None:
            self._close()
            return
        try:
            while await self.read_body():
                pass  # an unread body would be taken for the next request
        except ConnectionError:
            return  # the client left before it had sent it all
        self._current = None
        self._task = None
        self._resume()
        if self._waiting:
            self._begin(self._waiting.popleft())
        elif self._pending:
            data = bytes(self._pending)
            self._pending.clear()
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        # What is neither body nor complete: a head, but also the trailer or the extensions of a chunked body.
        self._head_size += len(data)
        try:
            self._parser.feed_data(data)
            if self._head_size > MAX_HEADER_BYTES:
                raise Invalid(f"request head or trailer is larger than {MAX_HEADER_BYTES} bytes")
        except httptools.HttpParserUpgrade as upgrade:
            # The parser leaves the body of a request for an upgrade to its caller.
            length = self._incoming.headers.get("content-length", "0")
            self._upgrade_body = int(length) if length.isdecimal() and len(length) < 10 else 0
            self._take_upgrade_body(data[upgrade.args[0] :])
        except (httptools.HttpParserError, Invalid) as error:
            if self._current is None:
                self._write(self._head(400, {}, "Content-Length: 0\r\n"))
            log.info("malformed HTTP request: %s", error)
            self._close()

    def _take_upgrade_body(self, data: bytes) -> None:
        left = self._upgrade_body or 0
        if left and data:
            self.on_body(data[:left])
        self._upgrade_body = max(left - len(data), 0)
        if not self._upgrade_body:
            self._upgrade_body = None
            self._complete()
            self._pending += data[left:]

    def _head(self, status: int, headers: dict[str, str], more: str) -> bytes:
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        keep_alive = self._current is not None and self._current.keep_alive
        connection = "" if keep_alive else "Connection: close\r\n"
        reason = _REASONS.get(status, "")
        return f"HTTP/1.1 {status} {reason}\r\n{_COMMON}{more}{extra}{connection}\r\n".encode(
            "latin-1", "replace"
        )

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _pause(self) -> None:
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._transport is not None and self._paused:
            self._paused = False
            self._transport.resume_reading()


def _full_disk(error: Exception) -> str:
    """The message of an error that says that a file system is full, wherever it was met; else empty."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{os.strerror(error.errno).lower()}"


def _replaced_engine(error: Exception) -> str:
    """The message of an error that a module of ours, loaded when it is needed, is not the one that this engine goes
    with: another version was installed meanwhile. Else empty."""
    if not isinstance(error, ImportError) or (error.name or "").partition(".")[0] != "sampan":
        return ""
    return (
        "sampan was replaced by another version while this engine runs\nrestart the engine: containers run on"
    )


def error_response(error: SampanError) -> Response:
    """Docker's error body; a hint follows the message on a line of its own."""
    message = f"{error.message}\n{error.hint}" if error.hint else error.message
    return json_response({"message": message}, http_status(error))


class HttpServer:
    """Listening sockets and the connections accepted on them."""

    def __init__(self, dispatch: Dispatch, max_connections: int | None = None) -> None:
        """`max_connections`: one more than these takes the place of the oldest."""
        self._dispatch = dispatch
        self._max_connections = max_connections
        self._connections: dict[HttpConnection, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    async def listen(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        local = sock.family == socket.AF_UNIX
        head_seconds = None if local else HEAD_SECONDS

        def factory() -> HttpConnection:
            return HttpConnection(
                self._dispatch, self._connections, self._tasks, head_seconds, self._max_connections
            )

        if local:
            # The socket file is the daemon's (it holds the root's lock); asyncio must not judge it.
            self._servers.append(await loop.create_unix_server(factory, sock=sock, backlog=512))
        else:
            self._servers.append(await loop.create_server(factory, sock=sock, backlog=512))

    async def close(self) -> None:
        """Requests in progress are cancelled, and waited for: what they undo needs the engine still."""
        for server in self._servers:
            server.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        for connection in tuple(self._connections):
            connection.shut_down()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            if late:
                log.warning("%d requests have not ended within %.0f s", len(late), CLOSE_SECONDS)
