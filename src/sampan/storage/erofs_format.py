"""EROFS on disk: how inodes, directories and attributes are laid out and packed. Pure: data in, bytes out.

Linux Documentation/filesystems/erofs.rst, "On-disk details". Only what every kernel since 5.4 reads is used:
4 KiB blocks, flat inodes without compression, tails and attributes inline.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from sampan.errors import Invalid
from sampan.storage.layer_tree import Node

BLOCK: Final = 4096
SUPER_OFFSET: Final = 1024
_MAGIC: Final = 0xE0F5E1E2
_COMPAT_CHECKSUM: Final = 1
_COMPAT_MTIME: Final = 2
SLOT: Final = 32  # a nid counts slots of this size from the start of the metadata
FIRST_SLOT: Final = 2  # nid 0 would be inode number 0, which readdir(3) takes for a deleted entry

_SUPER: Final = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24x")
_EXTENDED: Final = struct.Struct("<HHHHQIIIIqII16x")
_COMPACT: Final = struct.Struct("<HHHHIIIIHHI")
_DIRENT: Final = struct.Struct("<QHBB")
_XATTR_HEADER: Final = 12

_PLAIN: Final = 0 << 1
_INLINE: Final = 2 << 1
_NO_BLOCK: Final = 0xFFFFFFFF

_FILE_TYPE: Final = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
_XATTR_PREFIXES: Final = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6))
_XATTR_WHOLE: Final = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_XATTRS_MAX: Final = 65535 * 4


def pack_xattrs(xattrs: dict[bytes, bytes]) -> bytes:
    """The attributes that stand behind an inode; those of name spaces that EROFS has not are left out.

    Raises `Invalid` when they are too large.
    """
    entries: list[bytes] = []
    for name in sorted(xattrs):
        value = xattrs[name]
        index, rest = _XATTR_WHOLE.get(name, 0), b""
        for prefix, number in _XATTR_PREFIXES:
            if name.startswith(prefix) and len(name) > len(prefix):
                index, rest = number, name[len(prefix) :]
        if not index:
            continue
        if len(rest) > 255 or len(value) > 65535:
            raise Invalid("an extended attribute is too large")
        entry = struct.pack("<BBH", len(rest), index, len(value)) + rest + value
        entries.append(entry + bytes(-len(entry) % 4))
    if not entries:
        return b""
    body = b"".join(entries)
    if len(body) > _XATTRS_MAX:
        raise Invalid("the extended attributes of a file are too large")
    return bytes(_XATTR_HEADER) + body


def group_entries(names: Iterable[bytes]) -> tuple[list[list[bytes]], int]:
    """A directory's names (`.` and `..` included) split into blocks, and the bytes that the last block uses."""
    groups: list[list[bytes]] = []
    used = BLOCK + 1
    for name in sorted(names):
        need = _DIRENT.size + len(name)
        if used + need > BLOCK:
            group: list[bytes] = []
            groups.append(group)
            used = 0
        group.append(name)
        used += need
    return groups, used


def pack_entries(group: Sequence[bytes], node: Node) -> bytes:
    """One directory block: fixed-size entries, then the names."""
    children = node.children or {}
    pack = _DIRENT.pack
    at = _DIRENT.size * len(group)
    heads: list[bytes] = []
    for name in group:
        child = children.get(name)
        if child is None:
            child = node if name == b"." else node.parent or node
        heads.append(pack(child.nid, at, _FILE_TYPE[child.mode & 0o170000], 0))
        at += len(name)
    return b"".join(heads) + b"".join(group)


class Placed:
    """An inode with its place: `offset` in the metadata area, `tail` bytes inline behind its head."""

    __slots__ = ("compact", "groups", "node", "number", "offset", "size", "tail", "xattrs")

    def __init__(self, node: Node, number: int, *, compact: bool) -> None:
        self.node = node
        self.number = number
        self.compact = compact
        self.xattrs = pack_xattrs(node.xattrs) if node.xattrs else b""
        self.groups: list[list[bytes]] | None = None
        self.size = node.size
        self.tail = 0
        self.offset = 0


class Layout:
    """Where everything goes: nids for all inodes, in an order that keeps a directory's entries together.

    `outside` lists the inodes whose content does not fit behind them: their whole blocks go to the data area.
    """

    def __init__(self, root: Node, *, epoch: tuple[int, int]) -> None:
        self.placed: list[Placed] = []
        self.outside: list[Placed] = []
        self.end = FIRST_SLOT * SLOT
        self.epoch = epoch
        directories = [root]
        self._place(root)
        while directories:
            node = directories.pop()
            children = node.children or {}
            subdirectories: list[Node] = []
            for name in sorted(children):
                child = children[name]
                if child.nid:
                    continue  # a hard link that has its place
                self._place(child)
                if child.children is not None:
                    subdirectories.append(child)
            directories.extend(reversed(subdirectories))

    def _place(self, node: Node) -> None:
        compact = (
            (node.mtime, node.mtime_nsec) == self.epoch
            and node.uid < 0x10000
            and node.gid < 0x10000
            and node.nlink < 0x10000
            and node.size < 1 << 32
        )
        children = node.children
        if children is not None:
            node.nlink = 2 + sum(child.children is not None for child in children.values())
            compact = compact and node.nlink < 0x10000
        placed = Placed(node, len(self.placed) + 1, compact=compact)
        head = (32 if compact else 64) + len(placed.xattrs)
        if children is not None:
            placed.groups, last = group_entries((b".", b"..", *children))
            placed.size = (len(placed.groups) - 1) * BLOCK + last
            placed.tail = last
        elif node.link:
            placed.tail = len(node.link)
        else:
            placed.tail = len(node.data)
        if head + placed.tail > BLOCK:
            placed.tail = 0
        inside = placed.tail if placed.groups is None or len(placed.groups) == 1 else 0
        if not inside and (placed.groups or node.link or node.data):
            self.outside.append(placed)
        offset = -(-self.end // SLOT) * SLOT
        if placed.tail and offset % BLOCK + head + placed.tail > BLOCK:
            offset = -(-offset // BLOCK) * BLOCK  # an inline tail must lie in the inode's block
        placed.offset = offset
        node.nid = offset // SLOT
        self.end = offset + head + placed.tail
        self.placed.append(placed)

    def metadata(self) -> Iterator[bytes]:
        """The metadata area, to be written in this order from the first byte of its first block."""
        at = 0
        for placed in self.placed:
            if placed.offset > at:
                yield bytes(placed.offset - at)
            head = _pack_inode(placed)
            yield head
            at = placed.offset + len(head)
            if placed.xattrs:
                yield placed.xattrs
                at += len(placed.xattrs)
            if placed.tail:
                yield _inline_tail(placed)
                at += placed.tail


def outside_blocks(placed: Placed) -> Iterator[bytes]:
    """The whole blocks of a directory, or the one of a small content; to be padded to `BLOCK` each."""
    if placed.groups is None:
        yield placed.node.link or placed.node.data
        return
    for group in placed.groups[:-1] if placed.tail else placed.groups:
        yield pack_entries(group, placed.node)


def _inline_tail(placed: Placed) -> bytes:
    node = placed.node
    if placed.groups is not None:
        return pack_entries(placed.groups[-1], node)
    return node.link or node.data


def _pack_inode(placed: Placed) -> bytes:
    node = placed.node
    layout = _INLINE if placed.tail else _PLAIN
    if stat.S_IFMT(node.mode) in (stat.S_IFCHR, stat.S_IFBLK):
        where = node.rdev
    else:
        where = node.start if node.start >= 0 else _NO_BLOCK
    count = (len(placed.xattrs) - _XATTR_HEADER) // 4 + 1 if placed.xattrs else 0
    if placed.compact:
        return _COMPACT.pack(
            layout, count, node.mode, node.nlink, placed.size, 0, where, placed.number, node.uid, node.gid, 0
        )
    return _EXTENDED.pack(
        layout | 1, count, node.mode, 0, placed.size, where, placed.number,
        node.uid, node.gid, node.mtime, node.mtime_nsec, node.nlink,
    )  # fmt: skip


def pack_superblock(
    *, inodes: int, epoch: tuple[int, int], blocks: int, metadata_block: int, uuid: bytes
) -> bytes:
    """Block 0, its checksum included."""
    fields = [
        _MAGIC, 0, _COMPAT_CHECKSUM | _COMPAT_MTIME, 12, 0, FIRST_SLOT, inodes, epoch[0] & 0xFFFFFFFFFFFFFFFF,
        epoch[1], blocks, metadata_block, 0, uuid, b"", 0, 0, 0, 0, 0, 0, 0, 0,
    ]  # fmt: skip
    body = _SUPER.pack(*fields).ljust(BLOCK - SUPER_OFFSET, b"\0")
    fields[1] = crc32c(body)
    return bytes(SUPER_OFFSET) + _SUPER.pack(*fields).ljust(BLOCK - SUPER_OFFSET, b"\0")


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def crc32c(data: bytes) -> int:
    """The kernel's crc32c(~0, data): Castagnoli's polynomial, not inverted at the end."""
    table = _crc_table()
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ table[(value ^ byte) & 0xFF]
    return value
