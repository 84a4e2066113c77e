"""A backup's manifest as it travels by itself: compressed lines, from anybody."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from sampan.engine.volume_backup.base import Base
from sampan.engine.volume_backup.format import MANIFEST_MAX, Entry, decode_lines, encode_line
from sampan.engine.volume_backup.frames import Frames
from sampan.engine.volume_backup.walk import (
    Contents,
    Found,
    data_pieces,
    kind_of,
    make_entry,
    node_xattrs,
    open_file,
    read_target,
    read_xattrs,
    walk,
)
from sampan.storage.decompress import decompressed

MANIFEST_BYTES: Final = 1 << 30
"""Of a compressed manifest."""


class _Hashed:
    """Passes lines on and hashes them."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._hash = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._hash.update(chunk)
            yield chunk

    @property
    def id(self) -> str:
        return self._hash.hexdigest()


def read_manifest(chunks: Iterable[bytes]) -> Base:
    """What the backup has that has this manifest. Raises `Invalid`."""
    lines = _Hashed(decompressed(chunks, MANIFEST_MAX))
    base = Base("", decode_lines(lines))
    base.id = lines.id
    return base


def read_entries(chunks: Iterable[bytes]) -> Iterator[Entry]:
    return decode_lines(decompressed(chunks, MANIFEST_MAX))


def describe(root: int, vanished: Callable[[bytes], object] = lambda _path: None) -> Iterator[Entry]:
    """The entries of a tree, as a backup of it would list them. Raises OSError, `Invalid`."""
    links: dict[tuple[int, int], bytes] = {}
    contents = Contents()
    for found in walk(root, vanished):
        try:
            entry = _entry(found, links, contents)
        except FileNotFoundError:
            vanished(found.path)
            continue
        if entry is not None:
            yield entry


def _entry(found: Found, links: dict[tuple[int, int], bytes], contents: Contents) -> Entry | None:
    kind, status = kind_of(found.status), found.status
    if kind is None:
        return None
    if kind == "dir":
        return make_entry(found.path, kind, status, xattrs=read_xattrs(found.descriptor))
    if status.st_nlink > 1:
        first = links.setdefault((status.st_dev, status.st_ino), found.path)
        if first != found.path:
            return make_entry(found.path, "hardlink", status, target=first)
    if kind == "symlink":
        return make_entry(found.path, kind, status, target=read_target(found))
    if kind != "file":
        return make_entry(found.path, kind, status, xattrs=node_xattrs(found))
    descriptor = open_file(found)
    try:
        status = os.fstat(descriptor)
        pieces = data_pieces(descriptor, status)
        return make_entry(
            found.path,
            kind,
            status,
            size=status.st_size,
            sha256=contents.digest(descriptor, status.st_size, pieces),
            sparse=pieces is not None,
            xattrs=read_xattrs(descriptor),
        )
    finally:
        os.close(descriptor)


def write_manifest(entries: Iterable[Entry], out: Callable[[bytes], object]) -> str:
    """Compressed, to `out`; the id of the backup that it would be the manifest of."""
    hashed = hashlib.sha256()
    with Frames(out) as frames:
        for entry in entries:
            line = encode_line(entry)
            hashed.update(line)
            frames.write(line)
        frames.cut()
    return hashed.hexdigest()
