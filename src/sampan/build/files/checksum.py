"""The checksum of what a COPY selects: names, types, modes, owners, links, attributes, all of the content.

Times do not count (a fresh clone must hit the cache), everything else does: CVE-2024-24557 is what happens
when a cache key leaves something out. Files are hashed once per build, large ones in threads (hashing
releases the interpreter's lock).
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from sampan.build.errors import BuildCancelled
from sampan.build.files.tree import Entry, Selection, Tree

_CHUNK = 1 << 20
_THREADED = 1 << 20
"""Bytes from which on a file is worth a thread."""


def checksum(tree: Tree, selections: Sequence[Selection], cancelled: threading.Event) -> str:
    """Hexadecimal SHA-256. Raises `BuildCancelled` when `cancelled` is set meanwhile."""
    _hash_files(tree, selections, cancelled)
    digest = hashlib.sha256()
    for selection in selections:
        digest.update(b"source\0" + os.fsencode(selection.name) + b"\0")
        for record in _with_link_groups(selection.entries):
            digest.update(record)
            digest.update(b"\n")
        for entry in selection.entries:
            if stat.S_ISREG(entry.mode):
                digest.update(tree.hashes[entry.inode].encode())
    return digest.hexdigest()


def _with_link_groups(entries: Iterable[Entry]) -> Iterable[bytes]:
    """One record per entry; hard links inside the selection are told by the path of their first name."""
    first: dict[tuple[int, int], str] = {}
    for entry in entries:
        same = ""
        if entry.links > 1 and stat.S_ISREG(entry.mode):
            same = first.setdefault(entry.inode, entry.path)
        is_node = stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode)
        fields = [
            os.fsencode(entry.path),
            b"%o" % entry.mode,
            b"%d:%d" % (entry.uid, entry.gid),
            os.fsencode(entry.target),
            b"%d" % (entry.device if is_node else 0),
            os.fsencode(same),
            *(name.encode() + b"=" + value.hex().encode() for name, value in entry.xattrs),
        ]
        yield b"\0".join(fields)


def _hash_files(tree: Tree, selections: Sequence[Selection], cancelled: threading.Event) -> None:
    large: list[tuple[Selection, Entry]] = []
    for selection in selections:
        for entry in selection.entries:
            if not stat.S_ISREG(entry.mode) or entry.inode in tree.hashes:
                continue
            if entry.size >= _THREADED:
                large.append((selection, entry))
                continue
            tree.hashes[entry.inode] = _hash_file(tree, selection, entry, cancelled)
    if not large:
        return
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        jobs = [(entry, pool.submit(_hash_file, tree, chosen, entry, cancelled)) for chosen, entry in large]
        for entry, job in jobs:
            tree.hashes[entry.inode] = job.result()


def _hash_file(tree: Tree, selection: Selection, entry: Entry, cancelled: threading.Event) -> str:
    digest = hashlib.sha256()
    if cancelled.is_set():
        raise BuildCancelled
    fd = tree.open(selection, entry)
    try:
        while data := os.read(fd, _CHUNK):
            digest.update(data)
            if cancelled.is_set():
                raise BuildCancelled
    finally:
        os.close(fd)
    return digest.hexdigest()
