"""The driver "bridge": bridges and the veth pairs on them, over rtnetlink, in the calling thread's namespace."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from ipaddress import ip_interface, ip_network

from sampan.errors import Conflict, Invalid, NotFound, Unsupported
from sampan.linux.netlink import Message, NetlinkError
from sampan.linux.netlink_namespace import in_namespace
from sampan.linux.netlink_route import (
    IFF_UP,
    PeerLink,
    RouteSocket,
    add_address,
    add_local_route,
    add_own_route,
    create_bridge,
    create_veth,
    delete_address,
    set_alias,
    set_bridge_port,
    set_link,
)
from sampan.linux.netlink_vxlan import set_port_of
from sampan.network.model import EndpointSpec, HostPolicy, NetworkSpec, derived_mac
from sampan.network.pools import AnyNetwork
from sampan.network.routes import default_routes

_log = logging.getLogger(__name__)

_LOOPBACK_METRIC = (
    1024  # of our routes to ::1, after the kernel's own; each bridge has one more than its index
)


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


def set_own_sysctl(path: str, value: str) -> None:
    """What a person set of an interface (`EndpointSpec.sysctls`). Raises `Invalid` when the kernel does not want it."""
    try:
        with open(f"/proc/sys/{path}", "w", encoding="utf-8") as file:
            file.write(value)
    except OSError as error:
        name = path.replace("/", ".")
        raise Invalid(f"failed to set sysctl {name} to '{value}': {error.strerror}") from error


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

    def __init__(self, alias: str, policy: HostPolicy = HostPolicy()) -> None:  # noqa: B008 (frozen)
        self._alias = alias
        self._policy = policy

    def ensure(self, route: RouteSocket, network: NetworkSpec) -> None:
        ensure_bridge(route, network, self._alias, self._policy)

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
            ensure_bridge(route, network, self._alias, self._policy)
            done.append(f"bridge {network.bridge} is as it was")
        elif _mend_routes(route, network):
            done.append(f"the route to bridge {network.bridge} is as it was")
        plugged = [plug(route, network, endpoint) for endpoint in endpoints]
        if any(plugged):
            done.append(f"{sum(plugged)} containers are on bridge {network.bridge} again")
        return tuple(done)

    def tidy(
        self, route: RouteSocket, networks: Sequence[NetworkSpec], endpoints: Sequence[EndpointSpec]
    ) -> None:
        ports = {host_interface(endpoint.id) for endpoint in endpoints}
        remove_leftovers(route, self._alias, {network.bridge for network in networks}, ports)


def ensure_bridge(route: RouteSocket, network: NetworkSpec, alias: str, policy: HostPolicy) -> None:
    """The bridge, with its address, up. One that a person has made is used, and stays a person's: it is not removed,
    and keeps what else it has. Conflict when its name belongs to something else."""
    link = route.link(network.bridge)
    if link is None:
        made = create_bridge(network.bridge, address=_bridge_mac(network), mtu=network.mtu)
        route.perform([made, set_alias(network.bridge, alias)])
        link = route.link(network.bridge)
        if link is None:
            raise NotFound(f"bridge {network.bridge} vanished as it was made")
    elif link.kind != "bridge":
        raise Conflict(
            f"existing interface {network.bridge} is not a bridge",
            hint=f"It is of kind {link.kind or 'hardware'}; give the network another bridge name.",
        )
    elif link.alias and link.alias != alias:
        raise Conflict(
            f"network interface {network.bridge} already exists",
            hint=f"It is of {link.alias}; give the network another bridge name.",
        )
    own = link.alias == alias
    if own or network.subnet6:
        _settle_ipv6(network, policy)
    messages = [set_link(link.index, up=True, mtu=network.mtu if own else 0)]
    if own:
        stale = _stale_addresses(route, link.index, network)
        messages += [delete_address(link.index, address) for address in stale]
    messages += [add_address(link.index, address, replace=True) for address in own_addresses(network)]
    if network.gateway6:
        messages.append(answer_loopback(link.index))
    route.perform(messages)
    _mend_routes(route, network)
    # For ports published on 127.0.0.1 by NAT. Without rules nothing would keep containers from that address.
    if policy.rules or own:
        write_sysctl(f"ipv4/conf/{network.bridge}/route_localnet", "1" if policy.rules else "0")


def _stale_addresses(route: RouteSocket, index: int, network: NetworkSpec) -> list[str]:
    """Those that the bridge has from an earlier configuration. The kernel makes the link-local ones."""
    wanted = {ip_interface(address) for address in own_addresses(network)}
    return [
        str(entry.interface)
        for entry in route.addresses()
        if entry.index == index and entry.interface not in wanted
        if not (entry.interface.version == 6 and entry.interface.is_link_local)
    ]


def own_addresses(network: NetworkSpec) -> list[str]:
    """The bridge's own, with prefix lengths."""
    gateway = "" if network.inhibit_ipv4 else network.gateway
    pairs = (gateway, network.subnet), (network.gateway6, network.subnet6)
    return [f"{gateway}/{ip_network(subnet).prefixlen}" for gateway, subnet in pairs if gateway]


def _settle_ipv6(network: NetworkSpec, policy: HostPolicy) -> None:
    """Off where the network has none. Where it has, no container can make itself the host's router (CVE-2020-13401)."""
    if not network.subnet6:
        write_sysctl(f"ipv6/conf/{network.bridge}/disable_ipv6", "1", missing_ok=True)
        return
    try:
        write_sysctl(f"ipv6/conf/{network.bridge}/accept_ra", "0")
        write_sysctl(f"ipv6/conf/{network.bridge}/disable_ipv6", "0")
    except NotFound as error:
        raise Unsupported(
            f"network {network.name} has IPv6 addresses, and this host's kernel has no IPv6",
            hint=error.message,
        ) from error
    if policy.forward:
        forward_ipv6()


def forward_ipv6() -> None:
    """Let the host pass IPv6 packets on. Interfaces that learn their routes from a router go on doing so: a kernel
    that forwards listens to routers only where `accept_ra` is 2. `default` stays: interfaces that come later may be
    those of virtual machines, whose word the host must not take."""
    if read_sysctl("ipv6/conf/all/forwarding") == "1":
        return
    for name in os.listdir("/proc/sys/net/ipv6/conf"):
        with suppress(FileNotFoundError):  # an interface that vanishes meanwhile
            if name not in ("all", "default") and read_sysctl(f"ipv6/conf/{name}/accept_ra") == "1":
                write_sysctl(f"ipv6/conf/{name}/accept_ra", "2", missing_ok=True)
    write_sysctl("ipv6/conf/default/forwarding", "1")
    write_sysctl("ipv6/conf/all/forwarding", "1")


def answer_loopback(index: int) -> Message:
    """A route by which the kernel takes packets for ::1 that come from the bridge: what is left of an answer from a
    published port, after NAT has put back the address that was asked. Packets that name ::1 themselves it drops
    before that (RFC 4291, section 2.5.3). What route_localnet is to IPv4."""
    return add_local_route("::1/128", index=index, metric=_LOOPBACK_METRIC + index)


def _is_whole(route: RouteSocket, network: NetworkSpec) -> bool:
    """The bridge is there and up, and has its addresses."""
    link = route.link(network.bridge)
    if link is None or not link.flags & IFF_UP:
        return False
    wanted = {ip_interface(address) for address in own_addresses(network)}
    return wanted <= {entry.interface for entry in route.addresses() if entry.index == link.index}


def _mend_routes(route: RouteSocket, network: NetworkSpec) -> bool:
    """Make the routes again that come with the bridge's addresses; whether one had been deleted. They are not looked
    for: hosts may have a million others."""
    link = route.link(network.bridge)
    missed = False
    for address in own_addresses(network) if link is not None else ():
        if (
            link is None or ip_interface(address).network.num_addresses == 1
        ):  # it has no route but the host's own
            continue
        try:
            route.perform([add_own_route(address, index=link.index)])
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise
            continue
        missed = True
    return missed


def plug(route: RouteSocket, network: NetworkSpec, endpoint: EndpointSpec) -> bool:
    """Make the endpoint's interface a port of the bridge again; False when it is one, or there is no such interface."""
    bridge, port = route.link(network.bridge), route.link(host_interface(endpoint.id))
    if bridge is None or port is None or (port.master == bridge.index and port.flags & IFF_UP):
        return False
    mac = endpoint.mac or derived_mac(endpoint.address or endpoint.address6)
    joins = set_link(port.index, up=True, master=bridge.index)
    route.perform([joins, *_port_flags(port.name, network), set_port_of(port.index, mac)])
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
    """A veth pair: one end a port of the bridge, the other made and configured in the namespace.

    The bridge is told its address: it need not learn it, and so sends others nothing that is for it, even when
    somebody has filled the table of what it may learn.
    """
    bridge = route.link(network.bridge)
    if bridge is None:
        raise NotFound(f"network {network.name} has no bridge {network.bridge}")
    host = host_interface(endpoint.id)
    peer = PeerLink(
        endpoint.interface, namespace, endpoint.mac or derived_mac(endpoint.address or endpoint.address6)
    )
    route.perform([create_veth(host, peer, mtu=network.mtu, master=bridge.index)])
    try:
        port = route.link(host)
        if port is None:
            raise NotFound(f"interface {host} vanished as it was made")
        route.perform([*_port_flags(host, network), set_port_of(port.index, peer.address)])
        in_namespace(namespace, lambda: configure_interface(endpoint))
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
    return bridged_traffic_is_filtered("ip") or bridged_traffic_is_filtered("ip6")


def bridged_traffic_is_filtered(tables: str) -> bool:
    """Does br_netfilter give what crosses bridges to the rules of "ip" or "ip6"?"""
    with suppress(FileNotFoundError):
        return read_sysctl(f"bridge/bridge-nf-call-{tables}tables") == "1"
    return False


def configure_interface(endpoint: EndpointSpec) -> None:
    """Runs in the container's namespace. On a bridge its routes are ours to set, not a neighbour's who says it is a
    router; on a link of the host's it may listen to the real ones there."""
    if endpoint.address6 and endpoint.driver not in ("macvlan", "ipvlan"):
        write_sysctl(f"ipv6/conf/{endpoint.interface}/accept_ra", "0", missing_ok=True)
    off = "0" if endpoint.address6 else "1"
    write_sysctl(f"ipv6/conf/{endpoint.interface}/disable_ipv6", off, missing_ok=True)
    for path, value in endpoint.sysctls:
        set_own_sysctl(path, value)
    with RouteSocket() as route:
        link = route.link(endpoint.interface)
        if link is None:
            raise NotFound(f"interface {endpoint.interface} vanished from its namespace")
        messages: list[Message] = [set_link(link.index, up=True)]
        messages += [
            add_address(link.index, address)
            for address in (endpoint.address, endpoint.address6, *endpoint.link_local)
            if address
        ]
        route.perform([*messages, *default_routes(endpoint, link.index)])


def configure_loopback() -> None:
    with RouteSocket() as route:
        route.perform([set_link(1, up=True)])


def subnets_in_use(route: RouteSocket) -> tuple[AnyNetwork, ...]:
    """Networks of interfaces and routes of both families, without default routes, loopback and link-local ones."""
    found: set[AnyNetwork] = {entry.interface.network for entry in route.addresses()}
    for entry in route.routes():
        if entry.destination is not None and entry.destination.prefixlen:
            found.add(entry.destination)
    common = [network for network in found if not (network.version == 6 and _is_everybody_s(network))]
    return tuple(sorted(common, key=lambda network: (network.version, network.network_address)))


def _is_everybody_s(network: AnyNetwork) -> bool:
    return network.is_link_local or network.is_multicast or network.is_loopback
