"""Where the engine listens: `unix:///path`, `tcp://host:port`, and which of several settings wins."""

from __future__ import annotations

import os

from sampan.errors import Invalid

DEFAULT_SOCKET = "/run/sampan/sampan.sock"
DEFAULT_TCP_PORT = 2375
DEFAULT_TLS_PORT = 2376


class Address:
    """A parsed engine address.

    `managed` says that the engine there is sampan's own to start when it does not run: the default socket,
    or one that SAMPAN_HOST names.
    """

    __slots__ = ("host", "managed", "path", "port", "text", "tls")

    def __init__(
        self, text: str, *, path: str = "", host: str = "", port: int = 0, managed: bool = False
    ) -> None:
        self.text = text
        self.path = path
        self.host = host
        self.port = port
        self.managed = managed
        self.tls: TlsFiles | None = None


class TlsFiles:
    """What `--tls*` and DOCKER_CERT_PATH name."""

    __slots__ = ("ca", "cert", "key", "verify")

    def __init__(self, ca: str, cert: str, key: str, verify: bool) -> None:
        self.ca = ca
        self.cert = cert
        self.key = key
        self.verify = verify


def parse_address(text: str) -> Address:
    """Parse `unix://`, `tcp://`, `http://`, a bare `host:port` or an absolute path. Raises `Invalid`."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        if text.startswith("/"):
            return Address("unix://" + text, path=text)
        scheme, rest = "tcp", text
    if scheme == "unix":
        return Address(text, path=rest or DEFAULT_SOCKET)
    if scheme in ("tcp", "http", "https"):
        return _parse_tcp(text, rest)
    raise Invalid(f"unable to parse docker host `{text}`")


def _parse_tcp(text: str, rest: str) -> Address:
    authority = rest.split("/", 1)[0]
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        host, port = authority, ""
    if port and not port.isdigit():
        raise Invalid(f"unable to parse docker host `{text}`")
    host = host.strip("[]") or "127.0.0.1"
    return Address(text, host=host, port=int(port) if port else DEFAULT_TCP_PORT)


def resolve_address(option: str | None) -> Address:
    """The address to use: the `--host` option, SAMPAN_HOST, DOCKER_HOST, the default socket."""
    if option:
        address = parse_address(option)
        address.managed = address.path == DEFAULT_SOCKET
        return address
    own = os.environ.get("SAMPAN_HOST", "")
    if own:
        address = parse_address(own)
        address.managed = bool(address.path)
        return address
    foreign = os.environ.get("DOCKER_HOST", "")
    if foreign:
        return parse_address(foreign)
    address = Address("unix://" + DEFAULT_SOCKET, path=DEFAULT_SOCKET)
    address.managed = True
    return address
