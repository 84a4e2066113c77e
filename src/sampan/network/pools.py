"""Address pools: which subnet a network gets, which address an endpoint gets. Pure; nobody else's state here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from sampan.errors import Conflict, Denied, Exhausted, Invalid

AnyNetwork = IPv4Network | IPv6Network
AnyAddress = IPv4Address | IPv6Address
Pool = tuple[AnyNetwork, int]
"""A network, and the prefix length of the pieces it is cut into."""

# Docker's default pools: sixteen-bit networks from 172.17 to 172.31, then /20 pieces of 192.168.0.0/16.
DEFAULT_POOLS: tuple[Pool, ...] = (
    *((IPv4Network(f"172.{second}.0.0/16"), 16) for second in range(17, 32)),
    (IPv4Network("192.168.0.0/16"), 20),
)
_UNIQUE_LOCAL = 0xFD << 120  # RFC 4193, section 3.1: fd00::/8, then 40 bits that are an engine's own
_PIECE6 = 64


def parse_subnet(text: str) -> AnyNetwork:
    """`Invalid` in Docker's words when it is not a network in CIDR notation, without host bits."""
    try:
        if "/" not in text:
            raise ValueError(text)
        return ip_network(text)
    except ValueError as exc:
        raise Invalid(
            f"invalid CIDR address: {text}", hint="For example 10.5.0.0/24 or fd00:5::/64."
        ) from exc


def unique_local_pool(owner: str) -> Pool:
    """The /48 prefix of unique-local IPv6 addresses (RFC 4193) that belongs to this owner, cut into /64 networks.

    The same for the same owner at any time, and, as 40 bits of its hash, hardly another's.
    """
    number = int.from_bytes(hashlib.sha256(owner.encode()).digest()[:5], "big")
    return IPv6Network((_UNIQUE_LOCAL | number << 80, 48)), _PIECE6


def overlap(one: AnyNetwork, other: AnyNetwork) -> bool:
    """Of different families they never do."""
    return _first(one) <= _last(other) and _first(other) <= _last(one) and one.version == other.version


class SubnetPool:
    """Subnets of one engine's networks, of both families."""

    def __init__(self, pools: Iterable[Pool] = DEFAULT_POOLS) -> None:
        """`pools` are used in this order. `Invalid` when one can not be cut so."""
        self._pools = tuple(pools)
        self._taken: set[AnyNetwork] = set()
        for network, prefix in self._pools:
            if not network.prefixlen <= prefix <= network.max_prefixlen - 2:
                raise Invalid(f"pool {network} can not be cut into networks of size {prefix}")

    def allocate(self, in_use: Iterable[AnyNetwork] = (), version: int = 4) -> AnyNetwork:
        """The first piece that overlaps no network of ours and none of `in_use` (the host's). `Invalid` when none
        (as Docker 28; 20.10 has another message and the status 404)."""
        busy = [*self._taken, *(network for network in in_use if network.prefixlen > 0)]
        for pool, prefix in self._pools:
            if pool.version == version and (candidate := _free_piece(pool, prefix, busy)) is not None:
                self._taken.add(candidate)
                return candidate
        raise Invalid(
            "all predefined address pools have been fully subnetted",
            hint="Remove unused networks, or give the network a subnet.",
        )

    def reserve(self, subnet: AnyNetwork) -> None:
        """Take this subnet. `Denied` when it overlaps one that is taken (an error of status 403 in Docker's API)."""
        for taken in self._taken:
            if overlap(taken, subnet):
                raise Denied(
                    "invalid pool request: Pool overlaps with other one on this address space",
                    hint=f"{subnet} overlaps {taken}, the subnet of another network.",
                )
        self._taken.add(subnet)

    def release(self, subnet: AnyNetwork) -> None:
        self._taken.discard(subnet)


def _first(network: AnyNetwork) -> int:
    return int(network.network_address)


def _last(network: AnyNetwork) -> int:
    return int(network.broadcast_address)


def _free_piece(pool: AnyNetwork, prefix: int, busy: Iterable[AnyNetwork]) -> AnyNetwork | None:
    """Goes from one busy network to the next: a pool may have more pieces than could be looked at."""
    size = 1 << (pool.max_prefixlen - prefix)
    start = _first(pool)
    for network in sorted((one for one in busy if overlap(one, pool)), key=_first):
        if start + size <= _first(network):
            break
        start = max(start, (_last(network) // size + 1) * size)
    if start > _last(pool):
        return None
    return type(pool)((start, prefix))


class AddressPool:
    """Addresses of one network and one family. The lowest free one is given out, as by Docker: a container that is
    restarted, or made anew under the same name, mostly has the address it had."""

    def __init__(
        self,
        subnet: AnyNetwork,
        *,
        ip_range: AnyNetwork | None = None,
        reserved: Iterable[AnyAddress] = (),
    ) -> None:
        """`ip_range`: where automatic addresses come from; `reserved`: the gateway and auxiliary addresses."""
        self.subnet = subnet
        chosen = ip_range or subnet
        self._first, self._last = _first(chosen), _last(chosen)
        if not _first(subnet) <= self._first <= self._last <= _last(subnet):
            raise Invalid(f"invalid pool request: {ip_range} is not in {subnet}")
        self._forbidden = _not_for_hosts(subnet)
        self._taken: set[int] = set()
        self._lowest = self._first
        """No address of the range below this one is free."""
        for address in reserved:
            self.reserve(address)

    def allocate(self) -> AnyAddress:
        """The lowest free address. `Exhausted` when there is none."""
        while self._lowest <= self._last:
            candidate = self._lowest
            self._lowest += 1
            if candidate not in self._taken and candidate not in self._forbidden:
                self._taken.add(candidate)
                return type(self.subnet.network_address)(candidate)
        raise Exhausted(
            "no available addresses on this pool",
            hint=f"All addresses of {self.subnet} that are given out are in use.",
        )

    def reserve(self, address: AnyAddress) -> None:
        """Take this address. `Invalid` outside of the subnet, `Conflict` when it is taken or no host can have it."""
        if address not in self.subnet:
            raise Invalid(f"invalid address: {address} is not a host address of {self.subnet}")
        if int(address) in self._taken or int(address) in self._forbidden:
            raise Conflict(
                "Address already in use",
                hint=f"{address} belongs to another endpoint, the gateway or the network.",
            )
        self._taken.add(int(address))

    def release(self, address: AnyAddress) -> None:
        self._taken.discard(int(address))
        if self._first <= int(address) < self._lowest:
            self._lowest = int(address)


def _not_for_hosts(subnet: AnyNetwork) -> frozenset[int]:
    """IPv4's network and broadcast addresses (none in a /31, RFC 3021); IPv6's anycast address of the routers
    (RFC 4291, section 2.6.1)."""
    if subnet.version == 6:
        return frozenset((_first(subnet),))
    return frozenset((_first(subnet), _last(subnet))) if subnet.prefixlen < 31 else frozenset()
