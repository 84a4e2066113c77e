"""rtnetlink: links, addresses, routes and neighbours (rtnetlink(7), include/uapi/linux/rtnetlink.h).

Functions named after a request build a `Message`, so that several can go to the kernel in one write;
`RouteSocket` sends them and lists what exists.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from sampan.errors import Invalid
from sampan.linux.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    NetlinkError,
    NetlinkSocket,
    attribute,
    decode_text,
    nested,
    parse_attributes,
    text,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

IFF_UP = 0x1

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
_IFLA_IFALIAS, _IFLA_NET_NS_FD = 20, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_IFLA_BRPORT_MODE, _IFLA_BRPORT_ISOLATED = 4, 33
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 6, 7, 15
_RTPROT_KERNEL, _PREFIX_METRIC = 2, 256  # of the routes that come with IPv6 addresses: IP6_RT_PRIO_ADDRCONF
_RT_TABLE_MAIN, _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RTN_UNICAST = 254, 4, 0, 253, 1
_RT_TABLE_LOCAL, _RT_SCOPE_HOST, _RTN_LOCAL = 255, 254, 2
_RT_SCOPE_NOWHERE = 255
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_PERMANENT = 0x80

_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_IFADDRMSG = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type

_IFLA_BR_FDB_MAX_LEARNED = 49
MAX_LEARNED = 4096  # Ethernet addresses of a bridge beside those that it was told
_IFNAMSIZ = 16  # with the closing zero byte
_NAME = re.compile(r"[^\s/:\0]+")
_NOT_NAMES = (".", "..", "all", "default")


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    kind: str  # "bridge", "veth", ...; "" for hardware
    flags: int
    mtu: int
    address: str  # MAC, "" when it has none
    master: int  # index of the bridge it is a port of, 0 when none
    alias: str = ""  # free text of whoever made it
    parent: int = 0  # index of the link it stands on (macvlan, vlan), also of a veth's peer; 0 when none


@dataclass(frozen=True, slots=True)
class LinkAddress:
    index: int
    interface: IPv4Interface | IPv6Interface


@dataclass(frozen=True, slots=True)
class Route:
    """`destination` None is a default route; `gateway` None is a directly connected network."""

    destination: IPv4Network | IPv6Network | None
    gateway: IPv4Address | IPv6Address | None
    index: int
    table: int
    type: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    index: int
    address: IPv4Address | IPv6Address
    mac: str
    state: int


@dataclass(frozen=True, slots=True)
class PeerLink:
    """The other end of a veth pair: its name in the namespace of the descriptor."""

    name: str
    namespace: int
    address: str = ""


def check_link_name(name: str) -> None:
    """Invalid for what can't be a name; "all" and "default" mean something else in /proc/sys/net."""
    if not 0 < len(name.encode()) < _IFNAMSIZ or not _NAME.fullmatch(name) or name in _NOT_NAMES:
        raise Invalid(
            f"{name!r} is not a name for a network interface", hint=f"It has 1 to {_IFNAMSIZ - 1} bytes."
        )


def _name(kind: int, name: str) -> bytes:
    """Raises `Invalid`."""
    check_link_name(name)
    return text(kind, name)


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def create_link(
    kind: str,
    name: str,
    *,
    data: Sequence[bytes] = (),
    parent: int = 0,
    address: str = "",
    mtu: int = 0,
    namespace: int | None = None,
    up: bool = False,
) -> Message:
    """A virtual link of any kind. `data`: attributes of the kind's own; `parent`: index (in this namespace) of the
    link it stands on; `namespace`: it is made there (a descriptor), under this name from the beginning."""
    flags = IFF_UP if up else 0
    payload = _IFINFOMSG.pack(0, 0, 0, flags, flags) + _name(_IFLA_IFNAME, name)
    if address:
        payload += attribute(_IFLA_ADDRESS, _mac(address))
    if mtu:
        payload += _u32(_IFLA_MTU, mtu)
    if parent:
        payload += _u32(_IFLA_LINK, parent)
    if namespace is not None:
        payload += _u32(_IFLA_NET_NS_FD, namespace)
    info = attribute(_IFLA_INFO_KIND, kind.encode())
    if data:
        info += nested(_IFLA_INFO_DATA, *data)
    payload += nested(_IFLA_LINKINFO, info)
    return Message(RTM_NEWLINK, payload, NLM_F_CREATE | NLM_F_EXCL, f"create {kind} {name}")


def create_bridge(name: str, *, address: str, mtu: int) -> Message:
    """A bridge that learns only so many addresses: a port could send from any number, and fill the kernel's memory.

    Kernels before 6.7 know no such limit, and ignore it.
    """
    limit = _u32(_IFLA_BR_FDB_MAX_LEARNED, MAX_LEARNED)
    return create_link("bridge", name, data=(limit,), address=address, mtu=mtu, up=True)


def create_veth(name: str, peer: PeerLink, *, mtu: int, master: int = 0) -> Message:
    """A veth pair: this end here, up and a port of `master`; the peer straight in its namespace.

    The peer stays down: the kernel makes it before the pair is joined, and opening it then fails.
    """
    other = _IFINFOMSG.pack(0, 0, 0, 0, 0) + _name(_IFLA_IFNAME, peer.name)
    other += _u32(_IFLA_NET_NS_FD, peer.namespace) + _u32(_IFLA_MTU, mtu)
    if peer.address:
        other += attribute(_IFLA_ADDRESS, _mac(peer.address))
    info = attribute(_IFLA_INFO_KIND, b"veth") + nested(_IFLA_INFO_DATA, nested(_VETH_INFO_PEER, other))
    payload = _IFINFOMSG.pack(0, 0, 0, IFF_UP, IFF_UP) + _name(_IFLA_IFNAME, name) + _u32(_IFLA_MTU, mtu)
    if master:
        payload += _u32(_IFLA_MASTER, master)
    payload += nested(_IFLA_LINKINFO, info)
    return Message(RTM_NEWLINK, payload, NLM_F_CREATE | NLM_F_EXCL, f"create veth {name} and {peer.name}")


def set_bridge_port(name: str, *, hairpin: bool, isolated: bool) -> Message:
    """Flags of a bridge port: `hairpin` sends frames back out of it, `isolated` keeps ports apart."""
    data = attribute(_IFLA_BRPORT_MODE, bytes([hairpin])) + attribute(
        _IFLA_BRPORT_ISOLATED, bytes([isolated])
    )
    info = attribute(_IFLA_INFO_SLAVE_KIND, b"bridge") + nested(_IFLA_INFO_SLAVE_DATA, data)
    payload = _IFINFOMSG.pack(0, 0, 0, 0, 0) + _name(_IFLA_IFNAME, name) + nested(_IFLA_LINKINFO, info)
    return Message(RTM_NEWLINK, payload, 0, f"set the flags of bridge port {name}")


def set_link(
    index: int,
    *,
    up: bool | None = None,
    name: str = "",
    mtu: int = 0,
    address: str = "",
    master: int | None = None,
    namespace: int | None = None,
    alias: str = "",
) -> Message:
    """Change what is given. `master` 0 takes the link out of its bridge; `namespace` moves it there."""
    flags, mask = (IFF_UP if up else 0), (0 if up is None else IFF_UP)
    payload = _IFINFOMSG.pack(0, 0, index, flags, mask)
    if name:
        payload += _name(_IFLA_IFNAME, name)
    if mtu:
        payload += _u32(_IFLA_MTU, mtu)
    if address:
        payload += attribute(_IFLA_ADDRESS, _mac(address))
    if master is not None:
        payload += _u32(_IFLA_MASTER, master)
    if alias:
        payload += text(_IFLA_IFALIAS, alias)
    if namespace is not None:
        payload += _u32(_IFLA_NET_NS_FD, namespace)
    return Message(RTM_NEWLINK, payload, 0, f"change link {name or index}")


def set_alias(name: str, alias: str) -> Message:
    """By name: to be sent together with the request that makes the link."""
    payload = _IFINFOMSG.pack(0, 0, 0, 0, 0) + _name(_IFLA_IFNAME, name) + text(_IFLA_IFALIAS, alias)
    return Message(RTM_NEWLINK, payload, 0, f"set the alias of {name}")


def delete_link(name: str) -> Message:
    payload = _IFINFOMSG.pack(0, 0, 0, 0, 0) + _name(_IFLA_IFNAME, name)
    return Message(RTM_DELLINK, payload, 0, f"delete link {name}")


def add_address(index: int, address: str, *, replace: bool = False) -> Message:
    return _address(RTM_NEWADDR, index, address, NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL))


def delete_address(index: int, address: str) -> Message:
    return _address(RTM_DELADDR, index, address, 0)


def _address(kind: int, index: int, address: str, flags: int) -> Message:
    """`address` with prefix length; IPv6 without duplicate address detection (the pool gave it out once)."""
    interface = ip_interface(address)
    family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    payload = _IFADDRMSG.pack(family, interface.network.prefixlen, 0, 0, index)
    payload += attribute(_IFA_LOCAL, interface.ip.packed) + attribute(_IFA_ADDRESS, interface.ip.packed)
    if interface.version == 6:
        payload += _u32(_IFA_FLAGS, _IFA_F_NODAD)
    elif interface.network.prefixlen < 31:
        payload += attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
    verb = "add" if kind == RTM_NEWADDR else "delete"
    return Message(kind, payload, flags, f"{verb} address {address}")


def add_route(
    destination: str, *, gateway: str | None = None, index: int = 0, replace: bool = False
) -> Message:
    """A route of the main table; `destination` "default" or a network. `replace`: instead of the one that is there."""
    how = NLM_F_REPLACE if replace else NLM_F_EXCL
    return _route(RTM_NEWROUTE, destination, gateway, index, NLM_F_CREATE | how)


def add_local_route(destination: str, *, index: int, metric: int) -> Message:
    """Replace, or make, the route of the local table with this metric: packets for there are the host's own."""
    network = ip_network(destination)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    payload = _RTMSG.pack(
        family, network.prefixlen, 0, 0, _RT_TABLE_LOCAL, _RTPROT_STATIC, _RT_SCOPE_HOST, _RTN_LOCAL, 0
    )
    payload += attribute(_RTA_DST, network.network_address.packed)
    payload += _u32(_RTA_OIF, index) + _u32(_RTA_PRIORITY, metric)
    return Message(RTM_NEWROUTE, payload, NLM_F_CREATE | NLM_F_REPLACE, f"add local route {destination}")


def add_own_route(address: str, *, index: int) -> Message:
    """The kernel's route to the subnet of an interface's address (with prefix length). EEXIST: it is there."""
    own = ip_interface(address)
    four = own.version == 4
    family, scope = (socket.AF_INET, _RT_SCOPE_LINK) if four else (socket.AF_INET6, _RT_SCOPE_UNIVERSE)
    length = own.network.prefixlen
    payload = _RTMSG.pack(family, length, 0, 0, _RT_TABLE_MAIN, _RTPROT_KERNEL, scope, _RTN_UNICAST, 0)
    payload += attribute(_RTA_DST, own.network.network_address.packed) + _u32(_RTA_OIF, index)
    payload += attribute(_RTA_PREFSRC, own.ip.packed) if four else _u32(_RTA_PRIORITY, _PREFIX_METRIC)
    return Message(RTM_NEWROUTE, payload, NLM_F_CREATE | NLM_F_EXCL, f"add the route of {address}")


def delete_route(destination: str, *, gateway: str | None = None, index: int = 0) -> Message:
    return _route(RTM_DELROUTE, destination, gateway, index, 0)


def _route(kind: int, destination: str, gateway: str | None, index: int, flags: int) -> Message:
    network = None if destination == "default" else ip_network(destination)
    via = ip_address(gateway) if gateway is not None else None
    version = network.version if network is not None else (via.version if via is not None else 4)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    if kind == RTM_DELROUTE:
        scope = _RT_SCOPE_NOWHERE  # whatever scope it has
    else:
        scope = _RT_SCOPE_UNIVERSE if via is not None or version == 6 else _RT_SCOPE_LINK
    length = network.prefixlen if network is not None else 0
    payload = _RTMSG.pack(family, length, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, scope, _RTN_UNICAST, 0)
    if network is not None:
        payload += attribute(_RTA_DST, network.network_address.packed)
    if via is not None:
        payload += attribute(_RTA_GATEWAY, via.packed)
    if index:
        payload += _u32(_RTA_OIF, index)
    verb = "add" if kind == RTM_NEWROUTE else "delete"
    return Message(kind, payload, flags, f"{verb} route {destination}")


def set_neighbour(index: int, address: str, mac: str) -> Message:
    """A permanent neighbour entry."""
    ip = ip_address(address)
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    payload = _NDMSG.pack(family, index, _NUD_PERMANENT, 0, 0)
    payload += attribute(_NDA_DST, ip.packed) + attribute(_NDA_LLADDR, _mac(mac))
    return Message(RTM_NEWNEIGH, payload, NLM_F_CREATE | NLM_F_REPLACE, f"set neighbour {address}")


class RouteSocket(NetlinkSocket):
    """An rtnetlink socket of the calling thread's namespace. Not thread-safe."""

    def __init__(self) -> None:
        super().__init__(NETLINK_ROUTE)

    def __enter__(self) -> RouteSocket:
        return self

    def link(self, name: str) -> Link | None:
        """The link of this name, None when there is none."""
        payload = _IFINFOMSG.pack(0, 0, 0, 0, 0) + _name(_IFLA_IFNAME, name)
        try:
            replies = self.request([Message(RTM_GETLINK, payload, 0, f"look up link {name}")])
        except NetlinkError as exc:
            if exc.errno == errno.ENODEV:
                return None
            raise
        return _decode_link(replies[0].payload)

    def delete(self, name: str) -> bool:
        """Delete a link; False when it is not there (a veth vanishes with its peer)."""
        try:
            self.request([delete_link(name)])
        except NetlinkError as exc:
            if exc.errno == errno.ENODEV:
                return False
            raise
        return True

    def links(self) -> list[Link]:
        payload = _IFINFOMSG.pack(0, 0, 0, 0, 0)
        return [_decode_link(r.payload) for r in self.dump(Message(RTM_GETLINK, payload, 0, "list links"))]

    def addresses(self) -> list[LinkAddress]:
        found = []
        for reply in self.dump(Message(RTM_GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0), 0, "list addresses")):
            _, length, _, _, index = _IFADDRMSG.unpack_from(reply.payload)
            attributes = parse_attributes(reply.payload[_IFADDRMSG.size :])
            local = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
            if local is not None:
                found.append(LinkAddress(index, ip_interface((local, length))))
        return found

    def routes(self) -> list[Route]:
        message = Message(RTM_GETROUTE, _RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0), 0, "list routes")
        return [_decode_route(reply.payload) for reply in self.dump(message)]

    def neighbours(self) -> list[Neighbour]:
        found = []
        for reply in self.dump(Message(RTM_GETNEIGH, _NDMSG.pack(0, 0, 0, 0, 0), 0, "list neighbours")):
            _, index, state, _, _ = _NDMSG.unpack_from(reply.payload)
            attributes = parse_attributes(reply.payload[_NDMSG.size :])
            if _NDA_DST in attributes:
                mac = attributes.get(_NDA_LLADDR, b"").hex(":")
                found.append(Neighbour(index, ip_address(attributes[_NDA_DST]), mac, state))
        return found

    def perform(self, messages: Sequence[Message]) -> None:
        """Send requests in one write. Raises NetlinkError of the first that failed."""
        self.request(messages)


def _decode_link(payload: bytes) -> Link:
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(payload)
    attributes = parse_attributes(payload[_IFINFOMSG.size :])
    info = parse_attributes(attributes.get(_IFLA_LINKINFO, b""))

    def number(kind: int) -> int:
        value = attributes.get(kind)
        return int(struct.unpack("=I", value)[0]) if value is not None else 0

    return Link(
        index=index,
        name=decode_text(attributes.get(_IFLA_IFNAME, b"")),
        kind=decode_text(info.get(_IFLA_INFO_KIND, b"")),
        flags=flags,
        mtu=number(_IFLA_MTU),
        address=attributes.get(_IFLA_ADDRESS, b"").hex(":"),
        master=number(_IFLA_MASTER),
        alias=decode_text(attributes.get(_IFLA_IFALIAS, b"")),
        parent=number(_IFLA_LINK),
    )


def _decode_route(payload: bytes) -> Route:
    _, length, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(payload)
    attributes = parse_attributes(payload[_RTMSG.size :])
    destination, gateway, oif = (attributes.get(key) for key in (_RTA_DST, _RTA_GATEWAY, _RTA_OIF))
    if _RTA_TABLE in attributes:
        (table,) = struct.unpack("=I", attributes[_RTA_TABLE])
    return Route(
        destination=ip_network((destination, length)) if destination is not None else None,
        gateway=ip_address(gateway) if gateway is not None else None,
        index=struct.unpack("=i", oif)[0] if oif is not None else 0,
        table=table,
        type=kind,
    )
