"""The connection tracking table (ctnetlink): forgetting flows that would not be made the same way again.

Formats: include/uapi/linux/netfilter/nfnetlink_conntrack.h. A UDP flow keeps the translation (or the lack
of one) that it had at its first packet for as long as packets come.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from sampan.linux.netlink import (
    NETLINK_NETFILTER,
    Message,
    NetlinkError,
    NetlinkSocket,
    attribute,
    nested,
    parse_attributes,
)

_SUBSYSTEM = 1  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE = 1, 2
_TUPLE_ORIG, _STATUS, _ID = 1, 3, 12
_TUPLE_IP, _TUPLE_PROTO, _PROTO_NUM, _PROTO_DST_PORT = 1, 2, 1, 3
_SOURCES, _DESTINATIONS = (1, 3), (2, 4)  # of CTA_TUPLE_IP: of IPv4, of IPv6
_DST_NAT = 1 << 5  # IPS_DST_NAT


@dataclass(frozen=True, slots=True)
class Flow:
    """A tracked connection as its first packet had it. `translated`: its destination was changed on the way."""

    protocol: int
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    port: int
    translated: bool


def forget_flows(
    protocol: int, ports: Collection[int], places: Collection[tuple[IPv4Address | IPv6Address, int]] = ()
) -> int:
    """Delete the flows to these destination ports, and to these addresses and ports; returns how many.

    Of the calling thread's namespace.
    """
    return forget(
        lambda flow: (
            flow.protocol == protocol and (flow.port in ports or (flow.destination, flow.port) in places)
        )
    )


def forget_direct(subnets: Collection[IPv4Network | IPv6Network]) -> int:
    """Delete the flows that came from elsewhere straight to an address in one of these subnets; returns how many."""

    def came_in(flow: Flow) -> bool:
        home = next((one for one in subnets if flow.destination in one), None)
        return home is not None and not flow.translated and flow.source not in home

    return forget(came_in)


def forget(wanted: Callable[[Flow], bool]) -> int:
    """Delete these flows of IPv4 and IPv6; returns how many. Of the calling thread's namespace."""
    deleted = 0
    head = struct.pack("!BBH", socket.AF_UNSPEC, 0, 0)
    with NetlinkSocket(NETLINK_NETFILTER) as conntrack:
        for reply in conntrack.dump(Message(_SUBSYSTEM << 8 | _GET, head, 0, "list tracked connections")):
            attributes = parse_attributes(reply.payload[4:])
            flow = _decode(attributes)
            if flow is None or not wanted(flow):
                continue
            body = reply.payload[:4] + nested(_TUPLE_ORIG, attributes[_TUPLE_ORIG])
            if _ID in attributes:
                body += attribute(_ID, attributes[_ID])
            try:
                conntrack.request(
                    [Message(_SUBSYSTEM << 8 | _DELETE, body, 0, "delete a tracked connection")]
                )
            except NetlinkError as exc:
                if exc.errno != errno.ENOENT:  # it has timed out meanwhile
                    raise
            deleted += 1
    return deleted


def _decode(attributes: dict[int, bytes]) -> Flow | None:
    original = parse_attributes(attributes.get(_TUPLE_ORIG, b""))
    addresses = parse_attributes(original.get(_TUPLE_IP, b""))
    parts = parse_attributes(original.get(_TUPLE_PROTO, b""))
    source = next((addresses[kind] for kind in _SOURCES if kind in addresses), None)
    destination = next((addresses[kind] for kind in _DESTINATIONS if kind in addresses), None)
    if source is None or destination is None or _PROTO_NUM not in parts:
        return None
    (port,) = struct.unpack("!H", parts.get(_PROTO_DST_PORT, bytes(2)))
    (status,) = struct.unpack("!I", attributes.get(_STATUS, bytes(4)))
    return Flow(
        parts[_PROTO_NUM][0], ip_address(source), ip_address(destination), port, bool(status & _DST_NAT)
    )
