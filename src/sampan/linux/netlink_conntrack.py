"""The connection tracking table (ctnetlink): forgetting flows whose translation has changed.

Formats: include/uapi/linux/netfilter/nfnetlink_conntrack.h. A UDP flow keeps the translation (or the lack
of one) that it had at its first packet for as long as packets come.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection

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
_TUPLE_ORIG, _ID = 1, 12
_TUPLE_PROTO, _PROTO_NUM, _PROTO_DST_PORT = 2, 1, 3


def forget_flows(protocol: int, ports: Collection[int], family: int = socket.AF_INET) -> int:
    """Delete this family's flows to these destination ports; returns how many. Of the calling thread's namespace."""
    head = struct.pack("!BBH", family, 0, 0)
    deleted = 0
    with NetlinkSocket(NETLINK_NETFILTER) as conntrack:
        for reply in conntrack.dump(Message(_SUBSYSTEM << 8 | _GET, head, 0, "list tracked connections")):
            attributes = parse_attributes(reply.payload[4:])
            original = attributes.get(_TUPLE_ORIG, b"")
            if not _matches(original, protocol, ports):
                continue
            body = head + nested(_TUPLE_ORIG, original)
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


def _matches(original: bytes, protocol: int, ports: Collection[int]) -> bool:
    parts = parse_attributes(parse_attributes(original).get(_TUPLE_PROTO, b""))
    port = parts.get(_PROTO_DST_PORT)
    if parts.get(_PROTO_NUM) != bytes([protocol]) or port is None:
        return False
    return struct.unpack("!H", port)[0] in ports
