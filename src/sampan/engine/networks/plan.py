"""From what a person asks of a new network to its record. Pure but for the address book, which gives the subnet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from msgspec.structs import replace

from sampan.engine.model import IpamPool, NetworkRecord, new_id, now
from sampan.engine.networks.addresses import AddressBook, parse_address
from sampan.engine.networks.requests import NetworkCreate
from sampan.engine.settings import Settings
from sampan.errors import Denied, Invalid, NotFound
from sampan.network.model import NetworkSpec
from sampan.network.pools import default_gateway, parse_subnet

PREDEFINED = ("bridge", "host", "none")
BRIDGE_NAME = "com.docker.network.bridge.name"
_ICC = "com.docker.network.bridge.enable_icc"
_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
_MTU = "com.docker.network.driver.mtu"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")

SubnetsInUse = Callable[[], Iterable[IPv4Network]]


def check_create(body: NetworkCreate) -> None:
    """What can be said without looking at other networks. Raises `Invalid`, `Denied`, `NotFound` in Docker's words."""
    name = body.name
    if not name.strip():
        raise Invalid("invalid network name: name is empty")
    if name in (*PREDEFINED, "default") or name.startswith("container:"):
        raise Denied(f"operation is not permitted on predefined {name} network ")
    if not _NAME.fullmatch(name):
        raise Invalid(f"invalid network name: {name}, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    if body.driver in ("host", "null"):
        raise Denied(f'only one instance of "{body.driver}" network is allowed')
    if body.driver not in ("", *_SPECIFIC):
        raise NotFound(
            f'could not find plugin {body.driver} in v1 plugin registry: plugin "{body.driver}" not found'
        )
    if body.config_only or body.ingress or body.scope == "swarm":
        raise Invalid("swarm and config-only networks are not supported")
    if body.ipam.driver not in ("", "default"):
        raise NotFound(f'could not find plugin {body.ipam.driver}: plugin "{body.ipam.driver}" not found')
    if len([pool for pool in body.ipam.config or () if ":" not in pool.subnet]) > 1:
        raise Invalid("bridge driver doesn't support multiple IPv4 subnets")


def plan(body: NetworkCreate, book: AddressBook, settings: Settings, in_use: SubnetsInUse) -> NetworkRecord:
    """The record of a new network; its subnet and the addresses in it are the network's in `book`.

    `in_use` is asked when a subnet has to be chosen. Raises `Invalid`, `Conflict`; nothing is taken then.
    """
    asked = next((pool for pool in body.ipam.config or () if ":" not in pool.subnet), IpamPool())
    wanted, ip_range, gateway, aux = parse_pool(asked)
    subnet = book.take_subnet(wanted, () if wanted is not None else in_use())
    try:
        gateway = gateway or default_gateway(subnet, ip_range)
        general = NetworkSpec(
            new_id(),
            body.name,
            "",
            str(subnet),
            str(gateway),
            ip_range=str(ip_range) if ip_range else None,
            aux=tuple(aux.values()),
            internal=body.internal,
            driver=body.driver or "bridge",
        )
        spec = _SPECIFIC[general.driver](general, body, settings)
        book.open(spec)
    except BaseException:
        book.return_subnet(subnet)
        raise
    # As Docker: a gateway that was chosen for a given subnet is not shown.
    shown = replace(asked, subnet=str(subnet), gateway=asked.gateway if asked.subnet else str(gateway))
    return NetworkRecord(
        spec.id,
        body.name,
        now(),
        spec.driver,
        spec,
        internal=body.internal,
        attachable=body.attachable,
        enable_ipv6=body.enable_ipv6,
        options=dict(body.options),
        labels=dict(body.labels),
        ipam_options=body.ipam.options or {},
        ipam_config=(shown,),
        fixed_subnet=bool(asked.subnet),
    )


def _bridge(spec: NetworkSpec, body: NetworkCreate, settings: Settings) -> NetworkSpec:
    """What the driver "bridge" adds: the device, and its options."""
    bridge = body.options.get(BRIDGE_NAME) or f"br-{spec.id[:12]}"
    if len(bridge.encode()) > 15 or "/" in bridge:
        raise Invalid(f"invalid bridge name {bridge}: at most 15 bytes, no slash")
    return replace(
        spec,
        bridge=bridge,
        mtu=_mtu(body.options.get(_MTU), settings.mtu),
        masquerade=_flag(body.options, _MASQUERADE),
        icc=_flag(body.options, _ICC),
    )


_SPECIFIC: Mapping[str, Callable[[NetworkSpec, NetworkCreate, Settings], NetworkSpec]] = {"bridge": _bridge}
"""By driver: what it makes of the general part of a network and of its options. Raises `Invalid`."""


def default_bridge(book: AddressBook, settings: Settings, in_use: SubnetsInUse) -> NetworkRecord:
    """The network "bridge", made at the engine's first start."""
    gateway: IPv4Address | None = None
    if settings.default_subnet:
        interface = IPv4Interface(settings.default_subnet)
        subnet = book.take_subnet(interface.network, ())
        gateway = interface.ip if interface.ip != subnet.network_address else None
    else:
        subnet = book.take_subnet(None, in_use())
    gateway = gateway or default_gateway(subnet)
    spec = NetworkSpec(new_id(), "bridge", settings.instance, str(subnet), str(gateway), mtu=settings.mtu)
    book.open(spec)
    return NetworkRecord(
        spec.id,
        "bridge",
        now(),
        "bridge",
        spec,
        options={
            "com.docker.network.bridge.default_bridge": "true",
            _ICC: "true",
            _MASQUERADE: "true",
            "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
            BRIDGE_NAME: settings.instance,
            _MTU: str(settings.mtu),
        },
        ipam_config=(IpamPool(str(subnet), gateway=str(gateway)),),
        predefined=True,
    )


def parse_pool(
    asked: IpamPool,
) -> tuple[IPv4Network | None, IPv4Network | None, IPv4Address | None, dict[str, str]]:
    """(subnet, range, gateway, auxiliary addresses) as they were asked for. Raises `Invalid`."""
    if not asked.subnet:
        if asked.gateway or asked.ip_range:
            raise Invalid("invalid network config: a gateway or an IP range needs a subnet")
        return None, None, None, {}
    if "/" not in asked.subnet:
        raise Invalid(f"invalid network config:\ninvalid subnet {asked.subnet}: invalid CIDR block notation")
    subnet = parse_subnet(asked.subnet)
    ip_range = parse_subnet(asked.ip_range) if asked.ip_range else None
    if ip_range is not None and not ip_range.subnet_of(subnet):
        raise Invalid(
            f"invalid network config:\ninvalid ip-range {ip_range}: it should be within subnet {subnet}"
        )
    gateway = _inside(asked.gateway, subnet, "gateway") if asked.gateway else None
    aux = asked.auxiliary_addresses or {}
    for address in aux.values():
        _inside(address, subnet, "auxiliary address")
    return subnet, ip_range, gateway, aux


def _inside(text: str, subnet: IPv4Network, what: str) -> IPv4Address:
    address = parse_address(text)
    if address not in subnet:
        raise Invalid(
            f"invalid network config:\ninvalid {what} {text}: parent subnet {subnet} doesn't contain it"
        )
    return address


def _mtu(text: str | None, default: int) -> int:
    if not text:
        return default
    if not text.isdecimal() or not 68 <= int(text) <= 65535:
        raise Invalid(f"invalid MTU {text}: expected a number from 68 to 65535")
    return int(text)


def _flag(options: Mapping[str, str], name: str) -> bool:
    return boolean(name, options.get(name, "true"))


def boolean(name: str, text: str) -> bool:
    """Raises `Invalid`, naming the option or filter."""
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise Invalid(f"invalid value {text!r} for {name}: expected true or false")
