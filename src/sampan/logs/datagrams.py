"""A socket that sends messages: UDP, where nobody says whether they arrive, or a Unix datagram socket."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from sampan.logs.dialing import dial_failure, host_and_port_name

STALL_TIMEOUT = 10.0
"""Seconds until a receiver that has no room for a message counts as not there."""


class Datagrams:
    """`address`: (host, port) for UDP, or the paths of a Unix socket, of which the first that answers is taken."""

    def __init__(
        self, address: tuple[str, int] | Sequence[str], *, stall_timeout: float = STALL_TIMEOUT
    ) -> None:
        self._host_port = (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
        self._paths = () if isinstance(address, tuple) else tuple(address)
        self._stall_timeout = stall_timeout
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        """Raises OSError: nobody has the Unix socket, or the host has no address."""
        if self._socket is not None:
            return
        if self._host_port is not None:
            self._socket = _udp_socket(*self._host_port)
        else:
            self._socket = self._unix_socket()
        self._socket.settimeout(self._stall_timeout)

    def send(self, message: bytes) -> None:
        """Raises OSError; with EMSGSIZE the message is larger than the receiver's kind of socket can take.

        A UDP server that is not there is no error, as nothing else that happens to a datagram is.
        """
        for again in (True, False):
            self.connect()
            assert self._socket is not None
            try:
                self._socket.send(message)
                return
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    raise
                if self._host_port is not None and error.errno == errno.ECONNREFUSED:
                    # Said of an earlier datagram, in place of sending this one.
                    if not again:
                        return
                    continue
                self.close()
                if not again or isinstance(error, TimeoutError):
                    raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _unix_socket(self) -> socket.socket:
        failure: OSError | None = None
        for path in self._paths:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                connection.connect(path)
                return connection
            except OSError as error:
                connection.close()
                failure = failure or dial_failure("unixgram", path, error)
        assert failure is not None
        if len(self._paths) > 1:
            raise OSError(failure.errno, "Unix syslog delivery error") from failure
        raise failure


def _udp_socket(host: str, port: int) -> socket.socket:
    name = host_and_port_name(host, port)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise dial_failure("udp", name, error) from error
    failure: OSError | None = None
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = dial_failure("udp", name, error)
    raise failure or OSError(errno.EHOSTUNREACH, f"dial udp {name}: no address")
