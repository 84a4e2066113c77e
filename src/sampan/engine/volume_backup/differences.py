"""What differs between two trees, or a tree and a backup's manifest: one walk along both, by content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from sampan.engine.volume_backup.format import Entry, bytes_of, comparison_key
from sampan.engine.volume_backup.manifests import describe

Change = Literal["A", "C", "D"]


class Difference(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """kind: added, changed or deleted, as `diff` of containers has it. fields: what changed."""

    kind: Change
    path: str
    fields: tuple[str, ...] = ()
    size: int = 0


@dataclass(frozen=True, slots=True)
class Side:
    """A directory, or what a manifest says of one."""

    root: int = -1
    entries: Iterable[Entry] = ()


def compare(first: Side, second: Side) -> Iterator[Difference]:
    """In the order of the trees. Raises OSError, `Invalid`."""
    left, right = _entries(first), _entries(second)
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        if b is None or (a is not None and _key(a) < _key(b)):
            if a is not None:
                yield Difference("D", _shown(a.path), size=a.size)
            a = next(left, None)
        elif a is None or _key(b) < _key(a):
            yield Difference("A", _shown(b.path), size=b.size)
            b = next(right, None)
        else:
            fields = changed_fields(a, b)
            if fields:
                yield Difference("C", _shown(b.path), fields, b.size)
            a, b = next(left, None), next(right, None)


def _entries(side: Side) -> Iterator[Entry]:
    return describe(side.root) if side.root >= 0 else iter(side.entries)


def _key(entry: Entry) -> list[bytes]:
    return comparison_key(bytes_of(entry.path))


def _shown(path: str) -> str:
    return os.path.join("/", path)


def changed_fields(a: Entry, b: Entry) -> tuple[str, ...]:
    """Pure. A directory's time says only that something in it came or went, which is listed itself."""
    found = []
    if a.type != b.type:
        return ("type",)
    if (a.size, a.sha256, a.sparse) != (b.size, b.sha256, b.sparse):
        found.append("content")
    if a.target != b.target or a.device != b.device:
        found.append("target")
    if a.mode != b.mode:
        found.append("mode")
    if (a.uid, a.gid) != (b.uid, b.gid):
        found.append("owner")
    if a.xattrs != b.xattrs:
        found.append("attributes")
    if a.mtime != b.mtime and a.type != "dir":
        found.append("time")
    return tuple(found)
