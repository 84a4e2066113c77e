"""The client's side of volume backups: where one is (a file, a registry, a snapshot), files read and written."""

from __future__ import annotations

import os
import re

from sampan.cli.failure import Failure
from sampan.client.codec import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, BinaryIO

_FOOTER = 256
_FOOTER_MAGIC = b"\x5a\x2a\x4d\x18"
_MANIFEST_MAX = 256 << 20
_CHUNK = 1 << 20
_SNAPSHOT = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*@[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_HOST = re.compile(r"(?:[^/]*[.:][^/]*|localhost)/.+")
STDOUT_STREAM = 1


class Place:
    """What a command line names. kind: file, stream ("-"), registry, snapshot or volume."""

    __slots__ = ("kind", "text")

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        self.text = text

    @property
    def query(self) -> str:
        """As the API names it, where the engine has it."""
        return f"{self.kind}:{self.text}" if self.kind in ("registry", "snapshot") else "upload"


def parse_place(text: str, *, volumes: bool = False) -> Place:
    """`volumes`: a name without a slash is a volume's; else it is a file's.

    A registry's reference begins with a host, as `registry.example/backups/pg` or `localhost:5000/pg`; where that is
    a directory here, it is a file's path. `oci://` and a leading `/` or `./` leave no doubt.
    """
    if text == "-":
        return Place("stream", text)
    if text.startswith("oci://"):
        return Place("registry", text.removeprefix("oci://"))
    if text.startswith(("/", "./", "../")):
        return Place("file", text)
    if _SNAPSHOT.fullmatch(text):
        return Place("snapshot", text)
    if _HOST.fullmatch(text) and not os.path.isdir(text.split("/", 1)[0]):
        return Place("registry", text)
    if volumes and "/" not in text:
        return Place("volume", text)
    return Place("file", text)


class BackupFile:
    """A backup's file that is open. id, base: as its end says; "" for what can't be looked into (a pipe)."""

    def __init__(self, path: str) -> None:
        """Raises `Failure` when it can't be opened, or is no backup."""
        try:
            self.file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise Failure(f"open {path}: {(error.strerror or '').lower()}") from None
        self.path = path
        self.id = self.base = ""
        self._offset = self._length = 0
        self.size = 0
        if self.file.seekable():
            self._read_footer()

    def close(self) -> None:
        self.file.close()

    def _read_footer(self) -> None:
        self.size = self.file.seek(0, os.SEEK_END)
        self.file.seek(max(self.size - _FOOTER, 0))
        raw = self.file.read(_FOOTER)
        self.file.seek(0)
        try:
            if len(raw) < _FOOTER or not raw.startswith(_FOOTER_MAGIC):
                raise ValueError
            footer = loads(raw[8:])
            self.id, self.base = str(footer["id"]), str(footer["base"])
            self._offset, self._length = int(footer["at"]), int(footer["len"])
        except (ValueError, KeyError, TypeError):
            raise Failure(
                f"{self.path} is no backup of a volume, or its end is missing",
                hint="a backup that was cut off can't be restored",
            ) from None

    def manifest(self) -> bytes:
        """Compressed, as it is in the file. Raises `Failure`."""
        if not self._length:
            raise Failure(f"{self.path}: the base of a backup has to be a file that can be read from its end")
        if self._length > _MANIFEST_MAX or self._offset + self._length > self.size:
            raise Failure(f"{self.path}: its end is damaged")
        self.file.seek(self._offset)
        return self.file.read(self._length)


def in_order(last: BackupFile | None, bases: list[BackupFile]) -> list[BackupFile]:
    """The bases from the oldest on, by what each says is its own base. Raises `Failure` for one that is none."""
    # A backup of what has not changed has its base's id: the whole one will do.
    known = {one.id: one for one in sorted(bases, key=lambda one: not one.base) if one.id}
    if last is None:
        needed = {one.base for one in bases}
        tips = [one for one in bases if one.id not in needed]
        if len(tips) != 1:
            return bases
        wanted = tips[0].id
    else:
        wanted = last.base
    chain: list[BackupFile] = []
    while wanted in known:
        chain.insert(0, known.pop(wanted))
        wanted = chain[0].base
    if known:
        other = next(iter(known.values()))
        raise Failure(f"{other.path} is no base of the backup")
    return chain + [one for one in bases if not one.id]


def upload(files: Iterable[tuple[BinaryIO, str]], sent: Callable[[int], object]) -> Iterator[bytes]:
    """The body of a restore: each file in pieces with their lengths before them, ended by a length 0."""
    done = 0
    for file, path in files:
        while True:
            try:
                data = file.read(_CHUNK)
            except OSError as error:
                raise Failure(f"read {path}: {(error.strerror or '').lower()}") from None
            if not data:
                break
            yield len(data).to_bytes(4, "big")
            yield data
            done += len(data)
            sent(done)
        yield bytes(4)


def frames(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Docker's frames: (stream, data). Data of the archive comes in pieces, a message whole."""
    head = b""
    stream = left = 0
    message: list[bytes] = []
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            if not left:
                taken = chunk[at : at + 8 - len(head)]
                head += taken
                at += len(taken)
                if len(head) < 8:
                    break
                stream, left, head = head[0], int.from_bytes(head[4:8], "big"), b""
                continue
            data = chunk[at : at + left] if at or left < len(chunk) else chunk
            at += len(data)
            left -= len(data)
            if stream == STDOUT_STREAM:
                yield stream, data
                continue
            message.append(data)
            if not left:
                yield stream, b"".join(message)
                message.clear()


def is_ours(client: Any) -> None:
    """Raises `Failure` for another engine, which knows nothing of backups."""
    if not client.is_sampan():
        raise Failure("the engine is not sampan: it makes no backups of volumes")
