"""The files of one log, plain and compressed, opened together as they belong together while a writer renames them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

from sampan.errors import Unavailable
from sampan.logs.rotation import slot

BLOCK = 64 * 1024
_GZIP = 31
"""zlib's window bits for a gzip stream."""
_LONGEST_RECORD = 256 * 1024
"""Bytes of a piece of a line in JSON, every byte of it escaped, and what is around it."""
_MOST_FILES = 10_000
_ATTEMPTS = 1000


class LogFile:
    """Owns the descriptor. Offsets are those of the uncompressed content."""

    def __init__(self, descriptor: int, *, compressed: bool) -> None:
        self.descriptor = descriptor
        self.compressed = compressed

    @property
    def inode(self) -> int:
        return os.fstat(self.descriptor).st_ino

    @property
    def size(self) -> int:
        """Bytes now, of a plain file; of a compressed one, which does not grow, more than there are."""
        return 1 << 62 if self.compressed else os.fstat(self.descriptor).st_size

    def blocks(self, start: int, end: int) -> Iterator[bytes]:
        """The content between the offsets. What is broken ends it."""
        if self.compressed:
            yield from self._unpacked(start, end)
            return
        at = start
        while at < end and (block := os.pread(self.descriptor, min(BLOCK, end - at), at)):
            at += len(block)
            yield block

    def start_of_last(self, count: int) -> tuple[int, int]:
        """Where the last `count` lines begin, and how many there are."""
        return self._count_unpacked(count) if self.compressed else self._count_from_end(count)

    def first_record(self) -> bytes:
        """It names the file: it has a time in nanoseconds, and no two files begin at the same."""
        found = b""
        for block in self.blocks(0, _LONGEST_RECORD):
            line, newline, _ = (found + block).partition(b"\n")
            if newline:
                return line
            found += block
        return found

    def close(self) -> None:
        os.close(self.descriptor)

    def _unpacked(self, start: int, end: int) -> Iterator[bytes]:
        unpacker = zlib.decompressobj(_GZIP)
        at = read = 0
        try:
            while at < end and not unpacker.eof:
                packed = unpacker.unconsumed_tail
                if not packed:
                    packed = os.pread(self.descriptor, BLOCK, read)
                    read += len(packed)
                    if not packed:
                        return
                block = unpacker.decompress(packed, BLOCK)
                wanted = block[max(0, start - at) : end - at]
                at += len(block)
                if wanted:
                    yield wanted
        except zlib.error:
            return

    def _count_unpacked(self, count: int) -> tuple[int, int]:
        """In two passes, so that nothing has to be kept: how many lines, then where the first wanted one begins."""
        total = size = 0
        last = b"\n"
        for block in self.blocks(0, self.size):
            total += block.count(b"\n")
            size += len(block)
            last = block[-1:]
        total += last != b"\n"
        skip = total - count
        if skip <= 0:
            return 0, total
        at = 0
        for block in self.blocks(0, self.size):
            newlines = block.count(b"\n")
            if newlines < skip:
                skip -= newlines
                at += len(block)
                continue
            where = -1
            for _ in range(skip):
                where = block.find(b"\n", where + 1)
            return at + where + 1, count
        return size, 0

    def _count_from_end(self, count: int) -> tuple[int, int]:
        found = 0
        at = end = size = self.size
        while at > 0:
            at = max(0, at - BLOCK)
            block = os.pread(self.descriptor, end - at, at)
            where = len(block)
            while (where := block.rfind(b"\n", 0, where)) >= 0:
                # The newline that ends the file begins no line.
                if at + where + 1 < size:
                    found += 1
                    if found == count:
                        return at + where + 1, found
            end = at
        return 0, found + (1 if size else 0)


def open_all(path: str) -> list[LogFile]:
    """The old files and the current one, oldest first, consistent even if they are renamed or compressed meanwhile.

    Raises OSError, and `Unavailable` when they never stay the same for as long as opening them takes.
    """
    for _ in range(_ATTEMPTS):
        opened: list[LogFile] = []
        try:
            for number in range(_MOST_FILES):
                file = _open(path, number)
                if file is not None:
                    opened.append(file)
                elif number > 1 and len(opened) < number:
                    break  # one may be missing: between two steps of a rotation, also when it was the last ever
            if _are_different(opened):
                return opened[::-1]
        except BaseException:
            close_all(opened)
            raise
        close_all(opened)
    raise Unavailable(f"the log {path} is renamed too fast to be read")


def _open(path: str, number: int) -> LogFile | None:
    for name in slot(path, number) if number else (path,):
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        return LogFile(descriptor, compressed=name.endswith(".gz") and number > 0)
    return None


def _are_different(files: list[LogFile]) -> bool:
    """False when one file was met under its old and its new name, or before and after it was compressed."""
    if len({file.inode for file in files}) < len(files):
        return False
    if not any(file.compressed for file in files):
        return True
    records = [record for file in files if (record := file.first_record())]
    return len(set(records)) == len(records)


def close_all(files: list[LogFile]) -> None:
    for file in files:
        file.close()


def tail_starts(files: list[LogFile], tail: int) -> list[int]:
    """The offset in each file (oldest first) where the last `tail` lines of all together begin."""
    starts = [file.size for file in files]
    missing = tail
    for index in range(len(files) - 1, -1, -1):
        if missing <= 0:
            break
        starts[index], found = files[index].start_of_last(missing)
        missing -= found
    return starts
