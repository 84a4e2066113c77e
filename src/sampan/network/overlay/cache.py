"""What a host last knew of the store, on disk: after a restart of the engine it goes on from there, store or not."""

from __future__ import annotations

import base64
import binascii
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sampan.network.overlay.own import Leases
from sampan.network.overlay.store import Entry, Snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cached:
    identity: str = ""
    leases: Leases | None = None
    revision: int = 0
    entries: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(self.revision, self.entries)


class _Line(msgspec.Struct, frozen=True, array_like=True):
    key: str
    value: str
    created: int
    modified: int
    lease: int


class _File(msgspec.Struct, frozen=True):
    identity: str = ""
    short: int = 0
    long: int = 0
    revision: int = 0
    entries: tuple[_Line, ...] = ()


class Cache:
    """Blocking. One file, replaced as a whole; nobody but root reads it, as it may hold keys of encrypted networks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: bytes = b""
        self._writing = threading.Lock()  # a thread goes on when who waited for it was cancelled

    def read(self) -> Cached:
        """What was written last; nothing when there is no file, or it is damaged."""
        try:
            stored = msgspec.json.decode(self._path.read_bytes(), type=_File)
            entries = {
                line.key: Entry(base64.b64decode(line.value), line.created, line.modified, line.lease)
                for line in stored.entries
            }
        except FileNotFoundError:
            return Cached()
        except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, OSError) as error:
            log.warning("%s is not used: %s", self._path, error)
            return Cached()
        leases = Leases(stored.short, stored.long) if stored.short and stored.long else None
        return Cached(stored.identity, leases, stored.revision, entries)

    def write(self, cached: Cached) -> None:
        with self._writing:
            self._write(cached)

    def _write(self, cached: Cached) -> None:
        lines = tuple(
            _Line(key, base64.b64encode(entry.value).decode(), entry.created, entry.modified, entry.lease)
            for key, entry in cached.entries.items()
        )
        leases = cached.leases or Leases(0, 0)
        body = msgspec.json.encode(_File(cached.identity, leases.short, leases.long, cached.revision, lines))
        if body == self._last:
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        self._last = body
