"""Which IPv6 address belongs to which IPv4 one in a network of the cluster. Pure.

Every container has a place in its network: the number of its IPv4 address in the IPv4 subnet. Its IPv6 address is the
one of the same number in the IPv6 subnet, unless a person chooses another one. A network without IPv4 has places all
the same: addresses of `WITHOUT_IPV4`, which no container sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

WITHOUT_IPV4 = "0.0.0.0/8"
"""Station addresses that come from a place, and from the IPv6 address of that number, are the same."""


@dataclass(frozen=True, slots=True)
class Places:
    """`subnet6` "": there is no IPv6."""

    subnet: str
    subnet6: str

    def address6(self, place: str) -> str:
        """The IPv6 address of who has this IPv4 address; "" where the network has none."""
        if not self.subnet6:
            return ""
        number = int(IPv4Address(place)) - int(IPv4Network(self.subnet).network_address)
        return str(IPv6Network(self.subnet6).network_address + number)

    def place(self, address6: str) -> str:
        """The IPv4 address with the number of this IPv6 one; "" when a container can not have it."""
        subnet = IPv4Network(self.subnet)
        number = int(IPv6Address(address6)) - int(IPv6Network(self.subnet6).network_address)
        return str(subnet[number]) if 0 < number < subnet.num_addresses - 1 else ""

    def second(self, place: str, address6: str) -> str:
        """What a container at this place has to have in the store besides it: then the IPv6 address is its own.

        "" when that is so by the place; else the place that the address would belong to, or the address itself.
        """
        if not address6 or address6 == self.address6(place):
            return ""
        return self.place(address6) or address6
