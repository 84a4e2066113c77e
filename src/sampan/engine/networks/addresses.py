"""Which subnets the networks of an engine have, and which addresses in them are whose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_interface, ip_network

from sampan.engine.config import EndpointSettings
from sampan.engine.model import new_id
from sampan.engine.networks.endpoint_options import hardware_address
from sampan.errors import Exhausted
from sampan.network.model import EndpointSpec, NetworkSpec, derived_mac
from sampan.network.pools import (
    DEFAULT_POOLS,
    AddressPool,
    AnyAddress,
    AnyNetwork,
    SubnetPool,
    parse_subnet,
    unique_local_pool,
)


class AddressBook:
    """Used from the event loop's thread."""

    def __init__(self, pools: Sequence[tuple[str, int]], owner: str = "") -> None:
        """`pools`: (base, prefix length of the pieces); Docker's own for a family that has none.

        `owner` names this engine on this machine: its unique-local IPv6 prefix comes from that.
        """
        chosen = [(parse_subnet(base), prefix) for base, prefix in pools]
        if not any(base.version == 4 for base, _ in chosen):
            chosen += DEFAULT_POOLS
        if not any(base.version == 6 for base, _ in chosen):
            chosen.append(unique_local_pool(owner))
        self._subnets = SubnetPool(chosen)
        self._pools: dict[str, tuple[AddressPool, ...]] = {}
        """By network; several of a family where the network has several subnets of it."""
        self._endpoints: dict[str, set[str]] = {}
        """Ids of the endpoints that hold an address, by network: from before a start until after the end."""

    def take_subnet(
        self, asked: AnyNetwork | None, in_use: Iterable[AnyNetwork], version: int = 4
    ) -> AnyNetwork:
        """The subnet that was asked for (raises `Denied`), else a free one that the host does not use (`Invalid`)."""
        if asked is None:
            return self._subnets.allocate(in_use, version)
        self._subnets.reserve(asked)
        return asked

    def return_subnet(self, subnet: AnyNetwork) -> None:
        self._subnets.release(subnet)

    def open(self, spec: NetworkSpec) -> None:
        """Addresses of this network can be had from now on; its subnets are taken. Raises `Invalid`, `Conflict`."""
        found: list[AddressPool] = []
        aux = [ip_address(text) for text in spec.aux]
        for subnet in spec.subnets:
            chosen = ip_network(subnet.ip_range) if subnet.ip_range else None
            pool = AddressPool(ip_network(subnet.subnet), ip_range=chosen)
            own = [ip_address(subnet.gateway)] if subnet.gateway else []
            for address in dict.fromkeys([*own, *(one for one in aux if _holds(pool, one))]):
                pool.reserve(address)
            found.append(pool)
        self._pools[spec.id] = tuple(found)

    @staticmethod
    def subnets(spec: NetworkSpec) -> list[AnyNetwork]:
        return [ip_network(one.subnet) for one in spec.subnets]

    def restore(self, spec: NetworkSpec) -> None:
        """A network that is there since before the engine started."""
        for subnet in self.subnets(spec):
            self._subnets.reserve(subnet)
        self.open(spec)

    def close(self, spec: NetworkSpec) -> None:
        """The network is gone. Idempotent."""
        for subnet in self.subnets(spec):
            self._subnets.release(subnet)
        self._pools.pop(spec.id, None)
        self._endpoints.pop(spec.id, None)

    def allocate(
        self,
        spec: NetworkSpec,
        asked: EndpointSettings,
        *,
        interface: str,
    ) -> EndpointSpec:
        """An endpoint with addresses that are its own until `release`, without default routes (see `gateways`).

        Raises `Conflict` when an address can't be had.
        """
        fixed = asked.ipam_config
        wanted = {4: fixed.ipv4_address if fixed else "", 6: fixed.ipv6_address if fixed else ""}
        taken: dict[int, str] = {}
        pools = self._pools[spec.id]
        try:
            for version in (4, 6):
                if own := [pool for pool in pools if pool.subnet.version == version]:
                    taken[version] = _take(spec, own, wanted[version])
        except BaseException:
            for text in taken.values():
                _release(pools, ip_interface(text).ip)
            raise
        endpoint_id = new_id()
        self._endpoints.setdefault(spec.id, set()).add(endpoint_id)
        return EndpointSpec(
            endpoint_id,
            spec.id,
            taken.get(4, ""),
            interface=interface,
            mac=hardware_address(asked.mac_address) or derived_mac(taken.get(4) or taken.get(6, "")),
            driver=spec.driver,
            address6=taken.get(6, ""),
        )

    def adopt(self, endpoint: EndpointSpec) -> None:
        """Take the addresses of an endpoint that exists since before the engine started."""
        pools = self._pools.get(endpoint.network_id)
        if pools is not None:
            for address in _addresses(endpoint):
                for pool in pools:  # none: the default bridge may have lost its IPv6
                    if _holds(pool, address):
                        pool.reserve(address)
            self._endpoints.setdefault(endpoint.network_id, set()).add(endpoint.id)

    def release(self, endpoint: EndpointSpec) -> None:
        """Idempotent: an address that somebody else has got since stays taken."""
        pools, holders = self._pools.get(endpoint.network_id), self._endpoints.get(endpoint.network_id, set())
        if pools is not None and endpoint.id in holders:
            for address in _addresses(endpoint):
                _release(pools, address)
            holders.discard(endpoint.id)

    def has(self, network_id: str) -> bool:
        """Whether addresses of the network can be had: its subnet is no other network's here."""
        return network_id in self._pools

    def holders(self, network_id: str) -> frozenset[str]:
        """The ids of endpoints that hold an address."""
        return frozenset(self._endpoints.get(network_id, ()))


def _addresses(endpoint: EndpointSpec) -> list[AnyAddress]:
    return [ip_interface(text).ip for text in (endpoint.address, endpoint.address6) if text]


def _holds(pool: AddressPool, address: AnyAddress) -> bool:
    return address.version == pool.subnet.version and address in pool.subnet


def _release(pools: Iterable[AddressPool], address: AnyAddress) -> None:
    for pool in pools:
        if _holds(pool, address):
            pool.release(address)


def _take(spec: NetworkSpec, pools: Sequence[AddressPool], fixed: str) -> str:
    """An address of one of these pools (of one family), with its prefix length. `fixed`: one that was found right
    before; "" for one of the first pool that has any."""
    if fixed:
        address = ip_address(fixed)
        pool = next((pool for pool in pools if _holds(pool, address)), pools[0])
        pool.reserve(address)
        return f"{address}/{pool.subnet.prefixlen}"
    for pool in pools:
        try:
            return f"{pool.allocate()}/{pool.subnet.prefixlen}"
        except Exhausted as error:
            hint = error.hint
    family = f"IPv{pools[0].subnet.version}"
    raise Exhausted(
        f"no available {family} addresses on this network's address pools: {spec.name} ({spec.id})",
        hint=hint,
    )
