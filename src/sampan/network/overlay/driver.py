"""The driver "overlay" in the kernel: a bridge as the driver "bridge" makes it, and a VXLAN device as one of its ports.

The bridge has the network's gateway on every host, so a container's way outside is through the host that it is on.
Nothing is flooded to other hosts and nothing is learned from them: which container is where is told to the kernel
entry by entry (`program`), and the bridge answers for those containers when somebody asks for their address.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping, Sequence

from sampan.errors import Conflict, NotFound, Unavailable
from sampan.linux.netlink import Message, NetlinkError
from sampan.linux.netlink_route import Link, RouteSocket, set_link, set_neighbour
from sampan.linux.netlink_vxlan import (
    VxlanInfo,
    create_vxlan,
    delete_neighbour,
    delete_port_of,
    delete_remote,
    join_bridge_quietly,
    remotes,
    set_port_of,
    set_remote,
    static_port_entries,
    vxlan_info,
)
from sampan.network.bridge import BridgeDriver, write_sysctl
from sampan.network.model import EndpointSpec, Forward, HostPolicy, NetworkSpec

PLAIN_PORT = 4789
"""UDP, IANA's for VXLAN."""
SECURE_PORT = 4788
"""Of encrypted networks: a port of its own, so that the kernel can tell what it has to encrypt."""
_GONE = (errno.ENOENT, errno.ESRCH, errno.EINVAL, errno.EOPNOTSUPP)


def bridge_name(network_id: str) -> str:
    return f"ov-{network_id[:12]}"


def vxlan_name(network: NetworkSpec) -> str:
    return f"vx-{network.id[:12]}"


def port_of(network: NetworkSpec) -> int:
    return SECURE_PORT if network.secure else PLAIN_PORT


class OverlayDriver:
    """See `drivers.Driver`. `address`: where this host's VXLAN packets come from; "" where it is in no cluster."""

    def __init__(self, alias: str, address: str, policy: HostPolicy) -> None:
        # An alias of its own: what the driver "bridge" does not know it takes for left over.
        self._alias = f"{alias}:overlay"
        self._address = address
        self._bridges = BridgeDriver(self._alias, policy)

    def ensure(self, route: RouteSocket, network: NetworkSpec) -> None:
        """Raises `Conflict` when the number is another VXLAN network's on this host, or a device is another's."""
        if not self._address:
            raise Unavailable(
                f"network {network.name} needs a cluster",
                hint="start the engine with --cluster-store and --cluster-advertise",
            )
        self._bridges.ensure(route, network)
        bridge = route.link(network.bridge)
        if bridge is None:
            raise NotFound(f"bridge {network.bridge} vanished as it was made")
        name = vxlan_name(network)
        wanted = VxlanInfo(network.vni, self._address, port_of(network))
        link = route.link(name)
        if link is not None and (link.alias != self._alias or vxlan_info(route, name) != wanted):
            if link.alias != self._alias:
                raise Conflict(
                    f"network interface {name} already exists", hint=f"It is {link.alias or link.kind}."
                )
            route.delete(name)
            link = None
        if link is None:
            link = self._make(route, network, wanted)
        write_sysctl(f"ipv6/conf/{name}/disable_ipv6", "1", missing_ok=True)
        route.perform(
            [
                set_link(link.index, mtu=network.mtu, alias=self._alias),
                *join_bridge_quietly(link.index, name, bridge.index),
            ]
        )

    def _make(self, route: RouteSocket, network: NetworkSpec, wanted: VxlanInfo) -> Link:
        name = vxlan_name(network)
        mac = "02:42:" + hashlib.sha256(f"{network.id} {wanted.local}".encode()).digest()[:4].hex(":")
        try:
            route.perform(
                [
                    create_vxlan(
                        name,
                        vni=wanted.vni,
                        local=wanted.local,
                        port=wanted.port,
                        mtu=network.mtu,
                        mac=mac,
                    )
                ]
            )
        except NetlinkError as error:
            self._bridges.remove(route, network)
            if error.errno == errno.EEXIST:
                raise Conflict(
                    f"network {network.name}: VXLAN network {wanted.vni} is another program's on this host"
                ) from error
            if error.errno == errno.EOPNOTSUPP:
                raise Unavailable("this host's kernel has no VXLAN devices") from error
            raise
        link = route.link(name)
        if link is None:
            raise NotFound(f"VXLAN device {name} vanished as it was made")
        return link

    def remove(self, route: RouteSocket, network: NetworkSpec) -> None:
        link = route.link(vxlan_name(network))
        if link is not None and link.alias == self._alias:
            route.delete(link.name)
        self._bridges.remove(route, network)

    def attach(
        self, route: RouteSocket, namespace: int, network: NetworkSpec, endpoint: EndpointSpec
    ) -> None:
        self._bridges.attach(route, namespace, network, endpoint)

    def detach(self, route: RouteSocket, endpoint: EndpointSpec, namespace: int | None) -> None:
        self._bridges.detach(route, endpoint, namespace)

    def mend(
        self, route: RouteSocket, network: NetworkSpec, endpoints: Sequence[EndpointSpec]
    ) -> tuple[str, ...]:
        if not self._address:
            return ()
        done = self._bridges.mend(route, network, endpoints)
        if done or route.link(vxlan_name(network)) is None:
            self.ensure(route, network)
            done = (*done, f"{vxlan_name(network)} is on it again")
        return done

    def tidy(
        self, route: RouteSocket, networks: Sequence[NetworkSpec], endpoints: Sequence[EndpointSpec]
    ) -> None:
        kept = {vxlan_name(network) for network in networks}
        for link in route.links():
            if link.kind == "vxlan" and link.alias == self._alias and link.name not in kept:
                route.delete(link.name)
        self._bridges.tidy(route, networks, endpoints)

    def program(self, route: RouteSocket, network: NetworkSpec, forwards: Mapping[str, Forward]) -> None:
        """Exactly these containers are on other hosts. Nothing happens where the network has no device."""
        link, bridge = route.link(vxlan_name(network)), route.link(network.bridge)
        if link is None or bridge is None or link.alias != self._alias:
            return
        known, ports = remotes(route, link.index), static_port_entries(route, link.index)
        neighbours = {
            str(one.address): one.mac
            for one in route.neighbours()
            if one.index == bridge.index and one.mac and one.state & _PERMANENT
        }
        for mac in (known.keys() | ports) - forwards.keys():
            _forgetting(route, delete_remote(link.index, mac), delete_port_of(link.index, mac))
        wanted = {
            address: forward.mac
            for forward in forwards.values()
            for address in (forward.address, forward.address6)
            if address
        }
        for address in neighbours.keys() - wanted.keys():
            _forgetting(route, delete_neighbour(bridge.index, address))
        messages: list[Message] = []
        for mac, forward in forwards.items():
            if known.get(mac) != forward.at:
                messages.append(set_remote(link.index, mac, forward.at))
            if mac not in ports:
                messages.append(set_port_of(link.index, mac))
        messages += [
            set_neighbour(bridge.index, address, mac)
            for address, mac in wanted.items()
            if neighbours.get(address) != mac
        ]
        for start in range(0, len(messages), _AT_ONCE):
            route.perform(messages[start : start + _AT_ONCE])


_PERMANENT = 0x80
_AT_ONCE = 200


def _forgetting(route: RouteSocket, *messages: Message) -> None:
    """One by one; what is not there any more is no error."""
    for message in messages:
        try:
            route.perform([message])
        except NetlinkError as error:
            if error.errno not in _GONE:
                raise
