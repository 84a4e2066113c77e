"""A layer's tar stream as one EROFS image, written in one pass from front to back.

File content goes to the image as it is read, each file from a block of its own; inodes and directories
are kept in memory and follow it. Only the superblock, block 0, is filled in at the end.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Final

import msgspec

from sampan.errors import Invalid
from sampan.storage.erofs_format import BLOCK, Layout, outside_blocks, pack_superblock
from sampan.storage.layer_tree import LayerTree, Node
from sampan.storage.tar_format import Member, TarLimits
from sampan.storage.tar_reader import TarReader

INLINE_FILE: Final = 1024  # bytes: content up to here lies beside the inode, not in a block of its own
INLINE_BUDGET: Final = 16 << 20  # bytes of such content kept in memory
IMAGE_MAX: Final = 1 << 43  # bytes, holes included; ext4 ends at 16 TiB
_FLUSH_BYTES: Final = 1 << 20
_FLUSH_PIECES: Final = 1000  # IOV_MAX is 1024
_WRITEBACK: Final = 32 << 20
_ZEROS: Final = memoryview(bytes(BLOCK))


class ErofsStats(msgspec.Struct, frozen=True):
    size: int  # bytes of regular files' content, holes included
    entries: int
    image_size: int


class _Output:
    """Sequential writes, gathered; the kernel is asked to start writing back early, so that fsync waits less."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pieces: list[bytes | memoryview] = []
        self._pending = 0
        self._kicked = 0
        self.offset = 0  # of the next byte

    def write(self, piece: bytes | memoryview) -> None:
        self._pieces.append(piece)
        self._pending += len(piece)
        self.offset += len(piece)
        if self._pending >= _FLUSH_BYTES or len(self._pieces) >= _FLUSH_PIECES:
            self.flush()

    def pad(self) -> None:
        """Zeros up to the next block."""
        missing = -self.offset % BLOCK
        if missing:
            self.write(_ZEROS[:missing])

    def hole(self, length: int) -> None:
        """Zeros that take no room in the file."""
        if length < BLOCK:
            self.write(_ZEROS[:length])
            return
        self.flush()
        os.lseek(self._fd, length, os.SEEK_CUR)
        self.offset += length

    def flush(self) -> None:
        pieces = self._pieces
        written = os.writev(self._fd, pieces) if pieces else 0
        if written < self._pending:
            rest = memoryview(b"".join(pieces))[written:]
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        pieces.clear()
        self._pending = 0
        if self.offset - self._kicked >= _WRITEBACK:
            # Starts the write-back of dirty pages without waiting for it; pages on their way stay cached.
            os.posix_fadvise(self._fd, self._kicked, self.offset - self._kicked, os.POSIX_FADV_DONTNEED)
            self._kicked = self.offset


class ErofsWriter:
    """Feed it members with their content, then `finish`. `fd` is an empty file open for writing."""

    def __init__(self, fd: int, limits: TarLimits | None = None) -> None:
        self._fd = fd
        self._out = _Output(fd)
        self._out.write(bytes(BLOCK))
        self._tree = LayerTree(max_nodes=(limits or TarLimits()).members)
        self._inline_left = INLINE_BUDGET

    def write_all(self, reader: TarReader) -> None:
        """Take every member of an archive. Raises `Invalid`."""
        add, write_file = self._tree.add, self._write_file
        for member in reader:
            node = add(member)
            if member.stored and node is not None:
                write_file(node, member, reader)
            elif member.sparse is not None and node is not None and member.size:
                self._write_sparse(node, member, reader)

    def _write_file(self, node: Node, member: Member, reader: TarReader) -> None:
        size = member.stored
        if member.sparse is not None:
            self._write_sparse(node, member, reader)
            return
        if size <= INLINE_FILE and self._inline_left >= size:
            self._inline_left -= size
            node.data = reader.read()
            return
        out = self._out
        self._check_room(size)
        node.start = out.offset // BLOCK
        left = size
        while left:
            piece = reader.take()
            out.write(piece)
            left -= len(piece)
        missing = -size % BLOCK
        if missing:
            out.write(_ZEROS[:missing])

    def _write_sparse(self, node: Node, member: Member, reader: TarReader) -> None:
        """Holes become holes of the image file: the content stays flat, which every kernel reads."""
        self._check_room(member.size)
        out = self._out
        start = out.offset
        node.start = start // BLOCK
        piece = memoryview(b"")
        for offset, length in member.sparse or ():
            if start + offset > out.offset:
                out.hole(start + offset - out.offset)
            while length:
                piece = piece or reader.take()
                out.write(piece[:length])
                taken = min(length, len(piece))
                piece, length = piece[taken:], length - taken
        if start + member.size > out.offset:
            out.hole(start + member.size - out.offset)
        out.pad()

    def _check_room(self, size: int) -> None:
        if self._out.offset + size > IMAGE_MAX:
            raise Invalid(f"the layer is larger than {IMAGE_MAX} bytes")

    def finish(self, uuid: bytes) -> ErofsStats:
        """Write directories, inodes and the superblock. `uuid` are the volume's 16 bytes. Not synced yet."""
        out, root = self._out, self._tree.root
        layout = Layout(root, epoch=_most_common_time(root))
        for placed in layout.outside:
            placed.node.start = out.offset // BLOCK
            for block in outside_blocks(placed):
                out.write(block)
                out.pad()
        metadata_block = out.offset // BLOCK
        for piece in layout.metadata():
            out.write(piece)
        out.pad()
        out.flush()
        os.ftruncate(self._fd, out.offset)  # a hole may be the last thing
        head = pack_superblock(
            inodes=len(layout.placed),
            epoch=layout.epoch,
            blocks=out.offset // BLOCK,
            metadata_block=metadata_block,
            uuid=uuid,
        )
        os.pwrite(self._fd, head, 0)
        size = sum(placed.node.size for placed in layout.placed if placed.node.is_file)
        return ErofsStats(size, self._tree.entries, out.offset)


def _most_common_time(root: Node) -> tuple[int, int]:
    """Inodes of this time can be stored in half the room."""
    times: Counter[tuple[int, int]] = Counter()
    pending = [root]
    while pending:
        node = pending.pop()
        times[(node.mtime, node.mtime_nsec)] += 1
        if node.children:
            pending.extend(node.children.values())
    return max(times, key=lambda time: (times[time], time))
