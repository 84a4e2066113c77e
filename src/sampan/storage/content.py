"""The content store: blobs by digest, in an OCI image layout (image-spec image-layout.md).

    oci-layout  index.json  blobs/sha256/<hex>      complete and verified
    ingest/<hex>                                    partial, named by the digest it is going to have
    ingest/tmp-<random>                             being written, digest not known yet; swept at start

A partial blob is kept until it is complete, also over a restart. The running hash cannot be saved, so the
bytes that are there are hashed again when the ingest is taken up.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from sampan.errors import Conflict, Invalid, NotFound
from sampan.linux.durability import sync_directory
from sampan.oci.digest import Digest, digest_of, hex_of, parse_digest
from sampan.storage.metadata import storage_error

BLOCK = 1 << 20
"""Bytes read or hashed at a time."""

PARTIAL_MAX_AGE = 7 * 24 * 3600
"""Seconds after which `sweep` gives up on a partial blob nobody has written to."""


class ContentStore:
    """Thread-safe; one process at a time (the metadata database holds the root's lock)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._ingests = root / "ingest"
        self._turn = threading.Condition()
        self._active: set[Digest] = set()
        self._temporary: set[str] = set()
        with _translating(root):
            root.mkdir(parents=True, exist_ok=True)
            os.chmod(root, 0o700)
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._ingests.mkdir(exist_ok=True)
            _write_if_absent(root / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            _write_if_absent(root / "index.json", b'{"schemaVersion":2,"manifests":[]}')

    def path(self, digest: Digest) -> Path:
        """Where a complete blob lies; nothing is checked but the digest's form."""
        return self._blobs / hex_of(parse_digest(digest))

    def has(self, digest: Digest) -> bool:
        return self.path(digest).exists()

    def size(self, digest: Digest) -> int:
        """Bytes. Raises `NotFound`."""
        with self._existing(digest) as path:
            return path.stat().st_size

    def age(self, digest: Digest) -> float:
        """Seconds since the blob was completed. Raises `NotFound`."""
        with self._existing(digest) as path:
            return max(0.0, time.time() - path.stat().st_mtime)

    def open(self, digest: Digest) -> BinaryIO:
        """Raises `NotFound`."""
        with self._existing(digest) as path:
            return open(path, "rb")

    def read(self, digest: Digest, limit: int = 4 << 20) -> bytes:
        """The whole blob. Raises `NotFound`, or `Invalid` when it has more than `limit` bytes."""
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise Invalid(f"blob {digest} is larger than {limit} bytes")
        return data

    def put(self, data: bytes) -> Digest:
        digest = digest_of(data)
        if not self.has(digest):
            with self.writer() as writer:
                writer.write(data)
                writer.commit()
        return digest

    def ingest(
        self, digest: Digest, size: int, *, cancelled: Callable[[], bool] = lambda: False
    ) -> BlobIngest:
        """Take up the blob `digest` of `size` bytes where it was left, from nothing at first.

        One ingest per digest at a time: a second one waits for the first to end, then finds what it left
        (`offset == size` when the blob is complete; `commit` does nothing then). `cancelled` is asked while
        waiting; `Conflict` is raised when it says so.
        """
        parse_digest(digest)
        with self._turn:
            while digest in self._active:
                if cancelled():
                    raise Conflict(f"waiting for blob {digest} was cancelled")
                self._turn.wait(0.5)
            self._active.add(digest)
        try:
            return BlobIngest(self, digest, size)
        except BaseException:
            self._ended(digest)
            raise

    def writer(self) -> BlobWriter:
        """A blob whose digest is known only when it is complete."""
        return BlobWriter(self)

    def delete(self, digest: Digest) -> int:
        """Returns the bytes freed; 0 when there was no such blob."""
        path = self.path(digest)
        with _translating(path):
            try:
                size = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                return 0
        return size

    def digests(self) -> Iterator[Digest]:
        for name in sorted(os.listdir(self._blobs)):
            with contextlib.suppress(Invalid):
                yield parse_digest("sha256:" + name)

    def partials(self) -> dict[Digest, int]:
        """Digests of partial blobs, and how many bytes of them are there."""
        found: dict[Digest, int] = {}
        for entry in os.scandir(self._ingests):
            with contextlib.suppress(Invalid, FileNotFoundError):
                found[parse_digest("sha256:" + entry.name)] = entry.stat().st_size
        return found

    def drop_partial(self, digest: Digest) -> None:
        """Forget what an ingest has left; nothing happens while one is under way."""
        with self._turn:
            if digest not in self._active:
                (self._ingests / hex_of(parse_digest(digest))).unlink(missing_ok=True)

    def sweep(self, max_age: float = PARTIAL_MAX_AGE) -> int:
        """Remove rubbish of dead writers and partial blobs older than `max_age` seconds; returns bytes freed."""
        freed = 0
        now = time.time()
        for entry in list(os.scandir(self._ingests)):
            with self._turn:
                busy = entry.name in self._temporary or Digest("sha256:" + entry.name) in self._active
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat()
                    if not busy and (entry.name.startswith("tmp-") or now - status.st_mtime > max_age):
                        os.unlink(entry.path)
                        freed += status.st_size
        return freed

    @contextlib.contextmanager
    def _existing(self, digest: Digest) -> Iterator[Path]:
        path = self.path(digest)
        try:
            with _translating(path):
                yield path
        except FileNotFoundError as error:
            raise NotFound(f"blob {digest} not found in the content store") from error

    def _ended(self, digest: Digest) -> None:
        with self._turn:
            self._active.discard(digest)
            self._turn.notify_all()

    def _new_temporary(self) -> Path:
        name = "tmp-" + secrets.token_hex(12)
        with self._turn:
            self._temporary.add(name)
        return self._ingests / name

    def _temporary_ended(self, path: Path) -> None:
        with self._turn:
            self._temporary.discard(path.name)

    def _publish(self, path: Path, digest: Digest) -> None:
        """Make a complete, flushed file visible under its digest."""
        os.chmod(path, 0o444)
        os.rename(path, self.path(digest))
        sync_directory(self._blobs)


class BlobIngest:
    """A partial blob; a context manager: leaving it keeps what was written, for the next one to take up."""

    def __init__(self, store: ContentStore, digest: Digest, size: int) -> None:
        self.digest = digest
        self.size = size
        self.offset = 0
        self._store = store
        self._path = store._ingests / hex_of(digest)
        self._hash = hashlib.sha256()
        self._fd = -1
        self._open = True
        self.complete = store.has(digest)
        if self.complete:
            found = store.size(digest)
            if found != size:
                raise Invalid(f"blob {digest} has {found} bytes, not {size} as its descriptor says")
            self.offset = size
        else:
            with _translating(self._path):
                self._take_up()

    def __enter__(self) -> BlobIngest:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def existing(self) -> Iterator[bytes]:
        """The bytes that are there (`offset` of them), in large blocks, for a second consumer."""
        path = self._store.path(self.digest) if self.complete else self._path
        left = self.offset
        with _translating(path), open(path, "rb") as file:
            while left:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise Invalid(f"partial blob {self.digest} was truncated by somebody else")
                left -= len(block)
                yield block

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Raises `Invalid` when more comes than the descriptor says; nothing of `data` is kept then."""
        if self.offset + len(data) > self.size:
            raise Invalid(f"blob {self.digest}: more than the expected {self.size} bytes were sent")
        with _translating(self._path):
            _write_all(self._fd, data)
        self._hash.update(data)
        self.offset += len(data)

    def restart(self) -> None:
        """Forget what was written."""
        if self.complete:
            return
        with _translating(self._path):
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.offset = 0

    def commit(self) -> None:
        """Verify size and digest and publish; the blob is on disk when this returns.

        Raises `Invalid`: too short (the partial is kept), or another digest (the partial is dropped).
        """
        if self.complete:
            return
        if self.offset != self.size:
            raise Invalid(f"blob {self.digest}: {self.offset} bytes, expected {self.size}")
        actual = "sha256:" + self._hash.hexdigest()
        if actual != self.digest:
            self.restart()
            os.unlink(self._path)
            raise Invalid(
                f"filesystem layer verification failed for digest {self.digest}",
                hint=f"the bytes that came have the digest {actual}; they were thrown away",
            )
        with _translating(self._path):
            os.fsync(self._fd)
            self._store._publish(self._path, self.digest)
        self.complete = True

    def close(self) -> None:
        """Idempotent; lets the next one in."""
        if not self._open:
            return
        self._open = False
        if self._fd >= 0:
            os.close(self._fd)
        self._store._ended(self.digest)

    def _take_up(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(self._fd).st_size > self.size:
                os.ftruncate(self._fd, 0)
            while block := os.read(self._fd, BLOCK):
                self._hash.update(block)
                self.offset += len(block)
        except BaseException:
            os.close(self._fd)
            raise


class BlobWriter:
    """A blob under way whose digest is not known yet; a context manager: leaving without commit drops it."""

    def __init__(self, store: ContentStore) -> None:
        self.size = 0
        self._store = store
        self._hash = hashlib.sha256()
        self._path = store._new_temporary()
        with _translating(self._path):
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.abort()

    def write(self, data: bytes | bytearray | memoryview) -> int:
        with _translating(self._path):
            _write_all(self._fd, data)
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    def commit(self, expected: Digest | None = None) -> Digest:
        """Publish; the blob is on disk when this returns. Raises `Invalid` when it is not the expected one."""
        digest = Digest("sha256:" + self._hash.hexdigest())
        if expected is not None and digest != expected:
            raise Invalid(f"blob has digest {digest}, expected {expected}")
        with _translating(self._path):
            os.fsync(self._fd)
            self._store._publish(self._path, digest)
        self.abort()
        return digest

    def abort(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._path.unlink(missing_ok=True)
            self._store._temporary_ended(self._path)


def _write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    written = os.write(fd, data)
    if written != len(data):
        view = memoryview(data)
        while written < len(view):
            written += os.write(fd, view[written:])


def _write_if_absent(path: Path, data: bytes) -> None:
    if path.exists():
        return
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(data)
    os.replace(temporary, path)


@contextlib.contextmanager
def _translating(path: Path) -> Iterator[None]:
    """Errors of the file system in words; `FileNotFoundError` passes, it means what it says."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise
        raise storage_error(error, path) from error
