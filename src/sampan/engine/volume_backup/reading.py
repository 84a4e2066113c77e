"""Reading a backup into an empty directory that nobody else sees, believing nothing it says.

The order of the archive is the tree's (`placing` makes the tree). What was unpacked is described in the manifest's
words (`own_manifest`), and the archive's own manifest has to say the same.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from sampan.engine.volume_backup.format import (
    ARCHIVE_LIMITS,
    DATA,
    HEAD_MAX,
    HEAD_NAME,
    MANIFEST_NAME,
    SUMMARY_MAX,
    SUMMARY_NAME,
    Entry,
    Head,
    Summary,
    decode_head,
    decode_summary,
)
from sampan.engine.volume_backup.members import relative, shown
from sampan.engine.volume_backup.own_manifest import OwnManifest
from sampan.engine.volume_backup.placing import Limits, Placing
from sampan.engine.volume_backup.reuse import Bases
from sampan.engine.volume_backup.room import check_room
from sampan.engine.volume_backup.writing import spool
from sampan.errors import Conflict, Invalid, SampanError, Unavailable
from sampan.storage import tar_format as tf
from sampan.storage.decompress import decompressed
from sampan.storage.metadata import no_space
from sampan.storage.tar_format import Member
from sampan.storage.tar_reader import TarReader

_HOST: Final = frozenset({errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_LOOK_EVERY: Final = 64 << 20
_PLAIN_MAX: Final = 1 << 50


@dataclass(slots=True)
class Restored:
    """lost_xattrs: attributes that this file system does not take."""

    head: Head
    summary: Summary
    lost_xattrs: int = 0


def unpack(
    layers: Iterable[Iterable[bytes]],
    root: int,
    directory: Path,
    *,
    bases: Bases | None = None,
    digests: dict[bytes, Entry] | None = None,
    limits: Limits | None = None,
    progress: Callable[[int, int], object] = lambda _size, _total: None,
) -> Restored:
    """Unpack one backup, whose compressed archive is `layers`, into the empty directory `root`.

    directory: where temporary files go, on the same file system. bases: the backup before, where this one has such.
    digests: gets the entry of every file by its path. progress: bytes of files that are there, and what the backup says
    of all (0 when it says nothing). Raises `Invalid` (the backup), `Conflict` (it needs another
    base), `Unavailable` (the disk), and leaves in `root` what was unpacked till then.
    """
    limits = limits or Limits()
    with spool(directory) as lines:
        manifest = OwnManifest(lines)
        placing = Placing(root, manifest, bases, digests, limits, progress)
        try:
            reader = _Unpacking(root, manifest, placing, bases, limits)
            following = iter(layers)
            for layer in following:
                reader.archive(layer, following)
            return reader.finish()
        finally:
            placing.close()


class _Unpacking:
    def __init__(
        self, root: int, manifest: OwnManifest, placing: Placing, bases: Bases | None, limits: Limits
    ) -> None:
        self._root = root
        self._manifest = manifest
        self._placing = placing
        self._bases = bases
        self._limits = limits
        self._head: Head | None = None
        self._summary: Summary | None = None
        self._written = self._looked = 0

    def archive(self, layer: Iterable[bytes], following: Iterator[Iterable[bytes]]) -> None:
        """A layer, and those of the following ones in which its last file goes on."""

        def plain() -> Iterator[bytes]:
            yield from self._watched(decompressed(layer, _PLAIN_MAX))
            while reader.left and (more := next(following, None)) is not None:
                yield from self._watched(decompressed(more, _PLAIN_MAX))

        limits = msgspec.structs.replace(ARCHIVE_LIMITS, members=self._limits.entries + 8)
        reader = TarReader(plain(), limits)
        for member in reader:
            try:
                self._member(member, reader)
            except OSError as error:
                if isinstance(error, ConnectionError):
                    raise
                raise _translated(member.name, error) from error

    def _watched(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """What is small compressed can be more than the disk has: others' room is left to them."""
        for piece in pieces:
            self._written += len(piece)
            if self._written - self._looked >= _LOOK_EVERY:
                self._looked = self._written
                check_room(self._root)
            yield piece

    def _member(self, member: Member, reader: TarReader) -> None:
        name = member.name
        if self._head is None:
            if name != HEAD_NAME or member.type != tf.REGULAR:
                raise Invalid("this is no backup of a volume: it does not begin with its description")
            self._begin(decode_head(_small(member, reader, HEAD_MAX)))
        elif self._summary is not None:
            raise Invalid(f"the backup goes on behind its end: {shown(name)}")
        elif name == MANIFEST_NAME:
            self._manifest.compare(member, reader)
        elif name == SUMMARY_NAME:
            self._end(decode_summary(_small(member, reader, SUMMARY_MAX)))
        elif self._manifest.checked:
            raise Invalid(f"the backup has an entry behind its manifest: {shown(name)}")
        elif name.startswith(DATA + b"/"):
            self._placing.place(relative(name, DATA), member, reader)
        else:
            raise Invalid(f"the backup has an entry that no backup has: {shown(name)}")

    def _begin(self, head: Head) -> None:
        self._head = head
        self._placing.total = head.size
        self._placing.incremental = bool(head.base)
        if not head.base:
            return
        if self._bases is None:
            raise Conflict(
                f"the backup has only what changed since the backup {head.base[:12]}",
                hint="give that one too: --base FILE, a reference or a snapshot",
            )
        if self._bases.id != head.base:
            raise Conflict(
                f"the backup needs the backup {head.base[:12]} as its base, not {self._bases.id[:12]}"
            )

    def _end(self, summary: Summary) -> None:
        if not self._manifest.checked:
            raise Invalid("the backup has no manifest")
        if summary.id != self._manifest.id:
            raise Invalid("the backup is damaged: its summary is about another one")
        self._summary = summary

    def finish(self) -> Restored:
        if self._head is None or self._summary is None:
            raise Invalid("the backup ends before its end: it was cut off")
        try:
            self._placing.leave_all()
        except OSError as error:
            raise _translated(b"", error) from error
        return Restored(self._head, self._summary, self._placing.lost)


def _small(member: Member, reader: TarReader, limit: int) -> bytes:
    if member.stored > limit or member.sparse is not None:
        raise Invalid(f"{shown(member.name)} is impossibly large")
    return reader.read()


def _translated(name: bytes, error: OSError) -> SampanError:
    """What the backup caused is its fault (two entries of one name, a name too long); a full disk is not."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space("volumes")
    text = f"restoring {shown(name)}: {error.strerror or error}"
    return Unavailable(text) if error.errno in _HOST else Invalid(text)
