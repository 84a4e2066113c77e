"""VXLAN devices, and where a bridge and such a device send which Ethernet address (rtnetlink).

Formats: include/uapi/linux/if_link.h (IFLA_VXLAN_*, IFLA_BRPORT_*) and neighbour.h. A forwarding entry exists twice: in
the bridge (this address is behind that port) and in the VXLAN device (this address is at that host).
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

from sampan.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    NetlinkError,
    attribute,
    decode_text,
    nested,
    parse_attributes,
    text,
)
from sampan.linux.netlink_route import (
    RTM_DELNEIGH,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RouteSocket,
)

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_LOCAL6 = 1, 4, 7, 15, 17
_PORT_LEARNING, _PORT_UNICAST_FLOOD, _PORT_MCAST_FLOOD, _PORT_BCAST_FLOOD = 8, 9, 27, 30
_PORT_NEIGH_SUPPRESS = 32
_NDA_DST, _NDA_LLADDR, _NDA_MASTER = 1, 2, 9
_NUD_NOARP, _NUD_PERMANENT = 0x40, 0x80
_NTF_SELF, _NTF_MASTER, _NTF_STICKY = 0x02, 0x04, 0x40
_AF_BRIDGE = 7

_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type


@dataclass(frozen=True, slots=True)
class VxlanInfo:
    """What a VXLAN device was made with: its network's number, the address that it sends from, its UDP port."""

    vni: int
    local: str
    port: int


def create_vxlan(name: str, *, vni: int, local: str, port: int, mtu: int, mac: str) -> Message:
    """A VXLAN device that knows nobody and learns nothing: where it sends is told with `set_remote`."""
    address = ip_address(local)
    data = attribute(_VXLAN_ID, struct.pack("=I", vni)) + attribute(_VXLAN_LEARNING, b"\0")
    data += attribute(_VXLAN_PORT, struct.pack("!H", port))
    data += attribute(_VXLAN_LOCAL if address.version == 4 else _VXLAN_LOCAL6, address.packed)
    payload = (
        _IFINFOMSG.pack(0, 0, 0, 0, 0)
        + text(_IFLA_IFNAME, name)
        + attribute(_IFLA_ADDRESS, _packed(mac))
        + attribute(_IFLA_MTU, struct.pack("=I", mtu))
        + nested(_IFLA_LINKINFO, attribute(_INFO_KIND, b"vxlan") + nested(_INFO_DATA, data))
    )
    return Message(RTM_NEWLINK, payload, NLM_F_CREATE | NLM_F_EXCL, f"create VXLAN device {name}")


def vxlan_info(route: RouteSocket, name: str) -> VxlanInfo | None:
    """None when there is no such device, or it is of another kind."""
    message = Message(
        RTM_GETLINK, _IFINFOMSG.pack(0, 0, 0, 0, 0) + text(_IFLA_IFNAME, name), 0, f"look up link {name}"
    )
    try:
        replies = route.request([message])
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    attributes = parse_attributes(replies[0].payload[_IFINFOMSG.size :])
    info = parse_attributes(attributes.get(_IFLA_LINKINFO, b""))
    if decode_text(info.get(_INFO_KIND, b"")) != "vxlan":
        return None
    data = parse_attributes(info.get(_INFO_DATA, b""))
    local = data.get(_VXLAN_LOCAL, data.get(_VXLAN_LOCAL6))
    return VxlanInfo(
        struct.unpack("=I", data[_VXLAN_ID])[0],
        str(ip_address(local)) if local is not None else "",
        struct.unpack("!H", data[_VXLAN_PORT])[0],
    )


def join_bridge_quietly(index: int, name: str, bridge: int) -> list[Message]:
    """Make a link a port to which nothing is sent but what is known to be there, and which answers for whom is there.

    Neither broadcasts nor frames for unknown addresses leave by it, nothing is learned from what comes, and questions
    for addresses (ARP, ND) that the bridge knows a neighbour for are answered without asking anybody.
    """
    master = _IFINFOMSG.pack(0, 0, index, 0, 0) + attribute(_IFLA_MASTER, struct.pack("=I", bridge))
    off = (_PORT_LEARNING, _PORT_UNICAST_FLOOD, _PORT_MCAST_FLOOD, _PORT_BCAST_FLOOD)
    flags = b"".join(attribute(kind, b"\0") for kind in off) + attribute(_PORT_NEIGH_SUPPRESS, b"\1")
    info = attribute(_INFO_SLAVE_KIND, b"bridge") + nested(_INFO_SLAVE_DATA, flags)
    port = _IFINFOMSG.pack(0, 0, index, 0, 0) + nested(_IFLA_LINKINFO, info)
    up = _IFINFOMSG.pack(0, 0, index, 1, 1)
    return [
        Message(RTM_NEWLINK, master, 0, f"make {name} a port of a bridge"),
        Message(RTM_NEWLINK, port, 0, f"set the flags of bridge port {name}"),
        Message(RTM_NEWLINK, up, 0, f"set {name} up"),
    ]


def set_port_of(index: int, mac: str) -> Message:
    """The bridge finds this address behind the port, and nobody who claims it at another port changes that."""
    payload = _NDMSG.pack(_AF_BRIDGE, index, _NUD_NOARP, _NTF_MASTER | _NTF_STICKY, 0)
    payload += attribute(_NDA_LLADDR, _packed(mac))
    return Message(RTM_NEWNEIGH, payload, NLM_F_CREATE | NLM_F_REPLACE, f"set the bridge port of {mac}")


def delete_port_of(index: int, mac: str) -> Message:
    payload = _NDMSG.pack(_AF_BRIDGE, index, 0, _NTF_MASTER, 0) + attribute(_NDA_LLADDR, _packed(mac))
    return Message(RTM_DELNEIGH, payload, 0, f"forget the bridge port of {mac}")


def set_remote(index: int, mac: str, host: str) -> Message:
    """The VXLAN device sends frames for this address to that host."""
    payload = _NDMSG.pack(_AF_BRIDGE, index, _NUD_PERMANENT, _NTF_SELF, 0)
    payload += attribute(_NDA_DST, ip_address(host).packed) + attribute(_NDA_LLADDR, _packed(mac))
    return Message(RTM_NEWNEIGH, payload, NLM_F_CREATE | NLM_F_REPLACE, f"set the host of {mac}")


def delete_remote(index: int, mac: str) -> Message:
    payload = _NDMSG.pack(_AF_BRIDGE, index, 0, _NTF_SELF, 0) + attribute(_NDA_LLADDR, _packed(mac))
    return Message(RTM_DELNEIGH, payload, 0, f"forget the host of {mac}")


def delete_neighbour(index: int, address: str) -> Message:
    ip = ip_address(address)
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    payload = _NDMSG.pack(family, index, 0, 0, 0) + attribute(_NDA_DST, ip.packed)
    return Message(RTM_DELNEIGH, payload, 0, f"forget neighbour {address}")


def remotes(route: RouteSocket, index: int) -> dict[str, str]:
    """What a VXLAN device knows: Ethernet address -> host."""
    # The kernel filters a dump of forwarding entries by the device in an ifinfomsg or ndmsg; not all versions do.
    message = Message(RTM_GETNEIGH, _NDMSG.pack(_AF_BRIDGE, index, 0, 0, 0), 0, "list forwarding entries")
    found = {}
    for reply in route.dump(message):
        _, of, _, flags, _ = _NDMSG.unpack_from(reply.payload)
        attributes = parse_attributes(reply.payload[_NDMSG.size :])
        if of == index and flags & _NTF_SELF and _NDA_DST in attributes and _NDA_LLADDR in attributes:
            found[attributes[_NDA_LLADDR].hex(":")] = str(ip_address(attributes[_NDA_DST]))
    return found


def static_port_entries(route: RouteSocket, index: int) -> set[str]:
    """The Ethernet addresses that were told to be behind this bridge port."""
    message = Message(RTM_GETNEIGH, _NDMSG.pack(_AF_BRIDGE, 0, 0, 0, 0), 0, "list forwarding entries")
    found = set()
    for reply in route.dump(message):
        _, of, state, flags, _ = _NDMSG.unpack_from(reply.payload)
        attributes = parse_attributes(reply.payload[_NDMSG.size :])
        static = state == _NUD_NOARP and not flags & _NTF_SELF and _NDA_MASTER in attributes
        if of == index and static and _NDA_LLADDR in attributes:
            found.add(attributes[_NDA_LLADDR].hex(":"))
    return found


def _packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
