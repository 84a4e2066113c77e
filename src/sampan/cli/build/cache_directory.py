"""A build cache in a directory on this side: an OCI image layout, read and written as the engine asks.

The questions are those of `engine/cache_layout.py`. What is written appears when it is complete: blobs get their names
when they have the digest that they should have, and index.json is replaced last. So a reader, and whoever comes after a
client that was killed, finds the cache as it was or the new one. BuildKit can use the directory at the same time:
index.json is changed under the lock that it takes too.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import contextmanager

from sampan.cli.build.cache_pruning import prune, require_complete
from sampan.cli.replacing import Replacing
from sampan.cli.streams import write_all
from sampan.client.codec import dumps, loads
from sampan.errors import Invalid, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from sampan.multiplex.link import Stream

_MAX_QUESTION = 16 << 10
_MAX_INDEX = 4 << 20
_PIECE = 1 << 16
_REF_NAME = "org.opencontainers.image.ref.name"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_UNDER_WAY = "sampan-"
"""How files in ingest/ begin that are being written: each is locked by its writer."""


class CacheDirectory:
    """`tag`: which one of index.json's manifests is this cache. `pruned`: what no manifest has goes after an export."""

    def __init__(self, path: str, tag: str, *, writable: bool, pruned: bool = False) -> None:
        self._path = path
        self._tag = tag
        self._writable = writable
        self._pruned = pruned

    def prepare(self) -> None:
        """Make the directory: better now than after a long build. Raises `OSError`."""
        if self._writable:
            os.makedirs(os.path.join(self._path, "blobs", "sha256"), exist_ok=True)

    def serve(self, stream: Stream) -> None:
        """One question. Raises `SampanError`, `OSError`."""
        question, rest = _question(stream)
        ask = question.get("ask")
        if ask in ("index", "blob") and not self._writable:
            self._send(stream, "index.json" if ask == "index" else _blob_name(question))
        elif ask == "has" and self._writable:
            stream.write(b"1" if self._has(question) else b"")
        elif ask == "store" and self._writable:
            self._store(stream, question, rest)
        elif ask == "name" and self._writable:
            self._name(question)
        else:
            raise Invalid("the engine asked for something that this cache does not do")
        stream.end()

    def _send(self, stream: Stream, name: str) -> None:
        with _opened(os.path.join(self._path, name)) as file:
            while piece := file.read(_PIECE):
                stream.write(piece)

    def _has(self, question: dict[str, Any]) -> bool:
        """One of another size was broken by a crash of this host: it is written again."""
        try:
            status = os.stat(os.path.join(self._path, _blob_name(question)))
        except FileNotFoundError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == question.get("size")

    def _store(self, stream: Stream, question: dict[str, Any], rest: bytes) -> None:
        from hashlib import sha256

        name = os.path.join(self._path, _blob_name(question))
        ingest = os.path.join(self._path, "ingest")
        os.makedirs(os.path.dirname(name), exist_ok=True)
        os.makedirs(ingest, exist_ok=True)
        with _being_written(ingest) as (fd, temporary):
            digest, size = sha256(rest), len(rest)
            write_all(fd, rest)
            while piece := stream.read():
                digest.update(piece)
                size += len(piece)
                write_all(fd, piece)
            if (f"sha256:{digest.hexdigest()}", size) != (question.get("digest"), question.get("size")):
                raise Invalid(f"the engine sent other bytes than those of {question.get('digest')}")
            os.rename(temporary, name)

    def _name(self, question: dict[str, Any]) -> None:
        manifest = question.get("manifest")
        if not isinstance(manifest, dict) or not isinstance(manifest.get("digest"), str):
            raise Invalid("the engine named no manifest")
        _sweep(os.path.join(self._path, "ingest"))
        with _locked(os.path.join(self._path, "index.json.lock")):
            require_complete(self._path, manifest["digest"])
            index = self._index()
            index["manifests"] = [one for one in index["manifests"] if _tag_of(one) != self._tag]
            index["manifests"].append({**manifest, "annotations": {_REF_NAME: self._tag}})
            layout = os.path.join(self._path, "oci-layout")
            if not os.path.exists(layout):
                _replace(layout, b'{"imageLayoutVersion":"1.0.0"}')
            _replace(os.path.join(self._path, "index.json"), dumps(index).encode())
            if self._pruned:
                prune(self._path, index)

    def _index(self) -> dict[str, Any]:
        """index.json, or a new one. Raises `Invalid` for a file of this name that is something else."""
        path = os.path.join(self._path, "index.json")
        raw = b""
        if os.path.exists(path):
            with _opened(path) as file:
                raw = file.read(_MAX_INDEX + 1)
        if not raw:
            return {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": []}
        try:
            index = loads(raw.decode())
        except (ValueError, RecursionError):
            index = None
        manifests = index.get("manifests") if isinstance(index, dict) else None
        if not isinstance(manifests, list) or len(raw) > _MAX_INDEX:
            raise Invalid(f"{path} is no image index", hint="remove it, or export the cache elsewhere")
        return {**index, "manifests": manifests}


def _tag_of(entry: object) -> object:
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    return annotations.get(_REF_NAME) if isinstance(annotations, dict) else None


def _question(stream: Stream) -> tuple[dict[str, Any], bytes]:
    """The line, and what came with it. Raises `Invalid`."""
    data = b""
    while b"\n" not in data:
        piece = stream.read()
        data += piece
        if not piece or len(data) > _MAX_QUESTION + _PIECE:
            raise Invalid("the engine asked nothing")
    line, _, rest = data.partition(b"\n")
    try:
        question = loads(line.decode())
    except (ValueError, RecursionError):
        question = None
    if not isinstance(question, dict):
        raise Invalid("the engine asked for something that this client does not know")
    return question, rest


def _blob_name(question: dict[str, Any]) -> str:
    digest = question.get("digest")
    name = digest.removeprefix("sha256:") if isinstance(digest, str) else ""
    if len(name) != 64 or not set(name) <= set("0123456789abcdef"):
        raise Invalid("the engine asked for a blob without a digest")
    return os.path.join("blobs", "sha256", name)


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """A regular file, whatever else somebody has put there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"open {path}: no such file or directory") from None
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Invalid(f"{path} is no regular file")
        yield file


@contextmanager
def _being_written(ingest: str) -> Iterator[tuple[int, str]]:
    """A new file with a lock on it, and its name; without one in the end unless it got another."""
    while True:
        name = os.path.join(ingest, f"{_UNDER_WAY}{os.urandom(8).hex()}")
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            break
        os.close(fd)  # somebody swept it up before it had its lock
    try:
        yield fd, name
    finally:
        os.close(fd)
        if os.path.exists(name):
            os.unlink(name)


def _sweep(ingest: str) -> None:
    """Remove what clients that were killed have left: what nobody has a lock on."""
    for name in os.listdir(ingest) if os.path.isdir(ingest) else ():
        if not name.startswith(_UNDER_WAY):
            continue
        path = os.path.join(ingest, name)
        try:
            with _opened(path) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
        except (BlockingIOError, NotFound, FileNotFoundError):
            continue


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """As BuildKit locks it: by a file that is removed when its lock is given up."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            break
        os.close(fd)
    try:
        yield
    finally:
        os.unlink(path)
        os.close(fd)


def _replace(path: str, data: bytes) -> None:
    """At once, and on disk before it has its name: an empty file after a crash would be no index."""
    with Replacing(path) as fd:
        write_all(fd, data)
        os.fsync(fd)
