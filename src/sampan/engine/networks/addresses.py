"""Which subnets the networks of an engine have, and which addresses in them are whose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from sampan.engine.config import EndpointSettings
from sampan.engine.model import new_id
from sampan.errors import Invalid
from sampan.network.model import EndpointSpec, NetworkSpec, derived_mac
from sampan.network.pools import DEFAULT_POOLS, AddressPool, SubnetPool, parse_subnet


class AddressBook:
    """Used from the event loop's thread."""

    def __init__(self, pools: Sequence[tuple[str, int]]) -> None:
        """`pools`: (base, prefix length of the pieces); empty: Docker's own."""
        self._subnets = SubnetPool([(parse_subnet(base), prefix) for base, prefix in pools] or DEFAULT_POOLS)
        self._pools: dict[str, AddressPool] = {}
        self._endpoints: dict[str, set[str]] = {}
        """Ids of the endpoints that hold an address, by network: from before a start until after the end."""

    def take_subnet(self, asked: IPv4Network | None, in_use: Iterable[IPv4Network]) -> IPv4Network:
        """The subnet that was asked for, else a free one that is not `in_use` on the host. Raises `Conflict`."""
        if asked is None:
            return self._subnets.allocate(in_use)
        self._subnets.reserve(asked)
        return asked

    def return_subnet(self, subnet: IPv4Network) -> None:
        self._subnets.release(subnet)

    def open(self, spec: NetworkSpec) -> None:
        """Addresses of this network can be had from now on; its subnet is taken. Raises `Invalid`, `Conflict`."""
        reserved = [IPv4Address(spec.gateway), *map(IPv4Address, spec.aux)]
        ip_range = IPv4Network(spec.ip_range) if spec.ip_range else None
        self._pools[spec.id] = AddressPool(
            IPv4Network(spec.subnet), ip_range=ip_range, reserved=dict.fromkeys(reserved)
        )

    def restore(self, spec: NetworkSpec) -> None:
        """A network that is there since before the engine started."""
        self._subnets.reserve(IPv4Network(spec.subnet))
        self.open(spec)

    def close(self, spec: NetworkSpec) -> None:
        """The network is gone. Idempotent."""
        self._subnets.release(IPv4Network(spec.subnet))
        self._pools.pop(spec.id, None)
        self._endpoints.pop(spec.id, None)

    def allocate(
        self, spec: NetworkSpec, asked: EndpointSettings, *, interface: str, default_route: bool
    ) -> EndpointSpec:
        """An endpoint with an address that is its own until `release`. Raises `Conflict` when none can be had."""
        pool = self._pools[spec.id]
        fixed = asked.ipam_config.ipv4_address if asked.ipam_config else ""
        if fixed:
            address = parse_address(fixed)
            pool.reserve(address)
        else:
            address = pool.allocate()
        endpoint_id = new_id()
        self._endpoints.setdefault(spec.id, set()).add(endpoint_id)
        return EndpointSpec(
            endpoint_id,
            spec.id,
            f"{address}/{pool.subnet.prefixlen}",
            gateway=spec.gateway if default_route and not spec.internal else None,
            interface=interface,
            mac=asked.mac_address.replace("-", ":").lower() or derived_mac(str(address)),
            driver=spec.driver,
        )

    def adopt(self, endpoint: EndpointSpec) -> None:
        """Take the address of an endpoint that exists since before the engine started."""
        pool = self._pools.get(endpoint.network_id)
        if pool is not None:
            pool.reserve(IPv4Interface(endpoint.address).ip)
            self._endpoints.setdefault(endpoint.network_id, set()).add(endpoint.id)

    def release(self, endpoint: EndpointSpec) -> None:
        """Idempotent."""
        pool = self._pools.get(endpoint.network_id)
        if pool is not None:
            pool.release(IPv4Interface(endpoint.address).ip)
            self._endpoints.get(endpoint.network_id, set()).discard(endpoint.id)

    def holders(self, network_id: str) -> frozenset[str]:
        """The ids of endpoints that hold an address."""
        return frozenset(self._endpoints.get(network_id, ()))


def parse_address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise Invalid(f"invalid IPv4 address: {text}") from None
