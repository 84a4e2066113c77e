"""The legacy iptables and ip6tables, read only: whether their INPUT or FORWARD chain lets everything pass.

Formats: include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h. Python's `getsockopt` can't
hand data to the kernel, so the call is made through ctypes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass

from sampan.errors import Internal

_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES; IP6T_ the same
_LOCAL_IN, _FORWARD = 1, 2
_NAME_BYTES = 32
_INFO = struct.Struct("=32sI5I5III")  # name, valid hooks, hook entries, underflows, number of entries, size
_ENTRIES_HEADER = 40  # struct ipt_get_entries: name, size, padding to 8 bytes
_NF_ACCEPT_VERDICT = -2  # -NF_ACCEPT - 1, in a standard target
_MAX_SIZE = 64 << 20
_ATTEMPTS = 20  # while other programs replace the table


@dataclass(frozen=True, slots=True)
class _Format:
    """`entry_bytes`: struct ipt_entry, or ip6t_entry, up to its matches; `target`: where its target_offset is."""

    family: int
    level: int
    names: str
    entry_bytes: int
    target: int


_FORMATS = {
    4: _Format(socket.AF_INET, socket.IPPROTO_IP, "ip_tables_names", 112, 88),
    6: _Format(socket.AF_INET6, socket.IPPROTO_IPV6, "ip6_tables_names", 168, 140),
}

_libc = ctypes.CDLL(None, use_errno=True)


def in_use(version: int = 4) -> bool:
    """Is there a legacy `filter` table of this version of IP (4 or 6) in the calling thread's namespace?"""
    names = f"/proc/thread-self/net/{_FORMATS[version].names}"
    try:
        with open(names, encoding="ascii", errors="replace") as file:
            return "filter" in file.read().split()
    except FileNotFoundError:
        return False


def input_can_drop(version: int = 4) -> bool:
    """False when there is no legacy `filter` table, or its INPUT chain is empty and its policy is ACCEPT.

    Any rule in INPUT counts as one that can drop: what the many extensions do is not looked at.
    """
    return _can_drop(_LOCAL_IN, version)


def forward_can_drop(version: int = 4) -> bool:
    """As `input_can_drop`, for the FORWARD chain."""
    return _can_drop(_FORWARD, version)


def _can_drop(hook: int, version: int) -> bool:
    if not in_use(version):
        return False
    shape = _FORMATS[version]
    entries, start, policy = _read_filter_table(shape, hook)
    return start != policy or _standard_verdict(shape, entries, policy) != _NF_ACCEPT_VERDICT


def _read_filter_table(shape: _Format, hook: int) -> tuple[bytes, int, int]:
    """(entries, offset of the chain's first entry, offset of the entry that is its policy).

    A table that was replaced between the two questions, so that its size is another, is asked for again.
    """
    name = b"filter".ljust(_NAME_BYTES, b"\0")
    with socket.socket(shape.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for _ in range(_ATTEMPTS):
            info = _get(raw, shape, _GET_INFO, name + bytes(_INFO.size - _NAME_BYTES))
            fields = _INFO.unpack(info)
            start, policy, size = fields[2 + hook], fields[7 + hook], fields[13]
            if not 0 < size <= _MAX_SIZE or policy + shape.entry_bytes > size:
                raise Internal(f"the legacy iptables filter table says its size is {size} bytes")
            request = name + struct.pack("=II", size, 0) + bytes(size)
            try:
                answer = _get(raw, shape, _GET_ENTRIES, request)
            except BlockingIOError:
                continue
            return answer[_ENTRIES_HEADER:], start, policy
    raise Internal("read the legacy iptables filter table: it changes all the time")


def _standard_verdict(shape: _Format, entries: bytes, offset: int) -> int:
    (target,) = struct.unpack_from("=H", entries, offset + shape.target)
    (verdict,) = struct.unpack_from("=i", entries, offset + target + 32)  # after struct xt_entry_target
    return int(verdict)


def _get(raw: socket.socket, shape: _Format, option: int, request: bytes) -> bytes:
    """Raises `BlockingIOError` when the table's size is not what the request says (any more)."""
    buffer = ctypes.create_string_buffer(request, len(request))
    length = ctypes.c_uint32(len(request))
    result = _libc.getsockopt(raw.fileno(), shape.level, option, buffer, ctypes.byref(length))
    if result != 0:
        number = ctypes.get_errno()
        if number == errno.EAGAIN:
            raise BlockingIOError(number, os.strerror(number))
        raise Internal(f"read the legacy iptables filter table: {os.strerror(number)}")
    return buffer.raw[: length.value]
