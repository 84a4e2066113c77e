"""Hearing of network devices and addresses that vanish (RTNLGRP_LINK and RTNLGRP_IPV4_IFADDR of rtnetlink(7), and
RTNLGRP_IPV6_IFADDR), of IPv4 routes to devices' own subnets that do (RTNLGRP_IPV4_ROUTE), and of changes to what holds
for all devices: forwarding (RTNLGRP_IPV4_NETCONF and _IPV6_NETCONF).

Container engines make and remove veth pairs all the time: a filter in the kernel keeps those away, so that a program
is woken only by what is rare. It looks at the first attribute of RTM_DELLINK, which is always the name, and
at the scope of addresses: every veth has a link-local one. Of RTM_NEWNETCONF the first attribute is the device's index,
and what is for all has -1 there (NETCONFA_IFINDEX_ALL of linux/netconf.h).
"""

from __future__ import annotations

from sampan.linux import netlink_events as bpf
from sampan.linux.netlink import NETLINK_ROUTE
from sampan.linux.netlink_route import RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE

# RTNLGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV4_NETCONF, _IPV6_NETCONF; every veth has IPv6 routes
_GROUPS = (1, 5, 7, 9, 24, 25)
_RTM_NEWNETCONF = 80
_NAME_OFFSET = bpf.PAYLOAD_OFFSET + 16 + 4  # after struct ifinfomsg and the attribute's own header
_SCOPE_OFFSET = bpf.PAYLOAD_OFFSET + 3  # in struct ifaddrmsg
_INDEX_OFFSET = bpf.PAYLOAD_OFFSET + 4 + 4  # after struct netconfmsg, padded, and the attribute's own header
_ROUTE_OFFSET = bpf.PAYLOAD_OFFSET + 4  # in struct rtmsg: table, protocol, scope and type, a byte each
_SUBNET_ROUTE = 0xFE02FD01  # RT_TABLE_MAIN, RTPROT_KERNEL, RT_SCOPE_LINK, RTN_UNICAST
_ALL_DEVICES = 0xFFFFFFFF
_EVERYWHERE = 0  # RT_SCOPE_UNIVERSE
_PAIRS = int.from_bytes(b"veth", "big")  # how their names begin


def _filter() -> tuple[bpf.Instruction, ...]:
    """Pure: accept RTM_DELADDR of addresses that count beyond their link, RTM_DELLINK of anything but veth,
    RTM_DELROUTE of the kernel's own to an IPv4 subnet, and RTM_NEWNETCONF of all devices."""
    return (
        (bpf.LOAD_HALF, 0, 0, bpf.TYPE_OFFSET),
        (bpf.JUMP_EQUAL, 7, 0, bpf.loaded_half(_RTM_NEWNETCONF)),
        (bpf.JUMP_EQUAL, 4, 0, bpf.loaded_half(RTM_DELADDR)),
        (bpf.JUMP_EQUAL, 7, 0, bpf.loaded_half(RTM_DELROUTE)),
        (bpf.JUMP_EQUAL, 0, 9, bpf.loaded_half(RTM_DELLINK)),
        (bpf.LOAD_WORD, 0, 0, _NAME_OFFSET),
        (bpf.JUMP_EQUAL, 7, 6, _PAIRS),
        (bpf.LOAD_BYTE, 0, 0, _SCOPE_OFFSET),
        (bpf.JUMP_EQUAL, 4, 5, _EVERYWHERE),
        (bpf.LOAD_WORD, 0, 0, _INDEX_OFFSET),
        (bpf.JUMP_EQUAL, 2, 3, _ALL_DEVICES),
        (bpf.LOAD_WORD, 0, 0, _ROUTE_OFFSET),
        (bpf.JUMP_EQUAL, 0, 1, _SUBNET_ROUTE),
        (bpf.RETURN, 0, 0, bpf.WHOLE),
        (bpf.RETURN, 0, 0, 0),
    )


class LinkEvents(bpf.NetlinkEvents):
    """A socket that becomes readable when a device (but a veth) or an address of this namespace has vanished, or
    forwarding was changed."""

    def __init__(self) -> None:
        """Of the calling thread's namespace. Raises OSError."""
        super().__init__(NETLINK_ROUTE, _GROUPS, _filter())
