"""HTTP/1.1 on one socket, with next to no imports: what the Engine API needs and no more.

The C module `_socket` is used directly because the `socket` module costs 5 ms (it builds enums);
TCP and TLS connections, which are rare, import it.
"""

from __future__ import annotations

import _socket

from sampan.errors import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from sampan.client.address import Address

_CHUNK = 65536
_MAX_HEAD = 1 << 20
_NO_BODY_STATUS = (204, 304)


class Connection:
    """One connection to the engine. It connects on first use and may carry several requests, one at a time."""

    __slots__ = ("_buffer", "_sock", "address")

    def __init__(self, address: Address) -> None:
        self.address = address
        self._sock: Any = None
        self._buffer = b""

    def connect(self) -> None:
        """Open the socket. Raises `OSError` as the kernel reports it."""
        if self._sock is None:
            self._sock = _open_unix(self.address.path) if self.address.path else _open_tcp(self.address)

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None = None,
    ) -> None:
        """Send a request; an iterable body goes out in chunks while it is produced.

        A server that answers and stops reading before the body's end is no failure here: the answer says why.
        """
        self.connect()
        head = [f"{method} {target} HTTP/1.1", f"Host: {self.address.host or 'api.sampan'}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        if isinstance(body, bytes):
            head.append(f"Content-Length: {len(body)}")
        elif body is not None:
            head.append("Transfer-Encoding: chunked")
        elif method not in ("GET", "HEAD", "DELETE"):
            head.append("Content-Length: 0")
        data = ("\r\n".join(head) + "\r\n\r\n").encode("utf-8", "surrogateescape")
        if isinstance(body, bytes):
            data += body
        self._sock.sendall(data)
        if body is not None and not isinstance(body, bytes):
            try:
                for piece in _gathered(body):
                    self._sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
                self._sock.sendall(b"0\r\n\r\n")
            except (BrokenPipeError, ConnectionResetError):
                return

    def receive(self, method: str = "GET") -> Response:
        """The answer's head; its body is read from the `Response`. Interim answers (1xx but 101) are skipped."""
        while True:
            status, headers = self._read_head()
            if status == 101 or status >= 200:
                return Response(self, status, headers, bodiless=method == "HEAD" or status in _NO_BODY_STATUS)

    def _read_head(self) -> tuple[int, dict[str, str]]:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise Unavailable("the answer's header is too long")
            data = self._sock.recv(_CHUNK)
            if not data:
                raise ConnectionResetError(104, "the server closed the connection")
            self._buffer += data
        head = self._buffer[:end].decode("latin-1")
        self._buffer = self._buffer[end + 4 :]
        status_line, *lines = head.split("\r\n")
        parts = status_line.split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
            raise Unavailable(f"{self.address.text} does not speak HTTP: {status_line[:80]!r}")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(parts[1]), headers

    def read_some(self, limit: int = _CHUNK) -> bytes:
        """Up to `limit` bytes, b"" at the end of the stream."""
        if self._buffer:
            data, self._buffer = self._buffer[:limit], self._buffer[limit:]
            return data
        received: bytes = self._sock.recv(limit)
        return received

    def read_line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise Unavailable("a line of the answer is too long")
            data = self._sock.recv(_CHUNK)
            if not data:
                raise ConnectionResetError(104, "unexpected EOF")
            self._buffer += data
        line = self._buffer[: end + 1]
        self._buffer = self._buffer[end + 1 :]
        return line

    def take_over(self) -> tuple[Any, bytes]:
        """The socket and what was read from it already: after an upgrade both belong to the caller."""
        sock, preread = self._sock, self._buffer
        self._sock, self._buffer = None, b""
        return sock, preread


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of some size: a tar stream comes as many small ones, and each costs both sides."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _CHUNK:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
    if size:
        yield b"".join(waiting)


class Response:
    """An answer whose body is read as it comes."""

    __slots__ = ("_chunked", "_connection", "_left", "_until_close", "finished", "headers", "status")

    def __init__(
        self, connection: Connection, status: int, headers: dict[str, str], *, bodiless: bool
    ) -> None:
        self._connection = connection
        self.status = status
        self.headers = headers
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length", "")
        self._until_close = not self._chunked and not length.isdigit()
        # Bytes of the body (or of the present chunk) that are still to come.
        self._left = int(length) if length.isdigit() and not self._chunked else 0
        self.finished = bodiless or (not self._chunked and not self._until_close and self._left == 0)

    @property
    def reusable(self) -> bool:
        """The connection may carry another request."""
        closing = self.headers.get("connection", "").lower() == "close"
        return self.finished and not closing and not self._until_close

    def fileno(self) -> int:
        """For select: readable when there is more than what `pending` tells of."""
        return self._connection.fileno()

    @property
    def pending(self) -> bool:
        """Bytes have come that are not read yet."""
        return bool(self._connection._buffer)

    def read_some(self, limit: int = _CHUNK) -> bytes:
        """The next piece of the body, b"" at its end. Raises `ConnectionResetError` when it was cut off."""
        if self.finished:
            return b""
        if self._until_close:
            data = self._connection.read_some(limit)
            self.finished = not data
            return data
        if self._chunked and self._left == 0 and not self._next_chunk():
            return b""
        data = self._connection.read_some(min(self._left, limit))
        if not data:
            raise ConnectionResetError(104, "unexpected EOF")
        self._left -= len(data)
        if self._left == 0:
            if self._chunked:
                self._connection.read_line()
            else:
                self.finished = True
        return data

    def _next_chunk(self) -> bool:
        size = self._connection.read_line().split(b";", 1)[0].strip()
        try:
            self._left = int(size, 16)
        except ValueError:
            raise Unavailable(f"malformed chunk size {size[:20]!r} in the answer") from None
        if self._left:
            return True
        while self._connection.read_line().strip():
            pass  # trailers
        self.finished = True
        return False

    def chunks(self, limit: int = _CHUNK) -> Iterator[bytes]:
        """The body; `limit`: bytes of a piece."""
        while data := self.read_some(limit):
            yield data

    def read(self) -> bytes:
        return b"".join(self.chunks())

    def close(self) -> None:
        self._connection.close()


def _open_unix(path: str) -> Any:
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_tcp(address: Address) -> Any:
    import socket

    sock = socket.create_connection((address.host, address.port), timeout=30)
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if address.tls is None:
        return sock
    import ssl

    files = address.tls
    context = ssl.create_default_context(cafile=files.ca if files.verify else None)
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if files.cert:
        context.load_cert_chain(files.cert, files.key)
    return context.wrap_socket(sock, server_hostname=address.host)
