"""Through which proxy a request goes, by the rules of Go's programs (golang.org/x/net/http/httpproxy). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

_PORTS = {"http": "80", "https": "443"}
_Address = IPv4Address | IPv6Address | None


@dataclass(frozen=True, slots=True)
class Proxies:
    """`http` and `https`: the proxies for such addresses, "" for none. `excluded`: as in NO_PROXY."""

    http: str = ""
    https: str = ""
    excluded: str = ""

    def of(self, url: str) -> str:
        """The proxy's URL; "" when the request goes straight there: always so on this machine."""
        parts = urlsplit(url)
        proxy = {"http": self.http, "https": self.https}.get(parts.scheme, "")
        host = parts.hostname or ""
        try:
            port = str(parts.port or _PORTS.get(parts.scheme, ""))
        except ValueError:  # there is no such port, with a proxy or without
            return ""
        if not proxy or not host or self._is_excluded(host, port):
            return ""
        return proxy if "://" in proxy else f"http://{proxy}"

    def _is_excluded(self, host: str, port: str) -> bool:
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        entries = (entry.strip().lower() for entry in self.excluded.split(","))
        return any(_matches(entry, host, port, address) for entry in entries if entry)


NO_PROXIES = Proxies()


def masked(proxy: str) -> str:
    """A proxy's URL as everybody may see it."""
    scheme, separator, rest = proxy.rpartition("://")
    _, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{'xxxxx:xxxxx@' if at else ''}{place}"


def proxies_of(given: Proxies, environment: Mapping[str, str]) -> Proxies:
    """What was configured; for the rest what the variables say, in capitals or in small letters."""

    def variable(name: str) -> str:
        return environment.get(name, "") or environment.get(name.lower(), "")

    return Proxies(
        given.http or variable("HTTP_PROXY"),
        given.https or variable("HTTPS_PROXY"),
        given.excluded or variable("NO_PROXY"),
    )


def _matches(entry: str, host: str, port: str, address: _Address) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ip_network(entry, strict=False)
        except ValueError:
            return False
    name, wanted = _split(entry)
    if wanted not in ("", port) or not name:
        return False
    known = _address(name)
    if known is not None:
        return known == address
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _split(entry: str) -> tuple[str, str]:
    """Host and port of `host`, `host:port`, `[v6]:port` or `v6`."""
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    name, colon, port = entry.rpartition(":")
    return (name, port) if colon and ":" not in name else (entry, "")


def _address(text: str) -> _Address:
    try:
        return ip_address(text)
    except ValueError:
        return None
