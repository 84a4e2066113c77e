"""Where a registry is asked: by its name, its mirrors and what is configured about it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

from sampan.oci.reference import DEFAULT_DOMAIN
from sampan.registry.proxies import NO_PROXIES, Proxies

HUB_HOST = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and password, or an identity token got for them earlier (then `username` may be empty)."""

    username: str = ""
    password: str = ""
    identity_token: str = ""

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token)


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """`insecure_registries`: hosts (with port) or CIDRs whose TLS need not be verified, or that speak plain HTTP.

    `mirrors`: registry domain -> base URLs that are asked first. `certs_dir`: <dir>/<host[:port]>/*.crt are
    further CAs for that host, *.cert and *.key a client's certificate (Docker's certs.d).
    """

    insecure_registries: tuple[str, ...] = ()
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    certs_dir: Path = Path("/etc/docker/certs.d")
    user_agent: str = "sampan"
    loopback_is_insecure: bool = True
    """As with Docker: a registry on this machine needs no certificate."""
    proxies: Proxies = NO_PROXIES


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One base URL (no trailing slash, no /v2)."""

    url: str
    verify: bool = True
    mirror: bool = False

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


def registry_host(domain: str) -> str:
    """Host (and port) of the registry that serves a reference's domain."""
    return HUB_HOST if domain == DEFAULT_DOMAIN else domain


def origin_endpoints(domain: str, config: RegistryConfig, *, own_ca: bool = False) -> tuple[Endpoint, ...]:
    """The registry itself, in the order to try: HTTPS; for an insecure one unverified, then plain HTTP.

    `own_ca`: a CA is installed for this host, which says that its certificate is to be verified; then only an
    entry in `insecure_registries` makes it insecure, its being on a loopback address doesn't.
    """
    host = registry_host(domain)
    listed = host in config.insecure_registries
    if not is_insecure(host, config) or (own_ca and not listed):
        return (Endpoint(f"https://{host}"),)
    return Endpoint(f"https://{host}", verify=False), Endpoint(f"http://{host}", verify=False)


def mirror_endpoints(domain: str, config: RegistryConfig) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint(url, verify=not is_insecure(urlsplit(url).netloc, config), mirror=True)
        for url in config.mirrors.get(domain, ())
    )


def is_insecure(host: str, config: RegistryConfig) -> bool:
    """Whether its certificate need not be verified, and plain HTTP will do."""
    name = urlsplit(f"//{host}").hostname or ""
    if host in config.insecure_registries or name in config.insecure_registries:
        return True
    address = _address(name)
    if name == "localhost" or (address is not None and address.is_loopback):
        return config.loopback_is_insecure
    return address is not None and any(
        address in ip_network(entry, strict=False) for entry in config.insecure_registries if "/" in entry
    )


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None
