"""A connection to a log server over TCP, TLS or a Unix socket that comes back when the server does.

Records are written whole and in order. A server that is slow keeps its connection: the record that it has half of is
finished by the next call, so that nothing in its stream is torn or doubled. After a lost connection the record that was
under way is sent again from its start, on a new connection.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sampan.logs.dialing import dial_failure, host_and_port_name
from sampan.logs.undelivered import Undelivered

if TYPE_CHECKING:
    import ssl

CONNECT_TIMEOUT = 5.0
STALL_TIMEOUT = 10.0
"""Seconds without any progress until a call gives up."""

DEAD_AFTER = 120
"""Seconds without a sign of the server's host until a TCP connection is lost, instead of the kernel's 15 minutes."""

_DRAIN_LIMIT = 64
_GROUP = 64 * 1024


def whole_records(records: Sequence[bytes], written: int) -> tuple[int, int]:
    """Pure: how many of the first records are in the first `written` bytes, and how many bytes of the next."""
    for count, record in enumerate(records):
        if written < len(record):
            return count, written
        written -= len(record)
    return len(records), 0


class StreamConnection:
    """`address`: (host, port), or the path of a Unix socket. `tls` makes the context, once, when it is needed."""

    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        tls: Callable[[], ssl.SSLContext] | None = None,
        stall_timeout: float = STALL_TIMEOUT,
    ) -> None:
        self._address = address
        self._tls = tls
        self._stall_timeout = stall_timeout
        self._socket: socket.socket | None = None
        self._begun: memoryview | None = None
        self._written = 0

    def connect(self) -> None:
        """Nothing when there is a connection that the server has not closed. Raises OSError."""
        if self._socket is not None and self._has_ended(self._socket):
            self.close()
        if self._socket is None:
            self._socket = self._open()
            self._written = 0

    def write(self, records: Sequence[bytes]) -> None:
        """Raises `Undelivered`; a record of which a slow server has a part already counts as delivered."""
        done = 0
        owed = self._begun is not None  # by an earlier call, whose caller does not send it again
        group: Sequence[bytes] = ()
        try:
            self.connect()
            if owed:
                self._finish()
                owed = False
            while done < len(records):
                group = records[done : done + self._group_length(records, done)]
                self._begun, self._written = memoryview(b"".join(group)), 0
                self._finish()
                done += len(group)
        except OSError as error:
            under_way = self._begun is not None and not owed
            # Python's own time-out has no number; the kernel's says that the connection is lost.
            if isinstance(error, TimeoutError) and error.errno is None and self._socket is not None:
                done += self._keep_the_rest(group) if under_way else 0
                raise Undelivered(f"{self.name}: {error}", delivered=done) from error
            if under_way:
                done += whole_records(group, self._written)[0]
                self._begun = None
            self.close()
            said = error.strerror or str(error)
            text = said if said.startswith("dial ") else f"{self.name}: {said}"
            raise Undelivered(text, delivered=done) from error

    def receive(self, limit: int, timeout: float) -> bytes:
        """At most `limit` bytes of an answer. Raises OSError, also at the stream's end; then it is closed."""
        if self._socket is None:
            raise ConnectionResetError(f"{self.name}: not connected")
        try:
            self._socket.settimeout(timeout)
            data = self._socket.recv(limit)
        except OSError:
            self.close()
            raise
        if not data:
            self.close()
            raise ConnectionResetError(f"{self.name}: closed by the server")
        return data

    def end(self) -> int:
        """Close, after a last attempt to finish what is owed: how many bytes of it the server did not get."""
        if self._begun is not None:
            try:
                self.write(())
            except Undelivered:
                left = len(self._begun) - self._written if self._begun is not None else 0
                self.forget()
                return left
        self.close()
        return 0

    def forget(self) -> None:
        """Close, and finish nothing: whoever called sends everything again."""
        self.close()
        self._begun = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @property
    def name(self) -> str:
        if isinstance(self._address, str):
            return self._address
        return host_and_port_name(*self._address)

    def _finish(self) -> None:
        connection, record = self._socket, self._begun
        assert connection is not None and record is not None
        connection.settimeout(self._stall_timeout)
        while self._written < len(record):
            self._written += connection.send(record[self._written :])
        self._begun = None

    def _group_length(self, records: Sequence[bytes], start: int) -> int:
        """How many records go to the kernel at once. With TLS one, which OpenSSL wants to be given again."""
        if self._tls is not None:
            return 1
        size = 0
        for count in range(len(records) - start):
            size += len(records[start + count])
            if size > _GROUP:
                return max(count, 1)
        return len(records) - start

    def _keep_the_rest(self, group: Sequence[bytes]) -> int:
        """The server is slow: how many of the group's records it has, or is owed the rest of."""
        whole, part = whole_records(group, self._written)
        if part == 0 and self._tls is None:
            self._begun = None
            return whole
        self._begun, self._written = memoryview(group[whole]), part
        return whole + 1

    def _open(self) -> socket.socket:
        if isinstance(self._address, str):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.settimeout(CONNECT_TIMEOUT)
                connection.connect(self._address)
            except OSError as error:
                connection.close()
                raise dial_failure("unix", self.name, error) from error
            return connection
        try:
            connection = socket.create_connection(self._address, CONNECT_TIMEOUT)
        except OSError as error:
            raise dial_failure("tcp", self.name, error) from error
        _notice_a_dead_host(connection)
        if self._tls is None:
            return connection
        try:
            return self._tls().wrap_socket(connection, server_hostname=self._address[0])
        except BaseException:
            connection.close()
            raise

    @staticmethod
    def _has_ended(connection: socket.socket) -> bool:
        """Whether the server has closed it: a write would still succeed, and be lost. What it said is let go."""
        connection.setblocking(False)
        try:
            for _ in range(_DRAIN_LIMIT):
                if not connection.recv(4096):
                    return True
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            # Of TLS: nothing to read now.
            return type(error).__name__ not in ("SSLWantReadError", "SSLWantWriteError")
        return False


def _notice_a_dead_host(connection: socket.socket) -> None:
    """A host that lost its power says nothing, and what is written goes into the kernel's buffer (tcp(7))."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_AFTER // 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, DEAD_AFTER // 12)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_AFTER * 1000)
