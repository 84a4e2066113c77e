"""From what a person asks of a new network to its record. Pure but for the address book, which gives the subnet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network

from msgspec.structs import replace

from sampan.engine.model import IpamPool, NetworkRecord, new_id, now
from sampan.engine.networks import configurations, ipam, options
from sampan.engine.networks.addresses import AddressBook
from sampan.engine.networks.requests import Ipam, NetworkCreate
from sampan.engine.settings import Settings
from sampan.errors import Denied, Invalid, NotFound
from sampan.network.model import NetworkSpec
from sampan.network.pools import AnyAddress, AnyNetwork

PREDEFINED = ("bridge", "host", "none")
_LEAST_MTU6 = 1280  # bytes; RFC 8200, section 5: the kernel switches IPv6 off below
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")

SubnetsInUse = Callable[[], Iterable[AnyNetwork]]


def check_create(body: NetworkCreate) -> None:
    """What can be said without looking at other networks. Raises `Invalid`, `Denied`, `NotFound` in Docker's words."""
    name = body.name
    if not name.strip():
        raise Invalid("invalid name: name is empty")
    if name in (*PREDEFINED, "default") or name.startswith("container:"):
        raise Denied(f"operation is not permitted on predefined {name} network ")
    if not _NAME.fullmatch(name):
        raise Invalid(f"invalid network name: {name}, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    if body.driver in ("host", "null"):
        raise Denied(f'only one instance of "{body.driver}" network is allowed')
    if body.driver not in ("", *options.DRIVERS):
        raise NotFound(
            f'plugin "{body.driver}" not found',
            hint="There are the drivers " + ", ".join(options.DRIVERS) + ".",
        )
    configurations.check(body)
    if body.ingress:
        raise Denied("Ingress network can only be global scope network", hint="There is no swarm here.")
    if body.scope in ("swarm", "global"):
        raise Denied(
            f"cannot create a {body.scope} scoped network when swarm is not active",
            hint="Leave --scope away: networks are the host's own, those of the driver overlay the cluster's.",
        )
    if body.ipam.driver not in ("", "default"):
        raise NotFound(f'plugin "{body.ipam.driver}" not found')
    if not body.enable_ipv4 and not body.enable_ipv6:
        raise Invalid("IPv4 or IPv6 must be enabled")
    ipam.check(body.ipam.config or (), ipv6=body.enable_ipv6)


@dataclass(frozen=True, slots=True)
class _Family:
    """What a network has of one family; nothing, by default."""

    subnet: AnyNetwork | None = None
    gateway: AnyAddress | None = None
    asked: ipam.Wanted = field(default_factory=ipam.Wanted)

    @property
    def ip_range(self) -> str | None:
        return str(self.asked.ip_range) if self.asked.ip_range else None


def plan(body: NetworkCreate, book: AddressBook, settings: Settings, in_use: SubnetsInUse) -> NetworkRecord:
    """The record of a new network; its subnets and the addresses in them are the network's in `book`.

    `in_use` is asked when a subnet has to be chosen. Raises `Invalid`, `Conflict`, `Denied`; nothing is taken then.
    """
    taken: list[AnyNetwork] = []
    try:
        families = {
            version: _family(body, book, in_use, version, taken) if enabled else _Family()
            for version, enabled in ((4, body.enable_ipv4), (6, body.enable_ipv6))
        }
        four, six = families[4], families[6]
        general = NetworkSpec(
            new_id(),
            body.name,
            "",
            str(four.subnet or ""),
            str(four.gateway or ""),
            ip_range=four.ip_range,
            aux=tuple(str(address) for one in (four, six) for address in one.asked.aux.values()),
            internal=body.internal,
            driver=body.driver or "bridge",
            subnet6=str(six.subnet or ""),
            gateway6=str(six.gateway or ""),
            ip_range6=six.ip_range,
        )
        spec = options.specific(general, body, settings)
        if spec.subnet6 and 0 < spec.mtu < _LEAST_MTU6:
            raise Invalid(f"invalid MTU {spec.mtu}: a network with IPv6 needs at least {_LEAST_MTU6}")
        book.open(spec)
    except BaseException:
        for subnet in taken:
            book.return_subnet(subnet)
        raise
    return NetworkRecord(
        spec.id,
        body.name,
        now(),
        spec.driver,
        spec,
        internal=body.internal,
        attachable=body.attachable,
        enable_ipv4=body.enable_ipv4,
        enable_ipv6=body.enable_ipv6,
        options=dict(body.options),
        labels=dict(body.labels),
        ipam_options=body.ipam.options or {},
        ipam_config=(*(body.ipam.config or ()), *_chosen(families.values())),
        fixed_subnet=bool(body.ipam.config),
        asked_pools=len(body.ipam.config or ()),
    )


def _family(
    body: NetworkCreate, book: AddressBook, in_use: SubnetsInUse, version: int, taken: list[AnyNetwork]
) -> _Family:
    asked = ipam.wanted(body.ipam.config or (), version, several=body.driver not in ("", "bridge"))
    subnet = book.take_subnet(asked.subnet, () if asked.subnet is not None else in_use(), version)
    taken.append(subnet)
    isolated = options.gateway_mode(body, version) == "isolated" or options.is_without_gateway(body)
    return _Family(subnet, ipam.choose_gateway(subnet, asked, isolated=isolated), asked)


def _chosen(families: Iterable[_Family]) -> list[IpamPool]:
    """The entries of families whose subnet nobody asked for, as Docker shows them after the others (of which it does
    not show a gateway that was chosen)."""
    return [
        IpamPool(str(one.subnet), gateway=str(one.gateway or ""))
        for one in families
        if one.subnet is not None and one.asked.subnet is None
    ]


def default_bridge(book: AddressBook, settings: Settings, in_use: SubnetsInUse) -> NetworkRecord:
    """The network "bridge", made at the engine's first start. Raises `Invalid`, `Conflict`."""
    body = _default_body(settings)
    ipam.check(body.ipam.config or (), ipv6=body.enable_ipv6)
    return replace(plan(body, book, settings, in_use), ipam_options=None, predefined=True)


def revised_bridge(
    record: NetworkRecord, book: AddressBook, settings: Settings, in_use: SubnetsInUse
) -> NetworkRecord:
    """The network "bridge" of an earlier start, with IPv6 or without it as the settings say now.

    To be called before endpoints are adopted. What runs keeps the addresses that it has.
    """
    if record.spec is None or record.enable_ipv6 == settings.ipv6:
        return record
    body = _default_body(settings)
    ipam.check(body.ipam.config or (), ipv6=body.enable_ipv6)
    six = _Family()
    if settings.ipv6:
        six = _family(body, book, in_use, 6, [])
    else:
        book.return_subnet(ip_network(record.spec.subnet6))
    spec = replace(
        record.spec, subnet6=str(six.subnet or ""), gateway6=str(six.gateway or ""), ip_range6=six.ip_range
    )
    book.open(spec)
    shown = [pool for pool in (*record.ipam_config, *(body.ipam.config or ())) if ":" not in pool.subnet]
    given = [pool for pool in body.ipam.config or () if ":" in pool.subnet]
    pools = (*given, *dict.fromkeys(shown), *_chosen([six]))
    return replace(record, spec=spec, enable_ipv6=settings.ipv6, ipam_config=pools)


def _default_body(settings: Settings) -> NetworkCreate:
    pairs = [(settings.default_subnet, settings.fixed_cidr)]
    if settings.ipv6:
        pairs.append((settings.default_subnet6, settings.fixed_cidr6))
    return NetworkCreate(
        "bridge",
        enable_ipv6=settings.ipv6,
        ipam=Ipam(config=tuple(pool for own, part in pairs for pool in _default_pool(own, part))),
        options={
            options.DEFAULT_BRIDGE: "true",
            options.ICC: "true",
            options.MASQUERADE: "true",
            options.HOST_BINDING: "0.0.0.0",
            options.BRIDGE_NAME: settings.instance,
            options.MTU: str(settings.mtu),
        },
    )


def _default_pool(own: str | None, part: str | None) -> list[IpamPool]:
    """From --bip, the bridge's address in its subnet, and --fixed-cidr, the part for containers; or that alone."""
    if not own:
        return [IpamPool(part, ip_range=part)] if part else []
    interface = ip_interface(own)
    network = interface.network
    gateway = interface.ip if interface.ip != network.network_address else network.network_address + 1
    return [IpamPool(str(network), ip_range=part or "", gateway=str(gateway))]
