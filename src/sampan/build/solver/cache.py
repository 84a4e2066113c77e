"""The layer cache: what a step gave, by everything that went into it.

`keys.py` says what a key covers. An entry whose layer is gone is a miss. Steps that only change the configuration
have no entries: they cost nothing, and their times are those of the layers around them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from sampan.build.solver.flights import Flights
from sampan.oci.digest import Digest
from sampan.storage.metadata import Metadata, Table

USED_RESOLUTION = 24 * 3600
"""Seconds: `used` is written again only when it is older, so that a cached build writes nothing."""


class CacheEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    created: str
    """RFC 3339, of the first time."""
    layer: str = ""
    """The diff-id; empty for a step that changed no file."""
    size: int = 0
    """Bytes of the layer's file data."""
    used: int = 0
    """Unix time of the last use, coarse."""
    uses: int = 0
    """How often it was found, as far as that is written down (`note_uses`)."""
    content: str = ""
    """For entries that remember a checksum instead of a layer."""
    step: str = ""


class CacheTable(Protocol):
    """Where entries are kept; `MetadataTable` is the real one."""

    def get(self, key: str) -> bytes | None: ...
    def put(self, key: str, body: bytes) -> None: ...
    def delete(self, key: str) -> None: ...
    def items(self) -> list[tuple[str, bytes]]: ...


class MetadataTable:
    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    def get(self, key: str) -> bytes | None:
        return self._metadata.get(Table.BUILD_CACHE, key)

    def put(self, key: str, body: bytes) -> None:
        self._metadata.put(Table.BUILD_CACHE, key, body)

    def delete(self, key: str) -> None:
        self._metadata.delete(Table.BUILD_CACHE, key)

    def items(self) -> list[tuple[str, bytes]]:
        return self._metadata.items(Table.BUILD_CACHE)


class BuildCache:
    """Thread-safe as far as its table is. A step that two builds do is done once when they share `flights`."""

    def __init__(
        self,
        table: CacheTable,
        has_layer: Callable[[Digest], bool],
        touched: Callable[[str], None] = lambda _key: None,
        imported: Callable[[str], CacheEntry | None] = lambda _key: None,
        flights: Flights | None = None,
        loosened: Callable[[Digest], None] = lambda _layer: None,
    ) -> None:
        """`touched` is told every key that is found or stored; `imported` knows entries of other engines.

        `loosened` is told a layer when its entry gets another one (a build without cache has done the step again).

        `flights` is shared by builds whose equal steps are to be done once.
        """
        self.flights = flights or Flights()
        self._table = table
        self._has_layer = has_layer
        self._touched = touched
        self._imported = imported
        self._loosened = loosened
        self.seen: dict[str, CacheEntry] = {}
        """What was found or stored through this object: what a build exports."""
        self.mounts: set[str] = set()
        """Ids of the cache mounts that its steps name, also of those that need not be done."""

    def lookup(self, key: str) -> CacheEntry | None:
        """None for a miss: nothing is known of the key, here or by an import, or its layer is gone."""
        entry = self._load(key)
        if entry is None or not self._present(entry):
            return self._import(key)
        self._touched(key)
        self.seen[key] = entry
        now = int(time.time())
        if now - entry.used > USED_RESOLUTION:
            self.store(key, entry)
        return entry

    def _import(self, key: str) -> CacheEntry | None:
        """It is written down by `keep_imported`, when the build knows which layers it needed."""
        entry = self._imported(key)
        if entry is not None:
            self._present(entry)  # the layer may be here without a record: from now on it stays
            self._touched(key)
            self.seen[key] = entry
        return entry

    def keep_imported(self) -> None:
        """Write down what was found elsewhere and has its layer here by now."""
        for key, entry in self.seen.items():
            if self._present(entry) and self._load(key) is None:
                self.store(key, entry)

    def _present(self, entry: CacheEntry) -> bool:
        return not entry.layer or self._has_layer(Digest(entry.layer))

    def store(self, key: str, entry: CacheEntry) -> None:
        self._touched(key)
        self.seen[key] = entry
        before = self._load(key)
        if before is not None and before.layer and before.layer != entry.layer:
            self._loosened(Digest(before.layer))
        stamped = msgspec.structs.replace(entry, used=int(time.time()))
        self._table.put(key, msgspec.json.encode(stamped))

    def entries(self) -> dict[str, CacheEntry]:
        """All readable entries; for `system df`, prune, and as roots of the layer collection."""
        found = {}
        for key, body in self._table.items():
            entry = self._decoded(key, body)
            if entry is not None:
                found[key] = entry
        return found

    def layers(self) -> set[Digest]:
        return {Digest(entry.layer) for entry in self.entries().values() if entry.layer}

    def forget(self, keys: Iterable[str]) -> None:
        """Without an error for those that are gone already."""
        for key in keys:
            self._table.delete(key)

    def note_uses(self, counts: Mapping[str, int]) -> None:
        """Write down that entries were used just now, and how often. What is no key is ignored."""
        now = int(time.time())
        for key, count in counts.items():
            entry = self._load(key)
            if entry is not None:
                noted = msgspec.structs.replace(entry, used=now, uses=entry.uses + count)
                self._table.put(key, msgspec.json.encode(noted))

    def _load(self, key: str) -> CacheEntry | None:
        body = self._table.get(key)
        return None if body is None else self._decoded(key, body)

    def _decoded(self, key: str, body: bytes) -> CacheEntry | None:
        try:
            return msgspec.json.decode(body, type=CacheEntry)
        except msgspec.MsgspecError:
            self._table.delete(key)  # written by another version: a miss
            return None


def key_of(kind: str, parts: Sequence[str]) -> str:
    """A key over `parts`; their lengths are counted, so that no two lists of parts give the same bytes."""
    digest = hashlib.sha256(f"1 {kind}\n".encode())
    for part in parts:
        raw = part.encode("utf-8", "surrogateescape")
        digest.update(b"%d:" % len(raw))
        digest.update(raw)
    return digest.hexdigest()
