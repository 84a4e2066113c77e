"""Hearing of changes to the nf_tables ruleset (NFNLGRP_NFTABLES of include/uapi/linux/netfilter/nfnetlink.h).

Every transaction ends with a NEWGEN message that carries the port id of the socket that made it. A filter in the
kernel keeps only those, and not the ones of a given socket, so that a program is not woken by what it does itself.
"""

from __future__ import annotations

from sampan.linux import netlink_events as bpf
from sampan.linux.netlink import NETLINK_NETFILTER

_NFNLGRP_NFTABLES = 7
_NEWGEN = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN


def _filter(ignored_port: int) -> tuple[bpf.Instruction, ...]:
    """Pure: accept NEWGEN messages of other ports."""
    return (
        (bpf.LOAD_HALF, 0, 0, bpf.TYPE_OFFSET),
        (bpf.JUMP_EQUAL, 0, 3, bpf.loaded_half(_NEWGEN)),
        (bpf.LOAD_WORD, 0, 0, bpf.PORT_OFFSET),
        (bpf.JUMP_EQUAL, 1, 0, bpf.loaded_word(ignored_port)),
        (bpf.RETURN, 0, 0, bpf.WHOLE),
        (bpf.RETURN, 0, 0, 0),
    )


class RulesetEvents(bpf.NetlinkEvents):
    """A socket that becomes readable when somebody else changes the ruleset of the calling thread's namespace."""

    def __init__(self, ignored_port: int) -> None:
        """`ignored_port`: the netlink port id of the socket whose transactions are not told. Raises OSError."""
        super().__init__(NETLINK_NETFILTER, (_NFNLGRP_NFTABLES,), _filter(ignored_port))
