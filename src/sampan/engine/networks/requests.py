"""What a client sends about networks, as Docker's API has it."""

from __future__ import annotations

import msgspec

from sampan.engine.config import Docker
from sampan.engine.model import IpamPool


class Ipam(Docker, frozen=True):
    """The member IPAM of a network."""

    driver: str = ""
    options: dict[str, str] | None = None
    config: tuple[IpamPool, ...] | None = None


class ConfigFrom(Docker, frozen=True):
    """The name of a configuration-only network."""

    network: str = ""


class GivenFamilies(Docker, frozen=True):
    """Of the body of POST /networks/create: which families a client names at all; an option may say it otherwise."""

    enable_ipv4: bool | None = msgspec.field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = msgspec.field(default=None, name="EnableIPv6")


class NetworkCreate(Docker, frozen=True):
    """Body of POST /networks/create."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigFrom = ConfigFrom()
    enable_ipv4: bool = msgspec.field(default=True, name="EnableIPv4")
    enable_ipv6: bool = msgspec.field(default=False, name="EnableIPv6")
    ipam: Ipam = msgspec.field(default_factory=Ipam, name="IPAM")
    options: dict[str, str] = msgspec.field(default_factory=dict)
    labels: dict[str, str] = msgspec.field(default_factory=dict)
