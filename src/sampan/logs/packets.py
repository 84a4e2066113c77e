"""What travels between a shim and its log writer, on a SOCK_SEQPACKET socket.

To the writer: packets of output, each a header and whole lines (or one piece of a line). Back: reports.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from sampan.logs.entry import LogEntry
from sampan.runtime.failure import Failure

HEADER: Final = struct.Struct("<BBQ")
"""Stream, 1 when more of the line follows, Unix time in nanoseconds."""

MAX_DATA: Final = 32 * 1024
"""Bytes of output in a packet."""

MAX_PACKET: Final = HEADER.size + MAX_DATA


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The writer is ready. `error`: the server is not there yet, and what it said."""

    error: str = ""


class Delivered(msgspec.Struct, frozen=True, tag=True):
    """`packets`: how many, since the writer began, need not be kept any more.

    `lost_lines`, `lost_bytes`: what of all of it the driver has given up for good.
    """

    packets: int
    lost_lines: int = 0
    lost_bytes: int = 0


class Trouble(msgspec.Struct, frozen=True, tag=True):
    """Nothing is delivered at the moment."""

    error: str


Report = Opened | Delivered | Trouble | Failure


def pack(stream: int, data: bytes, time_ns: int, *, partial: bool) -> bytes:
    return HEADER.pack(stream, partial, time_ns) + data


def unpack(packet: bytes) -> tuple[int, bytes, int, bool]:
    """Stream, data, time, whether more of the line follows."""
    stream, partial, time_ns = HEADER.unpack_from(packet)
    return stream, packet[HEADER.size :], time_ns, bool(partial)


def entries(packet: bytes) -> Iterator[LogEntry]:
    """The lines of a packet."""
    stream, data, time_ns, partial = unpack(packet)
    lines = data.split(b"\n")
    last = lines.pop()
    for line in lines:
        yield LogEntry(stream, line, time_ns)
    if last:
        yield LogEntry(stream, last, time_ns, partial)


def cut(data: bytes) -> Iterator[bytes]:
    """Parts of at most `MAX_DATA` bytes, cut after a newline; no line in `data` is as long as that."""
    at = 0
    while len(data) - at > MAX_DATA:
        end = data.rfind(b"\n", at, at + MAX_DATA) + 1
        yield data[at:end]
        at = end
    yield data[at:] if at else data


def count_lines(data: bytes) -> int:
    return data.count(b"\n") + (not data.endswith(b"\n"))
