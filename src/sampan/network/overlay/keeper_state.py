"""The store of a cluster without etcd, kept by one of its engines: entries, leases and revisions, on disk in SQLite.

The same model as etcd's in little (`store`). Blocking; the one who serves it takes care that calls do not overlap.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sampan.errors import Invalid, NotFound, Unavailable
from sampan.network.overlay.store import (
    Change,
    Changes,
    Compacted,
    Condition,
    Delete,
    Entry,
    Kind,
    Operation,
    Put,
    Snapshot,
)

log = logging.getLogger(__name__)

_HISTORY = 4096
"""Changes that a watcher may be behind; who is further behind reads everything again."""
MAX_BYTES = 16 << 20
"""Of all entries together, by `Entry.size`: as base64 and JSON less than a client takes in one answer."""
_MAX_KEY = 1000
_MAX_LEASES = 10_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB, created INT, modified INT, lease INT) STRICT;
CREATE TABLE IF NOT EXISTS leases (id INTEGER PRIMARY KEY, seconds INT) STRICT;
CREATE TABLE IF NOT EXISTS revision (number INT) STRICT;
"""


class KeeperState:
    """`now`: seconds of a clock that never goes back. A lease's time begins anew with the keeper, as etcd has it."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        """A file that is damaged is put aside: the engines tell what they know. Raises `Unavailable`."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._now = now
        try:
            try:
                self._read(path)
            except sqlite3.DatabaseError as error:
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what belongs to it
                if code not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    raise
                aside = path.with_suffix(".damaged")
                log.error(
                    "%s: %s; it is %s now, and the cluster's store begins anew", path, error, aside.name
                )
                self._database.close()
                path.replace(aside)
                for rest in ("-wal", "-shm"):
                    path.with_name(path.name + rest).unlink(missing_ok=True)
                self._read(path)
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"{path}: {error}") from error
        self._ends = {lease: now() + seconds for lease, seconds in self._leases.items()}
        self._history: deque[Changes] = deque(maxlen=_HISTORY)
        self._bytes = sum(entry.size(key) for key, entry in self.entries.items())

    def _read(self, path: Path) -> None:
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_SCHEMA)
        rows = self._database.execute("SELECT key, value, created, modified, lease FROM entries")
        self.entries = {str(key): Entry(bytes(value), *rest) for key, value, *rest in rows}
        self._leases = dict(self._database.execute("SELECT id, seconds FROM leases"))
        found = self._database.execute("SELECT number FROM revision").fetchone()
        self.revision = int(found[0]) if found else 1
        if not found:
            self._database.execute("INSERT INTO revision VALUES (1)")

    def close(self) -> None:
        self._database.close()

    def snapshot(self, prefix: str) -> Snapshot:
        found = {key: entry for key, entry in self.entries.items() if key.startswith(prefix)}
        return Snapshot(self.revision, found)

    def since(self, prefix: str, revision: int) -> list[Changes]:
        """What has happened below the prefix from this revision on. Raises `Compacted`."""
        oldest = self._history[0].revision if self._history else self.revision + 1
        if revision < oldest:
            raise Compacted(f"revision {revision} is no longer known")
        found = []
        for changes in self._history:
            chosen = tuple(change for change in changes.changes if change.key.startswith(prefix))
            if changes.revision >= revision and chosen:
                found.append(Changes(changes.revision, chosen))
        return found

    def commit(self, conditions: Iterable[Condition], operations: Sequence[Operation]) -> bool:
        """Raises `NotFound` for a lease that has ended, `Invalid` for what is too large, `Unavailable`."""
        if not all(map(self._holds, conditions)):
            return False
        grown = 0
        for operation in operations:
            if isinstance(operation, Put):
                self._check(operation)
                grown += Entry(operation.value, 0, 0).size(operation.key) - self._size(operation.key)
        if grown > 0 and self._bytes + grown > MAX_BYTES:
            raise Invalid("the store is full")
        self._perform(operations)
        return True

    def _check(self, put: Put) -> None:
        if not (0 < len(put.key) <= _MAX_KEY and put.key.isascii() and put.key.isprintable()):
            raise Invalid("a key is printable ASCII")
        if put.lease and put.lease not in self._leases:
            raise NotFound("requested lease not found")

    def _holds(self, condition: Condition) -> bool:
        entry = self.entries.get(condition.key)
        match condition.kind:
            case Kind.ABSENT:
                return entry is None
            case Kind.PRESENT:
                return entry is not None
            case Kind.UNCHANGED:
                return entry is not None and entry.modified == condition.revision
            case Kind.PREFIX_UNTOUCHED:
                return all(
                    entry.modified <= condition.revision
                    for key, entry in self.entries.items()
                    if key.startswith(condition.key)
                )

    def _perform(self, operations: Iterable[Operation]) -> None:
        revision = self.revision + 1
        changes: list[Change] = []
        for operation in operations:
            if isinstance(operation, Put):
                before = self.entries.get(operation.key)
                created = before.created if before is not None else revision
                changes.append(
                    Change(operation.key, Entry(operation.value, created, revision, operation.lease))
                )
            else:
                changes += [Change(key, None) for key in self._meant(operation)]
        if not changes:
            return
        with _writing(self._database):
            for change in changes:
                self._store(change)
            self._database.execute("UPDATE revision SET number = ?", (revision,))
        for change in changes:
            self._bytes -= self._size(change.key)
            if change.entry is None:
                self.entries.pop(change.key, None)
            else:
                self.entries[change.key] = change.entry
            self._bytes += self._size(change.key)
        self.revision = revision
        self._history.append(Changes(revision, tuple(changes)))

    def _meant(self, delete: Delete) -> list[str]:
        if delete.prefix:
            return [key for key in self.entries if key.startswith(delete.key)]
        return [delete.key] if delete.key in self.entries else []

    def _store(self, change: Change) -> None:
        entry = change.entry
        if entry is None:
            self._database.execute("DELETE FROM entries WHERE key = ?", (change.key,))
        else:
            self._database.execute(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)",
                (change.key, entry.value, entry.created, entry.modified, entry.lease),
            )

    def _size(self, key: str) -> int:
        entry = self.entries.get(key)
        return 0 if entry is None else entry.size(key)

    # Leases

    def grant(self, seconds: int) -> int:
        if not 0 < seconds <= 10**9 or len(self._leases) >= _MAX_LEASES:
            raise Invalid("no lease can be given")
        lease = secrets.randbits(62) | 1
        with _writing(self._database):
            self._database.execute("INSERT INTO leases VALUES (?, ?)", (lease, seconds))
        self._leases[lease] = seconds
        self._ends[lease] = self._now() + seconds
        return lease

    def keep(self, lease: int) -> int:
        """Seconds that it lasts from now; 0 when it has ended."""
        seconds = self._leases.get(lease, 0)
        if seconds:
            self._ends[lease] = self._now() + seconds
        return int(seconds)

    def revoke(self, lease: int) -> None:
        """Raises `NotFound`."""
        if lease not in self._leases:
            raise NotFound("requested lease not found")
        self._perform([Delete(key) for key, entry in self.entries.items() if entry.lease == lease])
        with _writing(self._database):
            self._database.execute("DELETE FROM leases WHERE id = ?", (lease,))
        del self._leases[lease], self._ends[lease]

    def expire(self) -> bool:
        """End the leases whose time is over; whether there were any."""
        now = self._now()
        over = [lease for lease, end in self._ends.items() if end <= now]
        for lease in over:
            self.revoke(lease)
        return bool(over)


@contextmanager
def _writing(database: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing is on disk. Raises `Unavailable` for a disk that is full or broken."""
    try:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("COMMIT")
    except sqlite3.Error as error:
        raise Unavailable(f"the cluster's store can not be written: {error}") from error
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")
