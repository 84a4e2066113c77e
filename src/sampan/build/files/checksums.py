"""What is known of files' content: SHA-256 by identity, kept between builds of one directory.

An entry is found again only when device, inode, size, mtime and ctime are the same. ctime is what a program can't
set: it makes the difference to CVE-2024-24557, where equal metadata was taken for equal content. Clocks are coarse,
though: a file that changed less than `SETTLED` before it was hashed may change once more within the same tick, so
that its checksum is used for this build only (git calls such entries racy). A program that writes through a shared
mapping changes ctime when the page is first written; what it writes later through that page is not seen before the
kernel has written the page back.

On disk, for each directory that is built from:
    NAME.trees   fingerprints (all metadata of a selection) with the selection's checksum
    NAME.files   the files' checksums; read only when a fingerprint is not found
Both begin with `_MAGIC` and the SHA-256 of the rest, and are replaced by renaming: what is damaged is not believed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sampan.build.files.scan import Entry

log = logging.getLogger(__name__)

SETTLED = 2_000_000_000
"""Nanoseconds between a file's last change and its hashing from which on its ctime tells of any later change."""
MAX_FILES = 200_000
MAX_TREES = 256
MAX_BYTES = 128 << 20
"""Of all directories together."""
_MAGIC = b"sampan checksums 1\n"
_RECORD = struct.Struct("<QQqqq32s")
"""Device, inode, size, mtime and ctime in nanoseconds, SHA-256."""

Known = tuple[int, int, int, bytes]
"""Size, mtime, ctime, SHA-256."""


class Checksums:
    """Thread-safe. Without a path it lasts as long as the object."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: where to keep them, without suffix. Nothing is read before it is asked for."""
        self._path = path
        self._lock = threading.Lock()
        self._files: dict[tuple[int, int], Known] = {}
        self._kept: dict[tuple[int, int], Known] | None = None
        self._trees: dict[str, str] | None = None
        self._new_files = False
        self._new_trees = False

    @property
    def lasts(self) -> bool:
        return self._path is not None

    def find(self, entry: Entry) -> bytes | None:
        """The SHA-256 of the file's content, when it is known."""
        with self._lock:
            known = self._files.get(entry.inode) or self._kept_files().get(entry.inode)
        if known is None or known[:3] != (entry.size, entry.mtime_ns, entry.ctime_ns):
            return None
        return known[3]

    def add(self, entry: Entry, digest: bytes, hashed_ns: int) -> None:
        """`hashed_ns`: the time before the first byte was read, nanoseconds since the epoch."""
        known = (entry.size, entry.mtime_ns, entry.ctime_ns, digest)
        with self._lock:
            if self.lasts and _is_settled(entry, hashed_ns):
                self._kept_files()[entry.inode] = known
                self._files.pop(entry.inode, None)
                self._new_files = True
            else:
                self._files[entry.inode] = known

    def is_settled(self, entry: Entry) -> bool:
        """Whether the file's status alone tells that its content is still what was hashed."""
        with self._lock:
            return entry.inode not in self._files

    def find_tree(self, fingerprint: str) -> str | None:
        with self._lock:
            return self._kept_trees().get(fingerprint)

    def add_tree(self, fingerprint: str, checksum: str, entries: Iterable[Entry], hashed_ns: int) -> None:
        """Only when all of its files are settled."""
        if not self.lasts or not all(_is_settled(entry, hashed_ns) for entry in entries):
            return
        with self._lock:
            self._kept_trees()[fingerprint] = checksum
            self._new_trees = True

    def save(self) -> None:
        """Write what is new; a failure costs speed and nothing else."""
        if self._path is None:
            return
        with self._lock:
            try:
                if self._new_files:
                    _write(self._path.with_suffix(".files"), _encode_files(self._kept_files()))
                if self._new_trees:
                    newest = dict(list(self._kept_trees().items())[-MAX_TREES:])
                    _write(self._path.with_suffix(".trees"), msgspec.msgpack.encode(newest))
            except OSError as error:
                log.warning("checksums of a build context could not be kept: %s", error)
            if self._new_files:
                _bound(self._path.parent)
            self._new_files = self._new_trees = False

    def _kept_files(self) -> dict[tuple[int, int], Known]:
        if self._kept is None:
            data = b"" if self._path is None else _read(self._path.with_suffix(".files"))
            whole = len(data) - len(data) % _RECORD.size
            self._kept = {
                (dev, ino): (size, mtime, ctime, digest)
                for dev, ino, size, mtime, ctime, digest in _RECORD.iter_unpack(data[:whole])
            }
        return self._kept

    def _kept_trees(self) -> dict[str, str]:
        if self._trees is None:
            data = b"" if self._path is None else _read(self._path.with_suffix(".trees"))
            try:
                self._trees = msgspec.msgpack.decode(data, type=dict[str, str]) if data else {}
            except msgspec.DecodeError:
                self._trees = {}
        return self._trees


def _is_settled(entry: Entry, at_ns: int) -> bool:
    return entry.ctime_ns < at_ns - SETTLED


def checksums_of(directory_fd: int, store: Path) -> Checksums:
    """Those of earlier builds from this directory, kept in `store`."""
    info = os.fstat(directory_fd)
    filesystem = os.statvfs(directory_fd).f_fsid
    return Checksums(store / f"{filesystem:x}-{info.st_dev:x}-{info.st_ino:x}")


@dataclass(frozen=True, slots=True)
class KeptDirectory:
    """What is kept of one directory that was built from. `used`: seconds since the epoch, of the last change."""

    name: str
    size: int
    used: float


def kept_directories(store: Path) -> list[KeptDirectory]:
    found: dict[str, KeptDirectory] = {}
    for path in store.iterdir() if store.is_dir() else ():
        name = path.name.partition(".")[0]
        try:
            info = path.stat()
        except FileNotFoundError:
            continue
        known = found.get(name, KeptDirectory(name, 0, 0.0))
        found[name] = KeptDirectory(name, known.size + info.st_size, max(known.used, info.st_mtime))
    return list(found.values())


def forget_directory(store: Path, name: str) -> int:
    """The bytes that were freed. Its next build reads every file again."""
    freed = 0
    for path in store.iterdir() if store.is_dir() else ():
        if path.name.partition(".")[0] == name:
            freed += path.stat().st_size
            path.unlink(missing_ok=True)
    return freed


def _encode_files(known: dict[tuple[int, int], Known]) -> bytes:
    newest = list(known.items())[-MAX_FILES:]
    return b"".join(_RECORD.pack(*inode, *rest) for inode, rest in newest)


def _read(path: Path) -> bytes:
    """What was written, b"" when there is nothing or something else."""
    try:
        data = path.read_bytes()
    except OSError:
        return b""
    head, payload = data[: len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
    return payload if head == _MAGIC + hashlib.sha256(payload).digest() else b""


def _write(path: Path, payload: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        fresh.write_bytes(_MAGIC + hashlib.sha256(payload).digest() + payload)
        os.rename(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def _bound(store: Path) -> None:
    """Remove the oldest files until all of them take at most `MAX_BYTES`."""
    found: list[tuple[int, int, str]] = []
    with os.scandir(store) as items:
        for item in items:
            info = item.stat(follow_symlinks=False)
            found.append((info.st_mtime_ns, info.st_size, item.path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= MAX_BYTES:
            return
        Path(path).unlink(missing_ok=True)
        total -= size
