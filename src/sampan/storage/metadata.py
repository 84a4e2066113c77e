"""The metadata database: small documents by table and key, in SQLite (WAL) at `<root>/metadata.db`.

Values are opaque bytes: what a document means is its owner's business (image records are known to
`images.py`, containers to the engine). A daemon keeps its working copy in memory; this is where it comes
from after a restart, so calls are short and few.

Durability. SQLite's WAL survives the death of the process at any instant whatever `synchronous` says; only
a power failure can take the last commits back, and only with `synchronous=NORMAL`. A commit is therefore
flushed (`FULL`) unless losing it would lose nothing that was acknowledged: what can be derived again or
describes running processes.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sampan.errors import Conflict, Internal, SampanError, Unavailable

SCHEMA_VERSION = 1


class Table(enum.Enum):
    """The closed set of tables. Adding one needs no migration: tables are created when missing."""

    IMAGES = "images"  # image id -> images.ImageRecord
    TAGS = "tags"  # full reference (tagged or by digest) -> index_model.Target
    INDEXES = "indexes"  # index digest -> index_model.IndexRecord
    BLOBS = "blobs"  # diff-id -> images.BlobRecord
    CONTAINERS = "containers"
    NETWORKS = "networks"
    VOLUMES = "volumes"
    SNAPSHOTS = "snapshots"
    BUILD_CACHE = "build_cache"
    BUILD_INPUTS = "build_inputs"  # see build.solver.inputs
    CACHE_MOUNTS = "cache_mounts"
    SETTINGS = "settings"


WAL_BYTES = 6 << 20
"""What the journal has from the start: more than the 1000 pages of 4 KiB (with their headers) that SQLite lets it
grow to before it copies them into the database and begins anew ("Automatic Checkpoint" in SQLite's wal.html)."""

RELAXED = frozenset({Table.BLOBS, Table.BUILD_CACHE, Table.BUILD_INPUTS, Table.CACHE_MOUNTS, Table.SNAPSHOTS})
"""Tables whose commits are not flushed to disk unless `durable=True` is given."""


_OWN_NAMES = frozenset(
    (
        *("daemon.lock", "metadata.db", "metadata.db-wal", "metadata.db-shm", "lost+found"),
        *("content", "layers", "snapshots", "containers", "volumes", "builds", "caches"),
    )
)
"""What a root has in it (see docs/architecture.md), or a file system made for one."""


class RootLock:
    """Holds `<root>/daemon.lock` (flock), so that one daemon at a time uses a root."""

    def __init__(self, root: Path) -> None:
        """Raises `Conflict`, naming the other's pid, when another process holds the root."""
        root.mkdir(parents=True, exist_ok=True)
        if _is_ours(root):
            # Whatever modes files have in images, containers and volumes: no other user of the host may come at
            # them, let alone run what a container has made set-user-id (CVE-2021-41091 of another engine).
            os.chmod(root, 0o710)
        path = root / "daemon.lock"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise _translated(error, path) from error
            raise Conflict(
                f"root {root} is in use by another sampan daemon (pid {holder})",
                hint="stop that daemon, or give this one a root of its own with --root",
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Idempotent. The file stays: removing it would let two daemons lock two different files."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _is_ours(root: Path) -> bool:
    """Nothing but an engine's: a root that is also somebody else's directory (/srv, say) keeps its mode."""
    return _OWN_NAMES.issuperset(entry.name for entry in root.iterdir())


class Metadata:
    """Thread-safe. One connection writes, another reads; both are used under a lock of their own."""

    def __init__(self, root: Path) -> None:
        """Opens or creates the database below `root` and locks the root.

        Raises `Conflict` when another daemon uses this root, `Internal` when the database is damaged or was
        written by a newer version, `Unavailable` when the disk is full.
        """
        self._lock = RootLock(root)
        self._path = root / "metadata.db"
        self._writing = threading.RLock()
        self._reading = threading.Lock()
        self._owner: int | None = None
        self._depth = 0
        self._synchronous = ""
        try:
            with self._translating():
                self._writer = self._connect()
                self._prepare_schema()
                self._reader = self._connect()
                self._set_space_aside()
        except BaseException:
            self._lock.release()
            raise

    def get(self, table: Table, key: str) -> bytes | None:
        rows = self._read(f"SELECT body FROM {table.value} WHERE key = ?", (key,))
        return bytes(rows[0][0]) if rows else None

    def items(self, table: Table, prefix: str = "") -> list[tuple[str, bytes]]:
        """All documents of a table in key order; only keys that begin with `prefix`."""
        query = f"SELECT key, body FROM {table.value}"
        if not prefix:
            rows = self._read(query + " ORDER BY key", ())
        else:
            rows = self._read(query + " WHERE substr(key, 1, ?) = ? ORDER BY key", (len(prefix), prefix))
        return [(str(key), bytes(body)) for key, body in rows]

    def put(self, table: Table, key: str, body: bytes, *, durable: bool | None = None) -> None:
        """Insert or replace. `durable` None: as the table's default says (see `RELAXED`)."""
        flush = table not in RELAXED if durable is None else durable
        self._write(f"INSERT OR REPLACE INTO {table.value} (key, body) VALUES (?, ?)", (key, body), flush)

    def delete(self, table: Table, key: str, *, durable: bool | None = None) -> None:
        """Deleting what is not there is no error."""
        flush = table not in RELAXED if durable is None else durable
        self._write(f"DELETE FROM {table.value} WHERE key = ?", (key,), flush)

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """All writes of this thread inside the block become visible together, or not at all.

        Nested blocks join the outer one. Other threads' writes wait; reads don't and see the old state.
        """
        with self._writing:
            if self._depth:
                yield
                return
            self._begin(durable)
            try:
                yield
            except BaseException:
                self._end("ROLLBACK")
                raise
            self._end("COMMIT")

    def close(self) -> None:
        """Idempotent. Releases the root."""
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()
            self._lock.release()

    def _begin(self, durable: bool) -> None:
        with self._translating():
            self._set_synchronous(durable)
            self._writer.execute("BEGIN IMMEDIATE")
        self._owner = threading.get_ident()
        self._depth = 1

    def _end(self, statement: str) -> None:
        try:
            with self._translating():
                if self._writer.in_transaction:  # SQLite itself rolls back on a full disk
                    self._writer.execute(statement)
        except SampanError:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        finally:
            self._depth = 0
            self._owner = None

    def _write(self, query: str, values: tuple[object, ...], durable: bool) -> None:
        with self._writing, self._translating():
            if not self._depth:
                self._set_synchronous(durable)
            self._writer.execute(query, values)

    def _read(self, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if self._owner == threading.get_ident():  # inside its own transaction a thread sees its own writes
            with self._translating():
                return self._writer.execute(query, values).fetchall()
        with self._reading, self._translating():
            return self._reader.execute(query, values).fetchall()

    def _set_synchronous(self, durable: bool) -> None:
        wanted = "FULL" if durable else "NORMAL"
        if wanted != self._synchronous:
            self._writer.execute(f"PRAGMA synchronous = {wanted}")
            self._synchronous = wanted

    def _connect(self) -> sqlite3.Connection:
        # It holds containers' environments, which hold secrets. The journals get the database's mode.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.chmod(self._path, 0o600)
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.execute("PRAGMA journal_mode = WAL")
        return connection

    def _set_space_aside(self) -> None:
        """Give the journal its blocks now: on a full disk what is removed has to be written down too.

        SQLite takes no notice: where the journal ends is said by its frames' checksums, not by the file's size.
        """
        fd = os.open(f"{self._path}-wal", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_fallocate(fd, 0, WAL_BYTES)
        except OSError as error:
            # A disk that is full already: as good as it was. A file system that can't (EOPNOTSUPP, EINVAL) neither.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EOPNOTSUPP, errno.EINVAL):
                raise
        finally:
            os.close(fd)

    def _prepare_schema(self) -> None:
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise Internal(
                f"{self._path} was written by a newer sampan (schema {version}, this one knows {SCHEMA_VERSION})",
                hint="use that version, or give this one another root with --root",
            )
        for table in Table:
            self._writer.execute(
                f"CREATE TABLE IF NOT EXISTS {table.value} (key TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID"
            )
        if version != SCHEMA_VERSION:
            self._writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _translated(error, self._path) from error


def _translated(error: sqlite3.Error | OSError, path: Path) -> SampanError:
    if isinstance(error, OSError):
        return storage_error(error, path)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return no_space(path)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Internal(
            f"the metadata database {path} is damaged: {error}",
            hint="restore it from a backup, or move it away to start with an empty one",
        )
    return Internal(f"metadata database {path}: {error}")


def no_space(path: Path | str) -> Unavailable:
    return Unavailable(
        f"no space left on device: {path}",
        hint="free some space, e.g. with `sampan system prune`, and try again",
    )


def storage_error(error: OSError, path: Path | str) -> SampanError:
    """What an error of the file system below `path` means to a person."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space(path)
    return Internal(f"{path}: {error.strerror or error}")
