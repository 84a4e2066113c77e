"""What a person says of the cluster that the engine is in (`--cluster-store` and what belongs to it). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from sampan.errors import Invalid

ETCD, STATIC = "etcd", "static"
_PORTS = {ETCD: 2379, STATIC: 7946}
_OPTIONS = (
    *("kv.path", "kv.cacertfile", "kv.certfile", "kv.keyfile", "kv.username", "kv.passwordfile"),
    *("discovery.ttl", "address.ttl", "secret-file"),
)
_PATH = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9_.-]+))(?::(\d{1,5}))?")


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """`members`: (host, port) of etcd, or of the engines of a static cluster, the first of which keeps the store.

    `advertise`: an address or an interface of this host, "" is found out. Times are in seconds. `secret_file`: what
    only the hosts of the cluster know. `user`: etcd's, whose password is in `password_file`.
    """

    kind: str
    members: tuple[tuple[str, int], ...]
    path: str = "sampan"
    advertise: str = ""
    host_ttl: int = 30
    address_ttl: int = 3600
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    secret_file: Path | None = None
    user: str = ""
    password_file: Path | None = None

    @property
    def name(self) -> str:
        """As `--cluster-store` has it."""
        members = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.members
        )
        return f"{self.kind}://{members}" if self.kind == ETCD else f"{self.kind}:{members}"


def parse_cluster(store: str, advertise: str, options: Mapping[str, str]) -> ClusterSettings | None:
    """None without a store. Raises `Invalid`."""
    if not store:
        if advertise or options:
            raise Invalid("--cluster-advertise and --cluster-store-opt need --cluster-store")
        return None
    kind, colon, rest = store.partition(":")
    if kind not in _PORTS or not colon:
        raise Invalid(
            f"invalid cluster-store {store!r}: expected etcd://HOST[:PORT][,...] or static:HOST[:PORT],HOST..."
        )
    hosts, _, path = rest.removeprefix("//").partition("/")
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        raise Invalid(f"unknown cluster-store-opt {unknown[0]!r}", hint=f"known: {', '.join(_OPTIONS)}")
    path = options.get("kv.path", path or "sampan").strip("/")
    if not _PATH.fullmatch(path):
        raise Invalid(f"invalid path {path!r} in the cluster store")
    if kind == STATIC and "secret-file" not in options:
        raise Invalid(
            "a static cluster needs a secret that its hosts know",
            hint="--cluster-store-opt secret-file=PATH, the same content on every host",
        )
    if ("kv.username" in options) != ("kv.passwordfile" in options):
        raise Invalid("kv.username and kv.passwordfile belong together")
    if ("kv.certfile" in options) != ("kv.keyfile" in options):
        raise Invalid("kv.certfile and kv.keyfile belong together")
    host_ttl, address_ttl = _seconds(options, "discovery.ttl", 30), _seconds(options, "address.ttl", 3600)
    if address_ttl < host_ttl:
        raise Invalid("address.ttl must not be shorter than discovery.ttl")
    return ClusterSettings(
        kind,
        tuple(_member(text, _PORTS[kind]) for text in hosts.split(",")),
        path,
        advertise.partition(":")[0] if advertise.count(":") == 1 else advertise.strip("[]"),
        host_ttl,
        address_ttl,
        _file(options, "kv.cacertfile"),
        _file(options, "kv.certfile"),
        _file(options, "kv.keyfile"),
        _file(options, "secret-file"),
        options.get("kv.username", ""),
        _file(options, "kv.passwordfile"),
    )


def _member(text: str, default: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None:
        raise Invalid(f"invalid host {text!r} in cluster-store")
    port = int(found[3] or default)
    if not 0 < port < 65536:
        raise Invalid(f"invalid port {port} in cluster-store")
    host = found[1] or found[2]
    with suppress(ValueError):
        host = str(ip_address(host))  # compared with this host's own addresses
    return host, port


def _seconds(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name, str(default))
    if not (text.isdecimal() and len(text) < 9 and int(text) >= 2):
        raise Invalid(f"invalid {name} {text!r}: expected seconds, 2 or more")
    return int(text)


def _file(options: Mapping[str, str], name: str) -> Path | None:
    return Path(options[name]) if options.get(name) else None
