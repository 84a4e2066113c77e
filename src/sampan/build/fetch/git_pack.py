"""A pack from a stranger: looked through before a library unpacks it, and then asked for objects.

Format: gitformat-pack(5). The look-through inflates every object once without keeping it, so that nothing that is
unpacked later can be larger than what the limits say: deflate makes a thousand bytes out of one, a delta any number.
"""

from __future__ import annotations

import os
import threading
import zlib
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sampan.build.errors import BuildCancelled
from sampan.errors import Invalid

if TYPE_CHECKING:
    from dulwich.object_store import DiskObjectStore
    from dulwich.objects import ObjectID, ShaFile

MAX_PACK = 4 << 30
"""Bytes that one repository may send."""
MAX_OBJECT = 512 << 20
"""Bytes of one object: it is held in memory."""
MAX_UNPACKED = 32 << 30
MAX_OBJECTS = 5_000_000
MAX_CHAIN = 2 * MAX_OBJECT
"""Bytes of an object and of those that it is a delta of, one by one: all of them may be held in memory, when each has
others that wait for it. Git's own chains have 50 objects."""
_CHUNK = 1 << 18
_OFS_DELTA, _REF_DELTA = 6, 7


@dataclass(slots=True)
class _Reader:
    """Sequential reading of a file by descriptor; its own offset is left alone."""

    fd: int
    offset: int = 0
    buffer: bytes = b""
    start: int = 0

    def byte(self) -> int:
        if self.start >= len(self.buffer):
            self.buffer = os.pread(self.fd, _CHUNK, self.offset)
            self.start = 0
            self.offset += len(self.buffer)
            if not self.buffer:
                raise _broken("it ends in the middle")
        self.start += 1
        return self.buffer[self.start - 1]

    def take(self) -> bytes:
        """All that is buffered, or the next piece of the file; b"" at its end."""
        piece = self.buffer[self.start :] or os.pread(self.fd, _CHUNK, self.offset)
        if self.start >= len(self.buffer):
            self.offset += len(piece)
        self.buffer, self.start = b"", 0
        return piece

    def give_back(self, rest: bytes) -> None:
        self.buffer, self.start = rest, 0

    @property
    def position(self) -> int:
        return self.offset - (len(self.buffer) - self.start)


class _Chains:
    """How much memory the objects of a pack may take when deltas are applied."""

    def __init__(self) -> None:
        self._places = array("Q")
        """Of the objects so far, ascending."""
        self._sizes = array("Q")
        """Of each with all that it is a delta of."""
        self._named = 0

    def add(self, place: int, size: int) -> None:
        self._places.append(place)
        self._sizes.append(size)

    def add_delta(self, place: int, size: int, base: int) -> None:
        """Of the object at the place `base`. Raises `Invalid`."""
        index = bisect_left(self._places, base)
        if index == len(self._places) or self._places[index] != base:
            raise _broken("a delta of nothing")
        self.add(place, self._bounded(size + self._sizes[index]))

    def add_named_delta(self, place: int, size: int) -> None:
        """Of an object named by its id, which may be any: all of these count as one chain. Raises `Invalid`."""
        self._named = self._bounded(self._named + size)
        self.add(place, self._named)

    def _bounded(self, size: int) -> int:
        if size > MAX_CHAIN:
            raise Invalid(f"the git repository has a chain of deltas of more than {MAX_CHAIN} bytes")
        return size


def inspect_pack(fd: int, cancelled: threading.Event) -> None:
    """Raises `Invalid` for a pack that is broken or beyond the limits."""
    reader = _Reader(fd)
    header = bytes(reader.byte() for _ in range(12))
    if header[:4] != b"PACK" or header[4:8] not in (b"\0\0\0\2", b"\0\0\0\3"):
        raise _broken("its header is none")
    count = int.from_bytes(header[8:])
    if count > MAX_OBJECTS:
        raise Invalid(f"the git repository has {count} objects, more than {MAX_OBJECTS}")
    total, chains = 0, _Chains()
    for _ in range(count):
        if cancelled.is_set():
            raise BuildCancelled
        total += _inspect_object(reader, chains)
        if total > MAX_UNPACKED:
            raise Invalid(f"the git repository unpacks to more than {MAX_UNPACKED} bytes")


def _inspect_object(reader: _Reader, chains: _Chains) -> int:
    """The bytes that it unpacks to."""
    place, back = reader.position, 0
    byte = reader.byte()
    kind, size, shift = byte >> 4 & 7, byte & 15, 4
    while byte & 0x80:
        byte = reader.byte()
        size |= (byte & 0x7F) << shift
        shift += 7
        if shift > 60:
            raise _broken("an object's size is none")
    if kind == _OFS_DELTA:
        byte = reader.byte()
        back = byte & 0x7F
        while byte & 0x80:
            byte = reader.byte()
            back = (back + 1) << 7 | byte & 0x7F
            if back > place:
                raise _broken("a delta of nothing")
    elif kind == _REF_DELTA:
        for _ in range(20):
            reader.byte()
    if size > MAX_OBJECT:
        raise _too_large(size)
    head = _inflate(reader, size)
    if kind in (_OFS_DELTA, _REF_DELTA):
        size = _delta_result(head)
        if size > MAX_OBJECT:
            raise _too_large(size)
    if kind == _OFS_DELTA:
        chains.add_delta(place, size, place - back)
    elif kind == _REF_DELTA:
        chains.add_named_delta(place, size)
    else:
        chains.add(place, size)
    return size


def _inflate(reader: _Reader, size: int) -> bytes:
    """Its first bytes. Raises `Invalid` when it inflates to anything but `size` bytes."""
    inflater = zlib.decompressobj()
    seen, head, pending = 0, b"", b""
    try:
        while not inflater.eof:
            pending = pending or reader.take()
            if not pending:
                raise _broken("it ends in the middle")
            piece = inflater.decompress(pending, _CHUNK)
            pending = inflater.unconsumed_tail
            seen += len(piece)
            if seen > size:
                raise _broken("an object is larger than it says")
            if len(head) < 32:
                head += piece[:32]
    except zlib.error as error:
        raise _broken(str(error)) from error
    if seen != size:
        raise _broken("an object is smaller than it says")
    reader.give_back(inflater.unused_data or pending)
    return head


def _delta_result(head: bytes) -> int:
    """A delta begins with two numbers: the sizes of its base and of its result."""
    sizes: list[int] = []
    value = shift = 0
    for byte in head:
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            sizes.append(value)
            if len(sizes) == 2:
                return sizes[1]
            value = shift = 0
        elif shift > 60:
            break
    raise _broken("a delta has no size")


@dataclass(slots=True)
class ObjectReader:
    """Objects by their id (40 hexadecimal digits), which the library has computed from their content."""

    store: DiskObjectStore

    def tree_of(self, commit: str) -> tuple[str, int]:
        """The id of a commit's tree, and the committer's time (Unix)."""
        from dulwich.objects import Commit

        found = self._object(commit)
        if not isinstance(found, Commit):
            raise Invalid(f"{commit} is no commit")
        return found.tree.decode(), int(found.commit_time)

    def parents(self, commit: str) -> list[str]:
        from dulwich.objects import Commit

        found = self._object(commit)
        return [parent.decode() for parent in found.parents] if isinstance(found, Commit) else []

    def peeled(self, name: str) -> str:
        """The commit that an annotated tag names; any other object's own id."""
        from dulwich.objects import Tag

        for _ in range(8):
            found = self._object(name)
            if not isinstance(found, Tag):
                return name
            name = found.object[1].decode()
        raise Invalid("a tag of a tag of a tag: more than 8 of them")

    def entries(self, tree: str) -> list[tuple[bytes, int, str]]:
        """Name, mode and id of all that a tree has."""
        from dulwich.objects import Tree

        found = self._object(tree)
        if not isinstance(found, Tree):
            raise Invalid(f"{tree} is no tree")
        try:
            return [(entry.path, entry.mode, entry.sha.decode()) for entry in found.iteritems()]
        except Exception as error:
            raise Invalid(f"tree {tree} of the git repository is broken: {error}") from error

    def blob(self, name: str) -> list[bytes]:
        from dulwich.objects import Blob

        found = self._object(name)
        if not isinstance(found, Blob):
            raise Invalid(f"{name} is no file")
        return list(found.as_raw_chunks())

    def has(self, name: str) -> bool:
        return _id(name) in self.store

    def _object(self, name: str) -> ShaFile:
        try:
            return self.store[_id(name)]
        except KeyError as error:
            raise Invalid(f"the git repository did not send object {name}") from error
        except Exception as error:
            raise Invalid(f"object {name} of the git repository is broken: {error}") from error


def _id(name: str) -> ObjectID:
    from dulwich.objects import ObjectID

    return ObjectID(name.encode())


def _broken(why: str) -> Invalid:
    return Invalid(f"the git repository sent a broken pack: {why}")


def _too_large(size: int) -> Invalid:
    return Invalid(f"the git repository has an object of {size} bytes, more than {MAX_OBJECT}")
