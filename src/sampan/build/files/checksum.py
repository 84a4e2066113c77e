"""The checksum of what a COPY selects: names, types, modes, owners, links, attributes, all of the content.

Times do not count (a fresh clone must hit the cache), everything else does: CVE-2024-24557 is what happens
when a cache key leaves something out. What was hashed once is not hashed again while the file stays as it is
(`checksums`); large files are hashed in threads (hashing releases the interpreter's lock).
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from sampan.build.errors import BuildCancelled
from sampan.build.files.scan import Entry
from sampan.build.files.tree import Opener, Selection, Tree

_CHUNK = 1 << 20
_THREADED = 1 << 20
"""Bytes from which on a file is worth a thread."""


def checksum(
    tree: Tree, selections: Sequence[Selection], cancelled: threading.Event, *, tops: bool = True
) -> str:
    """Hexadecimal SHA-256. Raises `BuildCancelled` when `cancelled` is set meanwhile, `SourceChanged`.

    `tops`: modes and owners of selected directories themselves count, too. COPY takes only what is in them.
    """
    fingerprint = _fingerprint(selections, tops=tops) if tree.checksums.lasts else None
    known = tree.checksums.find_tree(fingerprint) if fingerprint is not None else None
    if known is not None:
        return known
    begin = time.time_ns()
    found = _content(tree, selections, cancelled)
    digest = hashlib.sha256()
    for selection in selections:
        digest.update(b"source\0" + os.fsencode(selection.name) + (b"/\0" if selection.is_dir else b"\0"))
        for record in _with_link_groups(selection.entries[not tops and selection.is_dir :]):
            digest.update(record)
            digest.update(b"\n")
        for entry in selection.entries:
            if stat.S_ISREG(entry.mode):
                digest.update(found[entry.inode].hex().encode())
    result = digest.hexdigest()
    if fingerprint is not None:
        files = (entry for one in selections for entry in one.entries if stat.S_ISREG(entry.mode))
        tree.checksums.add_tree(fingerprint, result, files, begin)
    return result


def _fingerprint(selections: Sequence[Selection], *, tops: bool) -> str | None:
    """Of all metadata, ctimes and inodes included: the same as before means the same content as before.

    None when a name is no Unicode.
    """
    try:
        data = msgspec.msgpack.encode(
            [tops, [[selection.name, selection.entries] for selection in selections]]
        )
    except UnicodeEncodeError:
        return None
    return hashlib.sha256(data).hexdigest()


def _with_link_groups(entries: Iterable[Entry]) -> Iterable[bytes]:
    """One record per entry; a further name of a file in the selection is told by the path of the first one."""
    first: dict[tuple[int, int], str] = {}
    for entry in entries:
        same = ""
        if entry.links > 1 and stat.S_ISREG(entry.mode):
            before = first.setdefault(entry.inode, entry.path)
            same = before if before != entry.path else ""
        is_node = stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode)
        fields = [
            os.fsencode(entry.path),
            b"%o" % entry.mode,
            b"%d:%d" % (entry.uid, entry.gid),
            os.fsencode(entry.target),
            b"%d" % (entry.device if is_node else 0),
            os.fsencode(same),
            *(os.fsencode(name) + b"=" + value.hex().encode() for name, value in entry.xattrs),
        ]
        yield b"\0".join(fields)


def _content(
    tree: Tree, selections: Sequence[Selection], cancelled: threading.Event
) -> dict[tuple[int, int], bytes]:
    """The SHA-256 of every regular file by (device, inode)."""
    found: dict[tuple[int, int], bytes] = {}
    large: dict[tuple[int, int], tuple[Selection, Entry]] = {}
    for selection in selections:
        with Opener(tree, selection) as opener:
            for entry in selection.entries:
                if not stat.S_ISREG(entry.mode) or entry.inode in found:
                    continue
                known = tree.checksums.find(entry)
                if known is not None:
                    found[entry.inode] = known
                elif entry.size >= _THREADED:
                    large[entry.inode] = selection, entry
                else:
                    found[entry.inode] = _hash_file(tree, selection, entry, cancelled, opener)
    if large:
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            jobs = {
                inode: pool.submit(_hash_large, tree, selection, entry, cancelled)
                for inode, (selection, entry) in large.items()
            }
            for inode, job in jobs.items():
                found[inode] = job.result()
    return found


def _hash_large(tree: Tree, selection: Selection, entry: Entry, cancelled: threading.Event) -> bytes:
    with Opener(tree, selection) as opener:
        return _hash_file(tree, selection, entry, cancelled, opener)


def _hash_file(
    tree: Tree, selection: Selection, entry: Entry, cancelled: threading.Event, opener: Opener
) -> bytes:
    """The file must be as it was scanned, after the last byte too."""
    begin = time.time_ns()
    if cancelled.is_set():
        raise BuildCancelled
    fd = opener.open(entry)
    try:
        digest = hashlib.sha256()
        count = 0
        while data := os.read(fd, min(entry.size + 1 - count, _CHUNK)):
            digest.update(data)
            count += len(data)
            if count >= entry.size:
                break
            if cancelled.is_set():
                raise BuildCancelled
        if tree.is_context and not entry.is_still(os.fstat(fd)):
            raise tree.changed(selection, entry)
    finally:
        os.close(fd)
    result = digest.digest()
    tree.checksums.add(entry, result, begin)
    return result
