"""Header blocks for the tar writer: POSIX ustar where it holds the values, a pax header before it where it doesn't."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sampan.storage import tar_format as tf
from sampan.storage.tar_pax import XATTR, record

_HEADER: Final = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_OCTAL_7: Final = 0o7777777
_OCTAL_11: Final = 0o77777777777
_NO_RECORDS: Final[Mapping[bytes, bytes]] = MappingProxyType({})


def pack_header(
    name: bytes,
    kind: bytes,
    *,
    mode: int,
    uid: int,
    gid: int,
    mtime: int,
    size: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    xattrs: dict[bytes, bytes] | None = None,
    nanoseconds: int = 0,
    more: Mapping[bytes, bytes] = _NO_RECORDS,
) -> bytes:
    """All the blocks that stand before a member's content.

    `mtime` is whole seconds, `nanoseconds` what comes on top of them. `more`: further pax records.
    """
    records = [record(key, value) for key, value in more.items()]
    head, tail = _split(name)
    if head is None:
        records.append(record(b"path", name))
        head, tail = b"", name[:100]
    if len(link) > 100:
        records.append(record(b"linkpath", link))
    for key, value, limit in (
        (b"uid", uid, _OCTAL_7),
        (b"gid", gid, _OCTAL_7),
        (b"size", size, _OCTAL_11),
        (b"mtime", mtime, _OCTAL_11),
    ):
        if key == b"mtime" and nanoseconds:
            records.append(record(key, _fraction(value * 1_000_000_000 + nanoseconds)))
        elif not 0 <= value <= limit:
            records.append(record(key, b"%d" % value))
    for key in sorted(xattrs or ()):
        records.append(record(XATTR + key, (xattrs or {})[key]))
    block = _block(tail, kind, mode, uid, gid, size, mtime, link[:100], device, head)
    if not records:
        return block
    body = b"".join(sorted(records))
    label = b"PaxHeaders.0/" + name.rstrip(b"/").rpartition(b"/")[2][:80]
    before = _block(label, tf.PAX_HEADER, 0o644, 0, 0, len(body), 0, b"", (0, 0), b"")
    return before + body + bytes(-len(body) % tf.BLOCK) + block


def _fraction(time: int) -> bytes:
    """Nanoseconds as pax has times: decimal seconds."""
    seconds, nanoseconds = divmod(abs(time), 1_000_000_000)
    return b"%s%d.%09d" % (b"-" if time < 0 else b"", seconds, nanoseconds)


def _split(name: bytes) -> tuple[bytes | None, bytes]:
    """(prefix, name) of ustar; the prefix is None when the name doesn't fit."""
    if len(name) <= 100:
        return b"", name
    at = name.rfind(b"/", 0, 156)
    # The slash itself is in neither part; a directory's last slash must stay in the name.
    if at > 0 and 0 < len(name) - at - 1 <= 100:
        return name[:at], name[at + 1 :]
    return None, b""


def _byte_sum(block: bytes) -> int:
    """Of a header's bytes. Adler-32's low half is 1 + the sum modulo 65521, which 256 bytes do not reach."""
    return (zlib.adler32(block[:256]) & 0xFFFF) + (zlib.adler32(block[256:]) & 0xFFFF) - 2


def _block(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    link: bytes,
    device: tuple[int, int],
    prefix: bytes,
) -> bytes:
    block = _HEADER.pack(
        name,
        b"%07o\0" % mode,
        b"%07o\0" % (uid if uid <= _OCTAL_7 else 0),
        b"%07o\0" % (gid if gid <= _OCTAL_7 else 0),
        b"%011o\0" % (size if size <= _OCTAL_11 else 0),
        b"%011o\0" % (mtime if 0 <= mtime <= _OCTAL_11 else 0),
        b"        ",
        kind,
        link,
        tf.MAGIC_USTAR,
        b"00",
        b"",
        b"",
        b"%07o\0" % device[0],
        b"%07o\0" % device[1],
        prefix,
    )
    return block[:148] + b"%06o\0 " % _byte_sum(block) + block[156:]
