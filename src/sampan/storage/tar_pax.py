"""Pax extended headers: reading and writing their records (POSIX pax(1), "pax Extended Header")."""

from __future__ import annotations

from typing import Final

from sampan.storage.tar_format import TarLimits, bad_tar

XATTR: Final = b"SCHILY.xattr."
# Old sparse format 0.0 repeats these keys, once for each piece: their order is the information.
_PIECE_OFFSET: Final = b"GNU.sparse.offset"
_PIECE_LENGTH: Final = b"GNU.sparse.numbytes"
SPARSE_MAP: Final = b"GNU.sparse.map"

Records = dict[bytes, bytes]


def parse_records(data: bytes, offset: int, into: Records) -> None:
    """Add the records in `data` to `into`; an empty value takes a key away. `offset` is for messages.

    Raises `Invalid`.
    """
    pos, end = 0, len(data)
    pieces: list[bytes] = []
    while pos < end:
        space = data.find(b" ", pos, pos + 12)
        digits = data[pos:space]
        if space < 0 or not digits.isdigit():
            raise bad_tar(offset, "a pax record without a length")
        stop = pos + int(digits)
        if stop > end or stop <= space + 1 or data[stop - 1] != 0x0A:
            raise bad_tar(offset, "a pax record of a wrong length")
        key, equals, value = data[space + 1 : stop - 1].partition(b"=")
        if not equals or not key:
            raise bad_tar(offset, "a pax record without a key")
        pos = stop
        if key in (_PIECE_OFFSET, _PIECE_LENGTH):
            pieces.append(value)
        elif value or key.startswith(XATTR):
            into[key] = value
        else:
            into.pop(key, None)
    if pieces:
        into[SPARSE_MAP] = b",".join(pieces)


def integer(records: Records, key: bytes, offset: int) -> int:
    """A record's value as a number not below zero. Raises `Invalid`, also when there is no such record."""
    value = records.get(key, b"")
    if not value.isdigit() or len(value) > 20:
        raise bad_tar(offset, f"pax record {key.decode()} is not a number")
    return int(value)


def timestamp(value: bytes, offset: int) -> tuple[int, int]:
    """`seconds[.fraction]` as (whole seconds rounded down, nanoseconds). Raises `Invalid`."""
    negative = value.startswith(b"-")
    whole, _, fraction = value.lstrip(b"-").partition(b".")
    fraction = fraction[:9].ljust(9, b"0")
    if not whole.isdigit() or len(whole) > 18 or not fraction.isdigit():
        raise bad_tar(offset, "a pax time that is not a number")
    seconds, nanoseconds = int(whole), int(fraction)
    if not negative:
        return seconds, nanoseconds
    return (-seconds - 1, 1_000_000_000 - nanoseconds) if nanoseconds else (-seconds, 0)


def xattrs_of(records: Records, limits: TarLimits, offset: int) -> dict[bytes, bytes] | None:
    """The extended attributes among the records. Raises `Invalid` beyond the limits."""
    found: dict[bytes, bytes] | None = None
    total = 0
    for key, value in records.items():
        if not key.startswith(XATTR):
            continue
        name = key[len(XATTR) :]
        total += len(name) + len(value)
        if not name or b"\0" in name or len(name) > 255:
            raise bad_tar(offset, "a malformed extended attribute name")
        if found is None:
            found = {}
        found[name] = value
        if len(found) > limits.xattrs or total > limits.xattr_bytes:
            raise bad_tar(offset, "too many or too large extended attributes")
    return found


def record(key: bytes, value: bytes) -> bytes:
    """One record; its length counts its own digits."""
    body = len(key) + len(value) + 3
    length = body + len(str(body))
    if len(str(length)) != len(str(body)):
        length = body + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)
