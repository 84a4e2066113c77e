"""The daemon's listening sockets."""

from __future__ import annotations

import grp
import logging
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from sampan.errors import Invalid, Unavailable

log = logging.getLogger(__name__)

_GROUPS = ("sampan", "docker")
"""The first of these groups that exists may use the socket: it gives full power over the host."""


def open_listener(host: str) -> socket.socket:
    """Bind the socket of `unix://PATH` or `tcp://HOST:PORT`.

    Raises `Invalid` for another form, `Unavailable` when the address can't be had.
    """
    parts = urlsplit(host)
    try:
        if parts.scheme == "unix" and parts.path:
            return _listen_unix(Path(parts.path))
        if parts.scheme == "tcp" and parts.hostname and parts.port:
            listener = socket.create_server((parts.hostname, parts.port), backlog=512)
            log.warning(
                "API at %s without TLS: whoever can connect there has root's power over this host", host
            )
            return listener
    except OSError as error:
        raise Unavailable(f"cannot listen at {host}: {error.strerror}") from error
    except ValueError as error:
        raise Invalid(f"invalid host {host!r}: {error}") from error
    raise Invalid(f"invalid host {host!r}: expected unix://PATH or tcp://HOST:PORT")


def open_metrics_listener(address: str) -> socket.socket:
    """Bind `tcp://HOST:PORT`, which gives numbers to whoever asks, but no power. Raises as `open_listener` does."""
    try:
        parts = urlsplit(address)
        family = socket.AF_INET6 if ":" in (parts.hostname or "") else socket.AF_INET
        return socket.create_server((parts.hostname or "", parts.port or 0), family=family)
    except OSError as error:
        raise Unavailable(f"cannot serve metrics at {address}: {error.strerror}") from error
    except ValueError as error:
        raise Invalid(f"cannot serve metrics at {address}: {error}") from error


def _listen_unix(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket() and _somebody_listens(path):
        raise Unavailable(f"another daemon listens at {path} already")
    # Bound under another name and renamed, so that the path never leads to a socket nobody serves.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(temporary))
        if os.geteuid() == 0:
            os.chown(temporary, -1, _group())
        temporary.chmod(0o660)
        listener.listen(512)
        temporary.rename(path)
    except BaseException:
        listener.close()
        temporary.unlink(missing_ok=True)
        raise
    return listener


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _group() -> int:
    for name in _GROUPS:
        try:
            return grp.getgrnam(name).gr_gid
        except KeyError:
            continue
    return os.getgid()
