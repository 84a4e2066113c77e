"""Sparse files in archives: GNU's old header form and the pax forms 0.0, 0.1 and 1.0.

GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sampan.storage.tar_format import BLOCK, TarLimits, bad_tar, number
from sampan.storage.tar_pax import SPARSE_MAP, Records, integer

SparseMap = tuple[tuple[int, int], ...]

_ENTRY: Final = 24
_IN_HEADER: Final = (386, 4, 482)  # first entry, entries, "more follow" flag
_IN_EXTENSION: Final = (0, 21, 504)


def old_gnu(block: bytes, take: Callable[[], bytes], limits: TarLimits, offset: int) -> tuple[SparseMap, int]:
    """The map and the real size of a type `S` member; `take` gives the extension blocks. Raises `Invalid`."""
    try:
        size = number(block[483:495])
        entries: list[tuple[int, int]] = []
        form, source = _IN_HEADER, block
        while True:
            first, count, more = form
            for at in range(first, first + count * _ENTRY, _ENTRY):
                if source[at] == 0:
                    break
                entries.append((number(source[at : at + 12]), number(source[at + 12 : at + 24])))
            if len(entries) > limits.sparse_entries:
                raise bad_tar(offset, "too many pieces in a sparse file")
            if not source[more]:
                return tuple(entries), size
            form, source = _IN_EXTENSION, take()
    except ValueError:
        raise bad_tar(offset, "a malformed sparse map") from None


def from_records(records: Records, limits: TarLimits, offset: int) -> tuple[SparseMap | None, int, bytes]:
    """(map, real size, real name or b"") of a pax sparse member; the map is None when it is in the data (1.0)."""
    name = records.get(b"GNU.sparse.name", b"")
    if b"GNU.sparse.major" in records:
        major, minor = (
            integer(records, b"GNU.sparse.major", offset),
            integer(records, b"GNU.sparse.minor", offset),
        )
        if (major, minor) != (1, 0):
            raise bad_tar(offset, f"unknown sparse format {major}.{minor}")
        return None, integer(records, b"GNU.sparse.realsize", offset), name
    size = integer(records, b"GNU.sparse.size", offset)
    values = records[SPARSE_MAP].split(b",") if SPARSE_MAP in records else []
    if len(values) % 2 or len(values) // 2 > limits.sparse_entries:
        raise bad_tar(offset, "a malformed sparse map")
    return _pairs(values, offset), size, name


def map_in_data(take: Callable[[], bytes], limits: TarLimits, offset: int) -> tuple[SparseMap, int]:
    """Format 1.0: decimal lines, padded to a block. Returns the map and the bytes that it took."""
    text = take()
    taken = BLOCK
    count_line, newline, _ = text.partition(b"\n")
    if not newline or not count_line.isdigit() or len(count_line) > 10:
        raise bad_tar(offset, "a malformed sparse map")
    count = int(count_line)
    if count > limits.sparse_entries:
        raise bad_tar(offset, "too many pieces in a sparse file")
    blocks = [text]
    lines = text.count(b"\n")
    while lines < 2 * count + 1:
        block = take()
        found = block.count(b"\n")
        if not found:
            raise bad_tar(offset, "a malformed sparse map")
        blocks.append(block)
        taken += BLOCK
        lines += found
    return _pairs(b"".join(blocks).split(b"\n")[1 : 2 * count + 1], offset), taken


def _pairs(values: list[bytes], offset: int) -> SparseMap:
    if not all(value.isdigit() and len(value) <= 20 for value in values):
        raise bad_tar(offset, "a malformed sparse map")
    numbers = [int(value) for value in values]
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def check_map(sparse: SparseMap, size: int, stored: int, offset: int) -> SparseMap:
    """Pieces must ascend, lie inside the file and add up to what is stored. Returns them without empty ones."""
    end = total = 0
    for start, length in sparse:
        if start < end or length < 0:
            raise bad_tar(offset, "a sparse map that is out of order")
        end = start + length
        total += length
    if end > size or total != stored:
        raise bad_tar(offset, "a sparse map that does not fit the file")
    return tuple(piece for piece in sparse if piece[1])


def encode_map(sparse: SparseMap) -> bytes:
    """The map of format 1.0 as it stands before the pieces, padded to a block."""
    numbers = [len(sparse), *(number for piece in sparse for number in piece)]
    text = b"".join(b"%d\n" % number for number in numbers)
    return text + bytes(-len(text) % BLOCK)


def sparse_records(name: bytes, size: int) -> Records:
    """What a pax header says of a member of format 1.0."""
    return {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": name,
        b"GNU.sparse.realsize": b"%d" % size,
    }
