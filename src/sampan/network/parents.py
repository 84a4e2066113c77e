"""The devices of the host that macvlan and ipvlan networks stand on.

A parent is a device that somebody else looks after ("eth0"), or one of ours: a sub-interface for a VLAN where the
name says so ("eth0.10") and there is none yet, or a device that leads nowhere for a network without a parent. Ours
carry the engine's alias from the instant they exist.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Sequence

from sampan.errors import Invalid, NotFound, SampanError, Unsupported
from sampan.linux.netlink import NetlinkError
from sampan.linux.netlink_namespace import in_namespace
from sampan.linux.netlink_route import Link, RouteSocket, set_alias, set_link
from sampan.linux.netlink_stacked import create_dummy, create_sink, create_vlan
from sampan.network.model import NetworkSpec, dummy_parent

_log = logging.getLogger(__name__)
_OURS = ("vlan", "dummy", "ifb")


def sub_interface(name: str) -> tuple[str, int]:
    """("eth0", 10) of "eth0.10". Raises `Invalid` in Docker's words."""
    if "." not in name:
        raise Invalid(
            f"invalid subinterface vlan name {name}, example formatting is eth0.10",
            hint="There is no such interface on the host.",
        )
    parts = name.split(".")
    if len(parts) != 2:
        raise Invalid(
            "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received "
            + name
        )
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", parts[1]):
        raise Invalid(f"unable to parse a valid vlan id from: {parts[1]} (ex. eth0.10 for vlan 10)")
    return parts[0], int(parts[1])


def ensure_parent(route: RouteSocket, network: NetworkSpec, alias: str) -> Link:
    """The network's parent, made when it is to be one of ours. Idempotent.

    Raises `Invalid`, `NotFound` in Docker's words, `Unsupported` where the kernel has no such devices.
    """
    link = route.link(network.parent)
    if link is not None:
        return link
    if network.parent == dummy_parent(network.id):
        _make_dummy(route, network.parent, alias)
    else:
        _make_vlan(route, network.parent, alias)
    link = route.link(network.parent)
    if link is None:
        raise NotFound(f"interface {network.parent} vanished as it was made")
    return link


def _make_dummy(route: RouteSocket, name: str, alias: str) -> None:
    try:
        route.perform([create_dummy(name), set_alias(name, alias)])
    except NetlinkError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        # A kernel without dummy devices: what an intermediate functional block gets to send, it drops as well.
        route.perform([create_sink(name), set_alias(name, alias)])


def _make_vlan(route: RouteSocket, name: str, alias: str) -> None:
    master, vlan_id = sub_interface(name)
    under = route.link(master)
    if under is None:
        raise NotFound(f"-o parent interface was not found on the host: {master}")
    if not 1 <= vlan_id <= 4094:
        raise Invalid(f"vlan id must be between 1-4094, received: {vlan_id}")
    try:
        route.perform([create_vlan(name, under.index, vlan_id), set_alias(name, alias)])
    except NetlinkError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        raise Unsupported(
            f"failed to create {name} vlan link: operation not supported",
            hint="The host's kernel has no 802.1q (CONFIG_VLAN_8021Q), so it can not make sub-interfaces.",
        ) from error
    link = route.link(name)
    if link is not None and not link.flags & 1:
        route.perform([set_link(link.index, up=True)])  # where its master was down as it was made


def mend_parent(route: RouteSocket, network: NetworkSpec, alias: str) -> tuple[str, ...]:
    """Make one of ours again that somebody has removed, for containers to come; what stood on it went with it.

    Returns what was done, in words. A parent that is another's is his to bring back.
    """
    own = network.parent == dummy_parent(network.id) or "." in network.parent
    if not own or route.link(network.parent) is not None:
        return ()
    try:
        ensure_parent(route, network, alias)
    except SampanError as error:
        _log.debug("%s can not be made: %s", network.parent, error.message)
        return ()
    return (f"{network.parent} was gone, and is back",)


def remove_parent(route: RouteSocket, network: NetworkSpec, alias: str) -> None:
    """Delete the parent when it is one of ours. Idempotent. The caller knows that no other network stands on it."""
    link = route.link(network.parent) if network.parent else None
    if link is not None and link.alias == alias and link.kind in _OURS:
        route.delete(link.name)


def remove_stray_parents(route: RouteSocket, alias: str, networks: Sequence[NetworkSpec]) -> None:
    """Delete parents of ours that none of these networks stands on."""
    wanted = {network.parent for network in networks}
    for link in route.links():
        if link.alias == alias and link.kind in _OURS and link.name not in wanted:
            _log.info("removing %s, which no network of ours has any more", link.name)
            route.delete(link.name)


def delete_interface(namespace: int, name: str, kind: str) -> None:
    """Remove this link of this kind from a namespace. Idempotent."""

    def work() -> None:
        with RouteSocket() as route:
            link = route.link(name)
            if link is not None and link.kind == kind:
                route.delete(name)

    in_namespace(namespace, work)
