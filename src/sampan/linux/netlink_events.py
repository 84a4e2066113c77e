"""Hearing of what others do to the kernel's network: a socket that a classic BPF filter lets only some messages into.

The loads of a filter take fields as if they were in network order; netlink has them in the host's.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Sequence

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_RECEIVE = 1 << 12

_SO_ATTACH_FILTER = 26
# BPF_LD|BPF_ABS, BPF_JMP|BPF_JEQ, BPF_RET
LOAD_BYTE, LOAD_HALF, LOAD_WORD, JUMP_EQUAL, RETURN = 0x30, 0x28, 0x20, 0x15, 0x06
WHOLE = 0xFFFFFFFF
TYPE_OFFSET, PORT_OFFSET, PAYLOAD_OFFSET = 4, 12, 16  # in struct nlmsghdr
_INSTRUCTION = struct.Struct("=HBBI")

Instruction = tuple[int, int, int, int]
"""struct sock_filter: code, jump if true, jump if false, value."""


def loaded_half(value: int) -> int:
    """A 16-bit field of the host's order as `LOAD_HALF` sees it."""
    return int(struct.unpack("!H", struct.pack("=H", value))[0])


def loaded_word(value: int) -> int:
    """A 32-bit field of the host's order as `LOAD_WORD` sees it."""
    return int(struct.unpack("!I", struct.pack("=I", value))[0])


class NetlinkEvents:
    """A socket of the calling thread's namespace that becomes readable when something of these groups has passed."""

    def __init__(self, protocol: int, groups: Sequence[int], instructions: Sequence[Instruction]) -> None:
        """Raises OSError."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        try:
            self._socket.bind((0, 0))  # without a port id of its own it would hear nothing
            self._attach(b"".join(_INSTRUCTION.pack(*one) for one in instructions))
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
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
