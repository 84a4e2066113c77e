"""How a published port reaches its container: by NAT, by the relay, or straight. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_way
from functools import lru_cache
from ipaddress import ip_address, ip_network

from msgspec.structs import replace

from sampan.network.model import ANY_IPV4, ANY_IPV6, NetworkSpec, PortBinding
from sampan.network.pools import AnyNetwork

_LOOPBACK6 = "::1"


@dataclass(frozen=True, slots=True)
class Way:
    """`translated`: by NAT. `served`: by the relay; both, where NAT can not do all. `open`: at the container's own
    address, in a network that is routed to. `direct`: there too, by the interfaces that the network trusts."""

    translated: bool = False
    served: bool = False
    open: bool = False
    direct: bool = False


NOWHERE = Way()


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides. `filtered`: the versions of IP (4, 6) whose input the host filters; `crossing`: br_netfilter gives
    IPv6 packets that cross bridges to the rules; `networks`: the engine's; `direct`: see `HostPolicy`."""

    filtered: frozenset[int]
    crossing: bool
    networks: Sequence[NetworkSpec]
    direct: bool = False

    def way(self, binding: PortBinding, address: str, host: str | None = None) -> Way:
        """Of a binding, on the host's address `host` (its own, when it is definite), to a container's `address`."""
        host = binding.host_address if host is None else host
        way = self._way(host, address)
        network = self._network(address)
        same = _version(host) == _version(address) and not way.open
        direct = same and network and (network.trusted or self.direct)
        return replace_way(way, direct=True) if direct else way

    def _way(self, host: str, address: str) -> Way:
        version = _version(host)
        routed = self._mode(address) == "routed"
        if _version(address) != version:  # only a process can turn the one into the other
            return NOWHERE if routed else Way(served=True)
        if routed:
            return Way(open=True)
        if version in self.filtered:
            return Way(served=True)
        # While an answer to ::1 crosses a bridge, br_netfilter puts that address back into it, and the kernel takes no
        # packet to ::1 from outside. Then the relay listens too: NAT translates what does not come from ::1.
        return Way(translated=True, served=self.crossing and host in (ANY_IPV6, _LOOPBACK6))

    def _mode(self, address: str) -> str:
        """The gateway mode of the network that a container's address is in."""
        network = self._network(address)
        if network is None:
            return "nat"
        return network.gateway_mode if _version(address) == 4 else network.gateway_mode6

    def _network(self, address: str) -> NetworkSpec | None:
        wanted = ip_address(address)
        for network in self.networks:
            subnet = network.subnet if wanted.version == 4 else network.subnet6
            if subnet and wanted in _parsed(subnet):
                return network
        return None


def opened_binding(binding: PortBinding, host: str) -> PortBinding:
    """As Docker shows a port that is open without a port of the host: any address of the family, port 0."""
    return replace(
        binding,
        host_address=ANY_IPV6 if _version(host) == 6 else ANY_IPV4,
        host_port=0,
        host_port_end=0,
    )


@lru_cache(1024)
def _parsed(subnet: str) -> AnyNetwork:
    """Asked for each port of each network, whenever the host's rules have changed."""
    return ip_network(subnet)


def _version(address: str) -> int:
    return 6 if ":" in address else 4
