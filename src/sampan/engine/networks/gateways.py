"""Which of a container's networks its default routes go through. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_interface, ip_network

from msgspec.structs import replace

from sampan.engine.model import Endpoint, NetworkRecord
from sampan.network.model import ANY_IPV4, ANY_IPV6, EndpointSpec, NetworkSpec, Subnet

Network = Callable[[Endpoint], NetworkRecord | None]


def settle(endpoints: Mapping[str, Endpoint], network_of: Network) -> dict[str, Endpoint]:
    """The same endpoints, with the default routes where they belong; those without an interface stay as they are.

    Docker's order: the highest priority, networks that are not internal, those that lead outside with both
    families, then by name. The first with IPv4 gets that family's route, the first with IPv6 the other.
    """
    found = {name: network_of(endpoint) for name, endpoint in endpoints.items()}
    ranked = ranking(endpoints, network_of)
    chosen4 = next((name for name in ranked if _leads_outside(found[name])[0]), "")
    chosen6 = next((name for name in ranked if _leads_outside(found[name])[1]), "")
    return {
        name: _with_routes(endpoint, found[name], ipv4=name == chosen4, ipv6=name == chosen6)
        for name, endpoint in endpoints.items()
    }


def ranking(endpoints: Mapping[str, Endpoint], network_of: Network) -> list[str]:
    """The names of the networks that have interfaces, in Docker's order."""
    found = {name: network_of(endpoint) for name, endpoint in endpoints.items()}
    return sorted(
        (name for name, network in found.items() if network is not None and network.spec is not None),
        key=lambda name: _rank(name, endpoints[name], found[name]),
    )


def _rank(name: str, endpoint: Endpoint, network: NetworkRecord | None) -> tuple[int, bool, int, str]:
    internal = network is not None and network.internal
    return -endpoint.asked.gw_priority, internal, -sum(_leads_outside(network)), name


def _leads_outside(network: NetworkRecord | None) -> tuple[bool, bool]:
    """(by IPv4, by IPv6)."""
    spec = network.spec if network is not None else None
    if spec is None or spec.internal:
        return False, False
    return bool(spec.subnet), bool(spec.subnet6)


def _with_routes(endpoint: Endpoint, network: NetworkRecord | None, *, ipv4: bool, ipv6: bool) -> Endpoint:
    if endpoint.spec is None or network is None or network.spec is None:
        return endpoint
    gateway, gateway6 = through(network.spec, endpoint.spec)
    spec = replace(endpoint.spec, gateway=gateway if ipv4 else None, gateway6=gateway6 if ipv6 else None)
    return replace(endpoint, spec=spec)


def through(spec: NetworkSpec, endpoint: EndpointSpec) -> tuple[str, str]:
    """(IPv4, IPv6) gateways as an `EndpointSpec` has them: the unspecified address is the link itself."""
    if spec.driver == "ipvlan" and spec.mode.startswith("l3"):
        return ANY_IPV4, ANY_IPV6
    return named(spec, endpoint)


def named(spec: NetworkSpec, endpoint: EndpointSpec) -> tuple[str, str]:
    """(IPv4, IPv6) gateways of the subnets that the endpoint's addresses are in; "" where there is none."""
    if not spec.more:
        return spec.router or spec.gateway, spec.router6 or spec.gateway6
    found = []
    for address in (endpoint.address, endpoint.address6):
        own = [one for one in spec.subnets if address and _holds(one, address)]
        found.append(own[0].gateway if own else "")
    return found[0], found[1]


def _holds(subnet: Subnet, address: str) -> bool:
    network, inside = ip_network(subnet.subnet), ip_interface(address).ip
    return network.version == inside.version and inside in network
