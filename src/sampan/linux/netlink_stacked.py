"""Links that stand on another one, or stand for one: macvlan, ipvlan, 802.1q, dummy (uapi/linux/if_link.h)."""

from __future__ import annotations

import errno
import struct

from sampan.linux.netlink import Message, NetlinkError, attribute
from sampan.linux.netlink_route import RouteSocket, create_link

_IFLA_MACVLAN_MODE, _IFLA_IPVLAN_MODE, _IFLA_IPVLAN_FLAGS, _IFLA_VLAN_ID = 1, 1, 2, 1

MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}


def create_macvlan(name: str, parent: int, namespace: int, *, mode: str, address: str, mtu: int) -> Message:
    """`parent` is an index here; the link is made in the other namespace. `address` "": one of the kernel's choice,
    with mode passthru its parent's. `mtu` 0: the parent's."""
    data = attribute(_IFLA_MACVLAN_MODE, struct.pack("=I", MACVLAN_MODES[mode]))
    return create_link(
        "macvlan", name, data=(data,), parent=parent, address=address, mtu=mtu, namespace=namespace
    )


def create_ipvlan(name: str, parent: int, namespace: int, *, mode: str, flag: str, mtu: int) -> Message:
    """As `create_macvlan`; such a link has its parent's address."""
    data = (
        attribute(_IFLA_IPVLAN_MODE, struct.pack("=H", IPVLAN_MODES[mode])),
        attribute(_IFLA_IPVLAN_FLAGS, struct.pack("=H", IPVLAN_FLAGS[flag])),
    )
    return create_link("ipvlan", name, data=data, parent=parent, mtu=mtu, namespace=namespace)


def create_vlan(name: str, parent: int, vlan_id: int) -> Message:
    """A sub-interface of `parent` for frames tagged with this id (802.1q), up."""
    data = attribute(_IFLA_VLAN_ID, struct.pack("=H", vlan_id))
    return create_link("vlan", name, data=(data,), parent=parent, up=True)


def create_dummy(name: str) -> Message:
    """A link that leads nowhere, up."""
    return create_link("dummy", name, up=True)


def create_sink(name: str) -> Message:
    """A link (an intermediate functional block) that drops what it is given to send, up; for want of a dummy."""
    return create_link("ifb", name, up=True)


def is_supported(route: RouteSocket, kind: str) -> bool:
    """Whether the kernel has (or can load) this kind of link, of those that stand on another one."""
    try:
        route.perform([create_link(kind, "unsupported0")])  # without its parent: never made
    except NetlinkError as error:
        return error.errno != errno.EOPNOTSUPP
    route.delete("unsupported0")
    return True
