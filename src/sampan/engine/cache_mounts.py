"""The directories behind `RUN --mount=type=cache`: named, counted, removed; never while a build may use them."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sampan.engine.volumes import directory_size
from sampan.storage.metadata import Metadata, Table
from sampan.storage.removal import remove_tree

_NAME = re.compile(r"[0-9a-f]{64}")


class CacheMountRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Times in seconds since the epoch."""

    id: str = ""
    created: int = 0
    used: int = 0
    uses: int = 0


@dataclass(frozen=True, slots=True)
class CacheMount:
    name: str
    """The directory's: the hash of the id, which may be anything."""
    record: CacheMountRecord
    size: int


class CacheMounts:
    """Thread-safe. A record is written before its directory is made, and goes before the directory does."""

    def __init__(self, root: Path, metadata: Metadata, in_use: Callable[[str], bool]) -> None:
        """`in_use` says whether a build under way has asked for the mount of that name."""
        self._root = root
        self._metadata = metadata
        self._in_use = in_use
        self._lock = threading.Lock()

    def sweep(self) -> None:
        """Remove what an interrupted removal left; at start only."""
        if not self._root.exists():
            return
        for name in os.listdir(self._root):
            if name.startswith("remove-"):
                remove_tree(self._root / name)

    def directory(self, cache_id: str, touch: Callable[[str], None]) -> Path:
        """The directory of the mount, made when missing; `touch` is told its name before it can be removed."""
        name = name_of(cache_id)
        with self._lock:
            touch(name)
            now = int(time.time())
            known = self._record(name)
            record = CacheMountRecord(cache_id, known.created or now, now, known.uses + 1)
            self._metadata.put(Table.CACHE_MOUNTS, name, msgspec.json.encode(record))
            path = self._root / name
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
            return path

    def empty_directory(self) -> Path:
        """A directory with nothing in it: what a build from scratch stands on."""
        path = self._root / "empty"
        path.mkdir(parents=True, exist_ok=True, mode=0o755)
        return path

    def list(self) -> list[CacheMount]:
        """With their sizes, in bytes of file data. A directory without a record has an empty one."""
        if not self._root.exists():
            return []
        names = sorted(name for name in os.listdir(self._root) if _NAME.fullmatch(name))
        return [CacheMount(name, self._dated(name), directory_size(self._root / name)) for name in names]

    def remove(self, name: str) -> int:
        """The bytes that were freed; 0 when the mount is in use or gone."""
        path = self._root / name
        aside = self._root / f"remove-{secrets.token_hex(8)}"
        with self._lock:
            if self._in_use(name) or not _NAME.fullmatch(name) or not path.exists():
                return 0
            self._metadata.delete(Table.CACHE_MOUNTS, name)
            os.rename(path, aside)
        size = directory_size(aside)
        remove_tree(aside)
        return size

    def _record(self, name: str) -> CacheMountRecord:
        body = self._metadata.get(Table.CACHE_MOUNTS, name)
        try:
            return msgspec.json.decode(body, type=CacheMountRecord) if body else CacheMountRecord()
        except msgspec.MsgspecError:
            return CacheMountRecord()  # written by another version: its times begin anew

    def _dated(self, name: str) -> CacheMountRecord:
        record = self._record(name)
        if record.created:
            return record
        changed = int((self._root / name).stat().st_mtime)
        return CacheMountRecord("", changed, changed, 0)


def name_of(cache_id: str) -> str:
    return hashlib.sha256(cache_id.encode("utf-8", "surrogateescape")).hexdigest()
