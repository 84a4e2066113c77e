"""The Engine API seen from a program: calls that return JSON, streams, and hijacked connections."""

from __future__ import annotations

import os

from sampan.client.codec import StreamDecoder, dumps, loads
from sampan.client.connection import Connection, Response
from sampan.errors import SampanError, Unavailable, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from sampan.client.address import Address

    Query = Mapping[str, "str | bool | int | list[str] | None"]
    Body = bytes | Iterable[bytes] | None

API_VERSION = "1.47"

_KINDS = {
    400: "invalid",
    401: "unauthorized",
    403: "denied",
    404: "not found",
    409: "conflict",
    501: "unsupported",
    503: "unavailable",
}
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")
_PLAIN_PATH = _PLAIN | frozenset("/:")


class ApiError(SampanError):
    """The engine refused: `status` is the answer's, `message` the engine's own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = _KINDS.get(status, "internal")


class Hijacked:
    """A connection that became a raw stream: its socket, and what was read from it already."""

    __slots__ = ("preread", "raw", "sock")

    def __init__(self, sock: Any, preread: bytes, content_type: str) -> None:
        self.sock = sock
        self.preread = preread
        # A terminal's stream has no frames; older engines name both kinds alike.
        self.raw = content_type == "application/vnd.docker.raw-stream"

    def close(self) -> None:
        self.sock.close()


class Client:
    """A client of one engine. Not thread-safe; plain calls reuse one connection."""

    def __init__(self, address: Address, *, user_agent: str = "sampan", version: str = "") -> None:
        self.address = address
        self.version = version or os.environ.get("DOCKER_API_VERSION", "") or API_VERSION
        self._negotiable = not version and not os.environ.get("DOCKER_API_VERSION")
        self._headers = {"User-Agent": user_agent}
        self._idle: list[Connection] = []
        self._started = False
        self._server: str | None = None

    def call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """One request; its JSON answer (None when there is none). Raises `ApiError`, `Unavailable`."""
        data = b"" if body is None and method == "POST" else None
        own = dict(headers or {})
        if body is not None:
            data = json_bytes(body)
            own["Content-Type"] = "application/json"
        response = self.request(method, path, query, data, own)
        content = self.finish(response)
        return loads(content) if content.strip() else None

    def request(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """One request; the answer, its body unread. Raises `ApiError` for a status from 400 on."""
        if body is not None and not isinstance(body, bytes):
            self.negotiate()
        response = self._exchange(method, path, query, body, headers)
        if response.status < 400:
            return response
        error = self._error(response)
        if self._lower_version(error):
            response = self._exchange(method, path, query, body, headers)
            if response.status < 400:
                return response
            error = self._error(response)
        raise error

    def finish(self, response: Response) -> bytes:
        """Read the rest of an answer and keep its connection for the next request."""
        content = response.read()
        self.release(response)
        return content

    def release(self, response: Response) -> None:
        if response.reusable:
            self._idle.append(response._connection)
        else:
            response.close()

    def begin(self, method: str, path: str, query: Query | None = None) -> Connection:
        """Send a request without a body on a connection of its own and do not wait: `receive()` does."""
        connection = self._open()
        connection.send(method, self._target(path, query), self._headers, b"" if method == "POST" else None)
        return connection

    def settle(self, connection: Connection) -> Any:
        """The JSON answer to a request that `begin` sent."""
        response = connection.receive()
        if response.status >= 400:
            raise self._error(response)
        content = response.read()
        connection.close()
        return loads(content) if content.strip() else None

    def hijack(
        self, path: str, query: Query | None = None, body: Any = None, protocol: str = "tcp"
    ) -> Hijacked:
        """POST and take the connection over as a raw stream."""
        headers = {**self._headers, "Connection": "Upgrade", "Upgrade": protocol}
        data = b""
        if body is not None:
            data = json_bytes(body)
            headers["Content-Type"] = "application/json"
        connection = self._open()
        connection.send("POST", self._target(path, query), headers, data)
        response = connection.receive("POST")
        if response.status >= 400:
            error = self._error(response)
            if not self._lower_version(error):
                raise error
            return self.hijack(path, query, body, protocol)
        sock, preread = connection.take_over()
        return Hijacked(sock, preread, response.headers.get("content-type", ""))

    def messages(self, response: Response) -> Iterator[Any]:
        """The JSON documents of a streamed answer, each as soon as it is complete."""
        decoder = StreamDecoder()
        for data in response.chunks():
            yield from decoder.feed(data)
        yield from decoder.finish()
        self.release(response)

    def negotiate(self) -> None:
        """Learn the server's version before a request whose body can be sent only once."""
        if not self._negotiable or self.address.managed:
            return
        self._use_older(self._ping().get("api-version", ""))
        self._negotiable = False

    def is_sampan(self) -> bool:
        """Whether the engine is one of ours, that knows more than Docker's API."""
        if self.address.managed:
            return True
        self.negotiate()
        if self._server is None:
            self._ping()
        return (self._server or "").startswith("Sampan/")

    def require(self, version: str, what: str) -> None:
        """Speak at least this version of the API from now on, which `what` (a flag) came with.

        Ours knows all that we know, in any version. Raises `Unsupported` in Docker's words for an older engine.
        """
        if self.is_sampan() or version_tuple(self.version) >= version_tuple(version):
            return
        newest = self._ping().get("api-version", "")
        if os.environ.get("DOCKER_API_VERSION") or version_tuple(newest) < version_tuple(version):
            spoken = os.environ.get("DOCKER_API_VERSION") or newest
            words = f'"{what}" requires API version {version}, but the Docker daemon API version is {spoken}'
            raise Unsupported(words)
        self.version = version

    def _ping(self) -> Mapping[str, str]:
        response = self._exchange("HEAD", "/_ping", None, None, None, versioned=False)
        self.release(response)
        self._server = response.headers.get("server", "")
        return response.headers

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _exchange(
        self,
        method: str,
        path: str,
        query: Query | None,
        body: Body,
        headers: Mapping[str, str] | None,
        *,
        versioned: bool = True,
    ) -> Response:
        merged = {**self._headers, **headers} if headers else self._headers
        target = self._target(path, query) if versioned else path
        reused = bool(self._idle)
        connection = self._idle.pop() if reused else self._open()
        try:
            connection.send(method, target, merged, body)
            return connection.receive(method)
        except (ConnectionResetError, BrokenPipeError) as error:
            connection.close()
            if not reused or method != "GET":
                raise Unavailable(f"error during connect: {error.strerror or error}") from error
        # The server had closed the idle connection; a GET may be sent again.
        connection = self._open()
        connection.send(method, target, merged, body)
        return connection.receive(method)

    def _open(self) -> Connection:
        connection = Connection(self.address)
        try:
            connection.connect()
        except OSError as error:
            if not self.address.managed or self._started:
                raise _cannot_connect(self.address, error) from error
            from sampan.client.ondemand import start_daemon

            start_daemon(self.address.path, error)
            self._started = True
            return self._open()
        return connection

    def _target(self, path: str, query: Query | None) -> str:
        text = "&".join(_query_items(query)) if query else ""
        target = f"/v{self.version}{path}"
        return f"{target}?{text}" if text else target

    def _error(self, response: Response) -> ApiError:
        content = self.finish(response)
        message = ""
        if content[:1] == b"{":
            try:
                message = str(loads(content).get("message", "")).strip()
            except ValueError:
                message = ""
        if not message:
            message = content.decode("utf-8", "replace").strip()
        return ApiError(response.status, message or f"the engine answered with status {response.status}")

    def _lower_version(self, error: ApiError) -> bool:
        """An older server names its newest version in its refusal; use that one from now on."""
        marker = "Maximum supported API version is "
        if error.status != 400 or not self._negotiable or marker not in error.message:
            return False
        return self._use_older(error.message.split(marker, 1)[1].split()[0].rstrip("."))

    def _use_older(self, version: str) -> bool:
        if not version or version_tuple(version) >= version_tuple(self.version):
            return False
        self.version = version
        self._negotiable = False
        return True


def version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))


def _query_items(query: Query) -> Iterator[str]:
    for name, value in query.items():
        if value is None or value is False or value == "":
            continue
        for item in value if isinstance(value, list) else (value,):
            yield f"{name}={quote('1' if item is True else str(item))}"


def json_bytes(value: Any) -> bytes:
    """A body. Bytes of the command line that are no UTF-8 become U+FFFD each: JSON has no way to say them."""
    text = dumps(value)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in text).encode()


def quote(text: str, plain: frozenset[str] = _PLAIN) -> str:
    """Percent-encoding for a query value."""
    if all(letter in plain for letter in text):
        return text
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if chr(byte) in plain else f"%{byte:02X}" for byte in data)


def quote_path(text: str) -> str:
    """Percent-encoding for a name inside a path; slashes of image names stay."""
    return quote(text, _PLAIN_PATH)


def filters_query(filters: dict[str, list[str]]) -> str:
    """The `filters` parameter: {"label": {"a=b": true}}, "" when there are none."""
    if not filters:
        return ""
    return dumps({name: dict.fromkeys(values, True) for name, values in filters.items()})


def _cannot_connect(address: Address, error: OSError) -> Unavailable:
    if isinstance(error, PermissionError):
        return Unavailable(
            f"permission denied while trying to connect to the engine's socket at {address.text}",
            hint="use sudo, or join the group that owns the socket",
        )
    return Unavailable(
        f"Cannot connect to the Docker daemon at {address.text}. Is the docker daemon running?",
        hint=str(error.strerror or error),
    )
