"""Why a log server can't be reached, in the words of Go's library, which Docker shows."""

from __future__ import annotations

import errno
import os
import socket


def dial_failure(network: str, name: str, error: OSError) -> OSError:
    """`network`: tcp, udp, unix or unixgram; `name`: the address with its port, or the path.

    The result has the class that its number gives it, so that a refused connection still is one.
    """
    if isinstance(error, socket.gaierror):
        return OSError(errno.EHOSTUNREACH, f"dial {network}: lookup {name.rpartition(':')[0]}: no such host")
    if isinstance(error, TimeoutError):
        return OSError(errno.ETIMEDOUT, f"dial {network} {name}: i/o timeout")
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return OSError(error.errno, f"dial {network} {name}: connect: {reason}")


def host_and_port_name(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
