"""Hearing of changes to the nf_tables ruleset (NFNLGRP_NFTABLES of include/uapi/linux/netfilter/nfnetlink.h).

Every transaction ends with a NEWGEN message that carries the port id of the socket that made it. A filter in the
kernel keeps only those, and not the ones of a given socket, so that a program is not woken by what it does itself.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from sampan.linux.netlink import NETLINK_NETFILTER

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NFNLGRP_NFTABLES = 7
_NEWGEN = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN
_TYPE_OFFSET, _PORT_OFFSET = 4, 12  # in struct nlmsghdr
_RECEIVE = 1 << 12

_SO_ATTACH_FILTER = 26
_LOAD_HALF, _LOAD_WORD, _JUMP_EQUAL, _RETURN = (
    0x28,
    0x20,
    0x15,
    0x06,
)  # BPF_LD|BPF_ABS, BPF_JMP|BPF_JEQ, BPF_RET
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, value
_WHOLE = 0xFFFFFFFF


def _filter(ignored_port: int) -> bytes:
    """Pure: accept NEWGEN messages of other ports. The loads take the header's fields as if in network order."""
    (kind,) = struct.unpack("!H", struct.pack("=H", _NEWGEN))
    (port,) = struct.unpack("!I", struct.pack("=I", ignored_port))
    instructions = (
        (_LOAD_HALF, 0, 0, _TYPE_OFFSET),
        (_JUMP_EQUAL, 0, 3, kind),
        (_LOAD_WORD, 0, 0, _PORT_OFFSET),
        (_JUMP_EQUAL, 1, 0, port),
        (_RETURN, 0, 0, _WHOLE),
        (_RETURN, 0, 0, 0),
    )
    return b"".join(_INSTRUCTION.pack(*one) for one in instructions)


class RulesetEvents:
    """A socket that becomes readable when somebody else changes the ruleset of the calling thread's namespace."""

    def __init__(self, ignored_port: int) -> None:
        """`ignored_port`: the netlink port id of the socket whose transactions are not told. Raises OSError."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))  # without a port id of its own it would hear nothing
            self._attach(_filter(ignored_port))
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
        except BaseException:
            self._socket.close()
            raise

    def _attach(self, code: bytes) -> None:
        """struct sock_fprog refers to the instructions by their address."""
        buffer = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("@HP", len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take all that has come, without waiting; was there anything? What the kernel had to drop counts too."""
        changed = False
        while True:
            try:
                self._socket.recv(_RECEIVE)
            except BlockingIOError:
                return changed
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise
            changed = True

    def close(self) -> None:
        self._socket.close()
