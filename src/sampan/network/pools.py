"""Address pools: which subnet a network gets, which address an endpoint gets. Pure; nobody else's state here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network

from sampan.errors import Conflict, Invalid

# Docker's default pools: sixteen-bit networks from 172.17 to 172.31, then /20 pieces of 192.168.0.0/16.
DEFAULT_POOLS: tuple[tuple[IPv4Network, int], ...] = (
    *((IPv4Network(f"172.{second}.0.0/16"), 16) for second in range(17, 32)),
    (IPv4Network("192.168.0.0/16"), 20),
)


def parse_subnet(text: str) -> IPv4Network:
    """Invalid in Docker's words when it is not an IPv4 network without host bits."""
    try:
        return IPv4Network(text)
    except ValueError as exc:
        raise Invalid(f"invalid CIDR address: {text}", hint="For example 10.5.0.0/24.") from exc


class SubnetPool:
    """Subnets of one engine's networks."""

    def __init__(self, pools: Iterable[tuple[IPv4Network, int]] = DEFAULT_POOLS) -> None:
        """`pools`: (network, prefix length of the pieces it is cut into), used in this order."""
        self._pools = tuple(pools)
        self._taken: set[IPv4Network] = set()
        for network, prefix in self._pools:
            if not network.prefixlen <= prefix <= 30:
                raise Invalid(f"pool {network} can not be cut into networks of size {prefix}")

    def allocate(self, in_use: Iterable[IPv4Network] = ()) -> IPv4Network:
        """The first piece that overlaps no network of ours and none of `in_use` (the host's). Conflict when none."""
        busy = [*self._taken, *(network for network in in_use if network.prefixlen > 0)]
        for pool, prefix in self._pools:
            candidate = next(self._free_pieces(pool, prefix, busy), None)
            if candidate is not None:
                self._taken.add(candidate)
                return candidate
        raise Conflict(
            "all predefined address pools have been fully subnetted",
            hint="Remove unused networks, or give the network a subnet.",
        )

    @staticmethod
    def _free_pieces(pool: IPv4Network, prefix: int, busy: list[IPv4Network]) -> Iterator[IPv4Network]:
        relevant = [network for network in busy if network.overlaps(pool)]
        for piece in pool.subnets(new_prefix=prefix):
            if not any(piece.overlaps(network) for network in relevant):
                yield piece

    def reserve(self, subnet: IPv4Network) -> None:
        """Take this subnet. Conflict when it overlaps one that is taken."""
        for taken in self._taken:
            if taken.overlaps(subnet):
                raise Conflict(
                    "invalid pool request: Pool overlaps with other one on this address space",
                    hint=f"{subnet} overlaps {taken}, the subnet of another network.",
                )
        self._taken.add(subnet)

    def release(self, subnet: IPv4Network) -> None:
        self._taken.discard(subnet)


class AddressPool:
    """Addresses of one network. Addresses are given out in ascending order and not reused at once."""

    def __init__(
        self,
        subnet: IPv4Network,
        *,
        ip_range: IPv4Network | None = None,
        reserved: Iterable[IPv4Address] = (),
    ) -> None:
        """`ip_range`: where automatic addresses come from; `reserved`: the gateway and auxiliary addresses."""
        if ip_range is not None and not ip_range.subnet_of(subnet):
            raise Invalid(f"invalid pool request: {ip_range} is not in {subnet}")
        self.subnet = subnet
        chosen = ip_range or subnet
        self._first, self._last = int(chosen.network_address), int(chosen.broadcast_address)
        self._forbidden = (
            {subnet.network_address, subnet.broadcast_address} if subnet.prefixlen < 31 else set()
        )
        self._taken: set[IPv4Address] = set()
        self._next = self._first
        for address in reserved:
            self.reserve(address)

    def allocate(self) -> IPv4Address:
        """The next free address after the one given out last. Conflict when the pool is exhausted."""
        size = self._last - self._first + 1
        for step in range(min(size, len(self._taken) + len(self._forbidden) + 1)):
            candidate = IPv4Address(self._first + (self._next - self._first + step) % size)
            if candidate not in self._taken and candidate not in self._forbidden:
                self._taken.add(candidate)
                self._next = int(candidate) + 1 if int(candidate) < self._last else self._first
                return candidate
        raise Conflict(
            "no available IPv4 addresses on this network's address pools",
            hint=f"All addresses of {self.subnet} are in use.",
        )

    def reserve(self, address: IPv4Address) -> None:
        """Take this address. Invalid outside of the subnet, Conflict when it is taken."""
        if address not in self.subnet or address in self._forbidden:
            raise Invalid(f"invalid address: {address} is not a host address of {self.subnet}")
        if address in self._taken:
            raise Conflict(
                "Address already in use", hint=f"{address} belongs to another endpoint or the gateway."
            )
        self._taken.add(address)

    def release(self, address: IPv4Address) -> None:
        self._taken.discard(address)


def default_gateway(subnet: IPv4Network, ip_range: IPv4Network | None = None) -> IPv4Address:
    """The address Docker gives the bridge when none is asked for: the first one of the range."""
    chosen = ip_range or subnet
    if chosen.network_address == subnet.network_address and subnet.prefixlen < 31:
        return subnet.network_address + 1
    return chosen.network_address
