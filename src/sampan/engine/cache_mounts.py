"""The directories behind `RUN --mount=type=cache`: named, counted, removed; never while a build may use them."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from sampan.engine.volumes.sizes import directory_size
from sampan.errors import Conflict, NotFound, SampanError
from sampan.storage.extract import ExtractOptions, extract_tar
from sampan.storage.layer_blobs import Sink
from sampan.storage.metadata import Metadata, Table
from sampan.storage.removal import remove_entry, remove_tree
from sampan.storage.tar_writer import write_tree

_IMPORTED = ExtractOptions(devices=False)
"""A cache needs no devices, and a RUN could open them."""
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

    def open(
        self, cache_id: str, name: str, touch: Callable[[str], None], fill: Callable[[int], None]
    ) -> int:
        """A descriptor of the mount's directory, which stays the caller's; made when missing, and filled by `fill`.

        `touch` is told its name before it can be removed.
        """
        path = self._root / name
        with self._lock:
            touch(name)
            now = int(time.time())
            known = self._record(name)
            record = CacheMountRecord(cache_id, known.created or now, now, known.uses + 1)
            self._metadata.put(Table.CACHE_MOUNTS, name, msgspec.json.encode(record))
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            self._make(path, fill)
        return os.open(path, flags)

    def _make(self, path: Path, fill: Callable[[int], None]) -> None:
        """It appears when it is complete; another build that makes it meanwhile may be faster."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o755)
        fresh = self._root / f"remove-{secrets.token_hex(8)}"  # the name that the next start sweeps up
        fresh.mkdir(mode=0o755)
        try:
            fd = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fill(fd)
            finally:
                os.close(fd)
            with self._lock:
                if not path.exists():
                    os.rename(fresh, path)
                    return
        except BaseException:
            remove_tree(fresh)
            raise
        remove_tree(fresh)

    def find(self, cache_id: str) -> str:
        """The name of the mount's directory. Raises `NotFound`, `Conflict`.

        The plain mount of that id, else the only one of it that has an owner, a mode or a beginning of its own; a
        name, as `builder du` shows it, is one too.
        """
        plain = name_of(cache_id)
        if (self._root / plain).is_dir():
            return plain
        if _NAME.fullmatch(cache_id) and (self._root / cache_id).is_dir():
            return cache_id
        names = [name for name in self._names() if self._record(name).id == cache_id]
        if len(names) > 1:
            raise Conflict(
                f"several cache mounts have the id {cache_id}", hint="give one's name: " + ", ".join(names)
            )
        if not names:
            raise NotFound(f"No such cache mount: {cache_id}", hint="`sampan builder du` lists them")
        return names[0]

    def of_ids(self, ids: Collection[str]) -> dict[str, str]:
        """The directories of these ids: name -> id."""
        found = {name: self._record(name).id for name in self._names()} if ids else {}
        return {name: cache_id for name, cache_id in found.items() if cache_id in ids}

    def write_tar(self, name: str, out: Sink) -> None:
        """The content of the mount with that directory as a tar. The caller keeps it in use. Raises `NotFound`."""
        try:
            fd = os.open(self._root / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"cache mount {name} was removed meanwhile") from None
        try:
            write_tree(fd, out)
        finally:
            os.close(fd)

    def replace(self, cache_id: str, tar: Iterable[bytes]) -> None:
        """Give the mount the content of a tar, plain or compressed.

        It is unpacked beside it and takes its place when it is complete; until then, and whatever is wrong with
        the tar, the old content stays. Raises `Invalid`, and `Conflict` while a build uses the mount.
        """
        self._root.mkdir(parents=True, exist_ok=True, mode=0o755)
        fresh = self._root / f"remove-{secrets.token_hex(8)}"  # the name that the next start sweeps up
        fresh.mkdir(mode=0o755)
        try:
            fd = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                extract_tar(tar, fd, _IMPORTED)
            finally:
                os.close(fd)
            self._put_in_place(cache_id, fresh)
        finally:
            remove_tree(fresh)

    def _put_in_place(self, cache_id: str, fresh: Path) -> None:
        try:
            name = self.find(cache_id)
        except NotFound:
            name = name_of(cache_id)
        known = self._record(name)
        aside = self._root / f"remove-{secrets.token_hex(8)}"
        now = int(time.time())
        with self._lock:
            if self._in_use(name):
                raise Conflict(f"cache mount {cache_id} is in use by a build")
            record = CacheMountRecord(known.id or cache_id, now, now, 0)
            self._metadata.put(Table.CACHE_MOUNTS, name, msgspec.json.encode(record))
            if (self._root / name).exists():
                info = (self._root / name).stat()
                os.chown(fresh, info.st_uid, info.st_gid)
                os.chmod(fresh, stat.S_IMODE(info.st_mode))
                os.rename(self._root / name, aside)
            os.rename(fresh, self._root / name)
        remove_tree(aside)

    def empty_directory(self) -> Path:
        """A directory with nothing in it: what a build from scratch stands on."""
        path = self._root / "empty"
        path.mkdir(parents=True, exist_ok=True, mode=0o755)
        return path

    def list(self) -> list[CacheMount]:
        """With their sizes, in bytes of file data. A directory without a record has an empty one."""
        return [
            CacheMount(name, self._dated(name), directory_size(self._root / name)) for name in self._names()
        ]

    def _names(self) -> Sequence[str]:
        if not self._root.exists():
            return []
        return sorted(name for name in os.listdir(self._root) if _NAME.fullmatch(name))

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


def fill(directory: int, tar: BinaryIO) -> None:
    """Unpack the content of a cache mount into an empty directory, which is empty again when that fails.

    Raises `Invalid`, `Unavailable`.
    """
    try:
        extract_tar(tar, directory, _IMPORTED)
    except SampanError:
        for entry in os.listdir(directory):
            remove_entry(directory, entry)
        raise


class Writer:
    """A function as the sink of a tar."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, data: bytes, /) -> object:
        return self._write(data)


def name_of(cache_id: str) -> str:
    return hashlib.sha256(cache_id.encode("utf-8", "surrogateescape")).hexdigest()
