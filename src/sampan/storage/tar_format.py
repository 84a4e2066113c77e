"""The fixed parts of the tar formats: header block, numbers, types, limits.

POSIX pax(1), "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

import msgspec

from sampan.errors import Invalid

BLOCK: Final = 512
ZERO_BLOCK: Final = bytes(BLOCK)

# name mode uid gid size mtime chksum type linkname magic version uname gname major minor prefix pad
HEADER: Final = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")

REGULAR: Final = b"0"
REGULAR_OLD: Final = b"\0"
HARD_LINK: Final = b"1"
SYMLINK: Final = b"2"
CHAR_DEVICE: Final = b"3"
BLOCK_DEVICE: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"
CONTIGUOUS: Final = b"7"
PAX_HEADER: Final = b"x"
PAX_GLOBAL: Final = b"g"
PAX_SOLARIS: Final = b"X"
GNU_LONG_NAME: Final = b"L"
GNU_LONG_LINK: Final = b"K"
GNU_SPARSE: Final = b"S"
GNU_VOLUME: Final = b"V"

# Types whose size field says nothing about data that follows.
WITHOUT_DATA: Final = frozenset({HARD_LINK, SYMLINK, CHAR_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO})

MAGIC_USTAR: Final = b"ustar\0"


class TarLimits(msgspec.Struct, frozen=True):
    """What is accepted from an archive that anybody may have made."""

    members: int = 4_000_000
    name: int = 16384  # bytes of a path or a link target
    extended: int = 1 << 20  # bytes of one pax header
    xattrs: int = 256  # per member
    xattr_bytes: int = 256 << 10  # names and values, per member
    file_size: int = 1 << 44  # bytes of one file, holes included
    sparse_entries: int = 1 << 18  # per member


class Member(msgspec.Struct, frozen=True, gc=False):
    """One entry of an archive. Names are the bytes that are in it.

    `size` is the file's size; `stored` the bytes in the archive, fewer when `sparse` (offset, length)
    says which parts of the file they are. `type` is one of the types above, `REGULAR` for every kind of file.
    """

    name: bytes
    type: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int  # seconds, rounded down
    mtime_nsec: int
    major: int
    minor: int
    uname: bytes
    gname: bytes
    stored: int
    sparse: tuple[tuple[int, int], ...] | None
    xattrs: dict[bytes, bytes] | None
    offset: int  # of its header in the archive


def bad_tar(offset: int, what: str) -> Invalid:
    return Invalid(f"invalid tar stream at byte {offset}: {what}")


def text(field: bytes) -> bytes:
    """A field's text: up to its first NUL."""
    end = field.find(0)
    return field if end < 0 else field[:end]


def number(field: bytes) -> int:
    """A numeric field: octal digits, or GNU's base-256. Raises `ValueError`."""
    if field[0] & 0x80:
        return _base256(field)
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if not digits.isdigit():
        end = digits.find(0)  # some writers leave rubbish behind the terminating NUL
        digits = digits[:end].strip(b" ") if end >= 0 else digits
        if not digits.isdigit():
            raise ValueError("not an octal number")
    return int(digits, 8)


def _base256(field: bytes) -> int:
    """Big-endian two's complement; the topmost bit only marks the form, so the next one is the sign."""
    value = int.from_bytes(field, "big") & ((1 << (len(field) * 8 - 1)) - 1)
    if field[0] & 0x40:
        value -= 1 << (len(field) * 8 - 1)
    return value


def checksum_matches(block: bytes, field: bytes) -> bool:
    """The header's checksum: the sum of its bytes, the checksum field itself counted as spaces."""
    try:
        stored = number(field)
    except ValueError:
        return False
    # Adler-32's low half is 1 + the bytes' sum modulo 65521: a sum in C.
    rest = stored - 256 + sum(field)
    if ((zlib.adler32(block) & 0xFFFF) - 1 - rest) % 65521 == 0 and 0 <= stored < 140_000:
        return True
    # Some old writers summed signed bytes.
    signed = sum(struct.unpack("148b", block[:148])) + 256 + sum(struct.unpack("356b", block[156:]))
    return bool(signed == stored)
