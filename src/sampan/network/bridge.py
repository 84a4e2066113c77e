"""The driver "bridge": bridges and the veth pairs on them, over rtnetlink, in the calling thread's namespace."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from ipaddress import IPv4Interface, IPv4Network, ip_network

from sampan.errors import Conflict, NotFound
from sampan.linux.netlink import Message
from sampan.linux.netlink_namespace import in_namespace
from sampan.linux.netlink_route import (
    IFF_UP,
    PeerLink,
    RouteSocket,
    add_address,
    add_route,
    create_bridge,
    create_veth,
    set_bridge_port,
    set_link,
)
from sampan.network.model import EndpointSpec, NetworkSpec, derived_mac

_log = logging.getLogger(__name__)


def write_sysctl(name: str, value: str, *, missing_ok: bool = False) -> None:
    """Set a network sysctl of the calling thread's namespace, when it is not already so."""
    path = f"/proc/sys/net/{name}"
    try:
        if read_sysctl(name) != value:
            with open(path, "w", encoding="ascii") as file:
                file.write(value)
    except FileNotFoundError:
        if not missing_ok:
            raise NotFound(f"the kernel has no setting {path}") from None


def read_sysctl(name: str) -> str:
    with open(f"/proc/sys/net/{name}", encoding="ascii") as file:
        return file.read().strip()


def host_interface(endpoint_id: str) -> str:
    """The name of the host's end of an endpoint's veth pair; the same whoever asks."""
    return "veth" + hashlib.sha256(endpoint_id.encode()).hexdigest()[:11]


def _bridge_mac(network: NetworkSpec) -> str:
    """A fixed one: without it a bridge takes the lowest of its ports' and changes it with them."""
    digest = hashlib.sha256(network.id.encode()).digest()
    return "02:42:" + digest[:4].hex(":")


class BridgeDriver:
    """See `drivers.Driver`."""

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def ensure(self, route: RouteSocket, network: NetworkSpec) -> None:
        ensure_bridge(route, network, self._alias)

    def remove(self, route: RouteSocket, network: NetworkSpec) -> None:
        remove_bridge(route, network.bridge, self._alias)

    def attach(
        self, route: RouteSocket, namespace: int, network: NetworkSpec, endpoint: EndpointSpec
    ) -> None:
        attach(route, namespace, network, endpoint)

    def detach(self, route: RouteSocket, endpoint: EndpointSpec, namespace: int | None) -> None:
        route.delete(host_interface(endpoint.id))  # both ends of the pair go

    def mend(
        self, route: RouteSocket, network: NetworkSpec, endpoints: Sequence[EndpointSpec]
    ) -> tuple[str, ...]:
        done: list[str] = []
        if not _is_whole(route, network):
            ensure_bridge(route, network, self._alias)
            done.append(f"bridge {network.bridge} is as it was")
        plugged = [plug(route, network, endpoint) for endpoint in endpoints]
        if any(plugged):
            done.append(f"{sum(plugged)} containers are on bridge {network.bridge} again")
        return tuple(done)

    def tidy(
        self, route: RouteSocket, networks: Sequence[NetworkSpec], endpoints: Sequence[EndpointSpec]
    ) -> None:
        ports = {host_interface(endpoint.id) for endpoint in endpoints}
        remove_leftovers(route, self._alias, {network.bridge for network in networks}, ports)


def ensure_bridge(route: RouteSocket, network: NetworkSpec, alias: str) -> None:
    """The bridge, with its address, up. Conflict when its name belongs to something else."""
    link = route.link(network.bridge)
    if link is None:
        route.perform([create_bridge(network.bridge, address=_bridge_mac(network), mtu=network.mtu)])
        link = route.link(network.bridge)
        if link is None:
            raise NotFound(f"bridge {network.bridge} vanished as it was made")
    elif link.kind != "bridge" or (link.alias and link.alias != alias):
        owner = f"of {link.alias}" if link.alias else f"of kind {link.kind or 'hardware'}"
        raise Conflict(
            f"network interface {network.bridge} already exists",
            hint=f"It is {owner}; give the network another bridge name.",
        )
    write_sysctl(f"ipv6/conf/{network.bridge}/disable_ipv6", "1", missing_ok=True)
    prefix = ip_network(network.subnet).prefixlen
    messages = [
        set_link(link.index, up=True, mtu=network.mtu, alias=alias),
        add_address(link.index, f"{network.gateway}/{prefix}", replace=True),
    ]
    route.perform(messages)
    write_sysctl(f"ipv4/conf/{network.bridge}/route_localnet", "1")


def _is_whole(route: RouteSocket, network: NetworkSpec) -> bool:
    """The bridge is there and up, and has its address."""
    link = route.link(network.bridge)
    if link is None or not link.flags & IFF_UP:
        return False
    address = IPv4Interface(f"{network.gateway}/{ip_network(network.subnet).prefixlen}")
    return any(entry.index == link.index and entry.interface == address for entry in route.addresses())


def plug(route: RouteSocket, network: NetworkSpec, endpoint: EndpointSpec) -> bool:
    """Make the endpoint's interface a port of the bridge again; False when it is one, or there is no such interface."""
    bridge, port = route.link(network.bridge), route.link(host_interface(endpoint.id))
    if bridge is None or port is None or port.master == bridge.index:
        return False
    route.perform([set_link(port.index, up=True, master=bridge.index), *_port_flags(port.name, network)])
    return True


def remove_bridge(route: RouteSocket, name: str, alias: str) -> None:
    """Delete the bridge when it is ours; nothing happens when it is not there."""
    link = route.link(name)
    if link is not None and link.kind == "bridge" and link.alias == alias:
        route.delete(name)


def remove_leftovers(
    route: RouteSocket, alias: str, bridges: Collection[str], ports: Collection[str]
) -> None:
    """Of the links that carry our alias, and the ports of our bridges, delete those not named here."""
    links = route.links()
    ours = {link.index: link for link in links if link.alias == alias and link.kind == "bridge"}
    for link in links:
        if (link.master in ours and link.kind == "veth" and link.name not in ports) or (
            link.index in ours and link.name not in bridges
        ):
            _log.info("removing %s, which no network of ours has any more", link.name)
            route.delete(link.name)


def attach(route: RouteSocket, namespace: int, network: NetworkSpec, endpoint: EndpointSpec) -> None:
    """A veth pair: one end a port of the bridge, the other made and configured in the namespace."""
    bridge = route.link(network.bridge)
    if bridge is None:
        raise NotFound(f"network {network.name} has no bridge {network.bridge}")
    host = host_interface(endpoint.id)
    peer = PeerLink(endpoint.interface, namespace, endpoint.mac or derived_mac(endpoint.address))
    route.perform([create_veth(host, peer, mtu=network.mtu, master=bridge.index)])
    try:
        if flags := _port_flags(host, network):
            route.perform(flags)
        in_namespace(namespace, lambda: _configure(endpoint))
    except BaseException:
        route.delete(host)
        raise


def _port_flags(port: str, network: NetworkSpec) -> list[Message]:
    """What the bridge does otherwise than usual at this port; none when there is nothing."""
    hairpin = _bridged_traffic_is_filtered()
    if not hairpin and network.icc:
        return []
    return [set_bridge_port(port, hairpin=hairpin, isolated=not network.icc)]


def _bridged_traffic_is_filtered() -> bool:
    """br_netfilter translates a frame from a container to its own published port while it crosses the bridge;
    it must then leave by the port it came from."""
    with suppress(FileNotFoundError):
        return read_sysctl("bridge/bridge-nf-call-iptables") == "1"
    return False


def _configure(endpoint: EndpointSpec) -> None:
    """Runs in the container's namespace."""
    write_sysctl(f"ipv6/conf/{endpoint.interface}/disable_ipv6", "1", missing_ok=True)
    with RouteSocket() as route:
        link = route.link(endpoint.interface)
        if link is None:
            raise NotFound(f"interface {endpoint.interface} vanished from its namespace")
        messages: list[Message] = [set_link(link.index, up=True), add_address(link.index, endpoint.address)]
        if endpoint.gateway is not None:
            messages.append(add_route("default", gateway=endpoint.gateway, index=link.index))
        route.perform(messages)


def configure_loopback() -> None:
    with RouteSocket() as route:
        route.perform([set_link(1, up=True)])


def subnets_in_use(route: RouteSocket) -> tuple[IPv4Network, ...]:
    """IPv4 networks of interfaces and routes, without the default route."""
    found = {
        entry.interface.network for entry in route.addresses() if isinstance(entry.interface, IPv4Interface)
    }
    for entry in route.routes():
        if isinstance(entry.destination, IPv4Network) and entry.destination.prefixlen:
            found.add(entry.destination)
    return tuple(sorted(found))
