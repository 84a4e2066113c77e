"""From what a person asks of a new network to its record. Pure but for the address book, which gives the subnet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from sampan.engine.model import IpamPool, NetworkRecord, new_id, now
from sampan.engine.networks import configurations, ipam, options
from sampan.engine.networks.addresses import AddressBook
from sampan.engine.networks.requests import NetworkCreate
from sampan.engine.settings import Settings
from sampan.errors import Denied, Invalid, NotFound
from sampan.network.model import NetworkSpec, Subnet
from sampan.network.pools import AnyAddress, AnyNetwork

PREDEFINED = ("bridge", "host", "none")
_LEAST_MTU6 = 1280  # bytes; RFC 8200, section 5: the kernel switches IPv6 off below
_SHARED_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
"""Of a network that other hosts read from the cluster's store."""

SubnetsInUse = Callable[[], Iterable[AnyNetwork]]


def check_create(body: NetworkCreate) -> None:
    """What can be said without looking at other networks. Raises `Invalid`, `Denied`, `NotFound` in Docker's words."""
    name = body.name
    if not name.strip():
        raise Invalid("invalid name: name is empty")
    if name in (*PREDEFINED, "default") or name.startswith("container:"):
        raise Denied(f"operation is not permitted on predefined {name} network ")
    if not name.isprintable():
        raise Invalid(
            f"invalid network name: {name!r}",
            hint="Its characters must be ones that can be seen: the name is shown on terminals and in logs.",
        )
    if body.driver == "overlay" and not _SHARED_NAME.fullmatch(name):
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
    if body.ipam.driver == "null":
        raise Invalid(
            "null ipam driver does not handle specific address pool requests"
            if body.ipam.config
            else "ipv4 pool is empty",
        )
    if body.ipam.driver not in ("", "default"):
        raise NotFound(f'plugin "{body.ipam.driver}" not found')
    if not body.enable_ipv4 and not body.enable_ipv6:
        raise Invalid("IPv4 or IPv6 must be enabled")
    ipam.check(body.ipam.config or (), ipv6=body.enable_ipv6)


@dataclass(frozen=True, slots=True)
class Family:
    """What a network has of one family; nothing, by default."""

    subnet: AnyNetwork | None = None
    gateway: AnyAddress | None = None
    asked: ipam.Wanted = field(default_factory=ipam.Wanted)

    @property
    def ip_range(self) -> str | None:
        return str(self.asked.ip_range) if self.asked.ip_range else None

    @property
    def router(self) -> str:
        """Another way out than the host, by Docker's names of an auxiliary address; "" where there is none."""
        found = (self.asked.aux.get(f"DefaultGatewayIPv{version}") for version in (4, 6))
        return next((str(address) for address in found if address is not None), "")


def plan(
    body: NetworkCreate, book: AddressBook, settings: Settings, in_use: SubnetsInUse, identity: str = ""
) -> NetworkRecord:
    """The record of a new network; its subnets and the addresses in them are the network's in `book`.

    `identity` is its id, "" a new one. `in_use` is asked when a subnet has to be chosen. Raises `Invalid`, `Conflict`,
    `Denied`; nothing is taken then.
    """
    taken: list[AnyNetwork] = []
    try:
        families = {
            version: family(body, book, in_use, version, taken) if enabled else Family()
            for version, enabled in ((4, body.enable_ipv4), (6, body.enable_ipv6))
        }
        general = _general(body, families[4], families[6], _further(body, book, taken), identity or new_id())
        spec = options.specific(general, body, settings)
        if spec.internal and (spec.router or spec.router6):
            raise Invalid("no gateway can be set on an internal bridge network")
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
        # What was given comes first, IPv4 before IPv6 in whatever order: as Docker shows it.
        ipam_config=(
            *sorted(body.ipam.config or (), key=lambda pool: ":" in pool.subnet),
            *chosen_pools(families.values()),
        ),
        fixed_subnet=bool(body.ipam.config),
        asked_pools=len(body.ipam.config or ()),
    )


def _general(
    body: NetworkCreate, four: Family, six: Family, further: tuple[Subnet, ...], identity: str
) -> NetworkSpec:
    """What networks of every driver have."""
    bridged = body.driver in ("", "bridge")
    return NetworkSpec(
        identity,
        body.name,
        "",
        str(four.subnet or ""),
        str(four.gateway or ""),
        ip_range=four.ip_range,
        aux=_auxiliary(body),
        internal=body.internal,
        driver=body.driver or "bridge",
        subnet6=str(six.subnet or ""),
        gateway6=str(six.gateway or ""),
        ip_range6=six.ip_range,
        more=further,
        router=four.router if bridged else "",
        router6=six.router if bridged else "",
    )


def _further(body: NetworkCreate, book: AddressBook, taken: list[AnyNetwork]) -> tuple[Subnet, ...]:
    """Subnets beyond the first of each family, which only some drivers have; noted in `taken` as `family` does."""
    found = []
    enabled = [version for version, on in ((4, body.enable_ipv4), (6, body.enable_ipv6)) if on]
    for asked in (one for version in enabled for one in ipam.further(body.ipam.config or (), version)):
        subnet = book.take_subnet(asked.subnet, (), 4)
        taken.append(subnet)
        gateway = ipam.choose_gateway(subnet, asked, isolated=options.is_without_gateway(body))
        found.append(Subnet(str(subnet), str(gateway or ""), str(asked.ip_range) if asked.ip_range else None))
    return tuple(found)


def _auxiliary(body: NetworkCreate) -> tuple[str, ...]:
    enabled = {4: body.enable_ipv4, 6: body.enable_ipv6}
    pools = [pool for pool in body.ipam.config or () if enabled[6 if ":" in pool.subnet else 4]]
    texts = [text for pool in pools for text in (pool.auxiliary_addresses or {}).values()]
    return tuple(str(ip_address(text)) for text in texts)


def family(
    body: NetworkCreate, book: AddressBook, in_use: SubnetsInUse, version: int, taken: list[AnyNetwork]
) -> Family:
    """What the network gets of this family (4 or 6); its subnet is noted in `taken` as soon as it is the network's."""
    asked = ipam.wanted(body.ipam.config or (), version, several=body.driver not in ("", "bridge"))
    subnet = book.take_subnet(asked.subnet, () if asked.subnet is not None else in_use(), version)
    taken.append(subnet)
    isolated = options.gateway_mode(body, version) == "isolated" or options.is_without_gateway(body)
    return Family(subnet, ipam.choose_gateway(subnet, asked, isolated=isolated), asked)


def chosen_pools(families: Iterable[Family]) -> list[IpamPool]:
    """The entries of families whose subnet nobody asked for, as Docker shows them after the others (of which it does
    not show a gateway that was chosen)."""
    return [
        IpamPool(str(one.subnet), gateway=str(one.gateway or ""))
        for one in families
        if one.subnet is not None and one.asked.subnet is None
    ]
