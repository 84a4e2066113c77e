"""The manifest of what was unpacked, written on the way, with which the archive's own one has to agree."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from sampan.engine.volume_backup.format import LINE_MAX, MANIFEST_MAX, Entry, encode_line
from sampan.errors import Invalid
from sampan.storage.tar_format import Member
from sampan.storage.tar_reader import TarReader


class OwnManifest:
    def __init__(self, lines: BinaryIO) -> None:
        """`lines`: an empty file for it."""
        self._lines = lines
        self._hash = hashlib.sha256()
        self._lines_size = 0
        self.checked = False
        """The archive's manifest was seen, and agrees."""

    @property
    def id(self) -> str:
        """Of a backup that has this manifest."""
        return self._hash.hexdigest()

    def add(self, entry: Entry) -> None:
        line = encode_line(entry)
        self._hash.update(line)
        self._lines.write(line)
        self._lines_size += len(line)

    def compare(self, member: Member, reader: TarReader) -> None:
        """The archive's manifest with what was unpacked."""
        if self.checked:
            raise Invalid("the backup has two manifests")
        if member.stored > MANIFEST_MAX or member.sparse is not None:
            raise Invalid("the backup's manifest is impossibly large")
        self.checked = True
        self._lines.seek(0)
        position = 0
        while piece := bytes(reader.take()):
            if self._lines.read(len(piece)) != piece:
                raise Invalid(
                    f"the backup is damaged: its manifest does not fit its content, from the entry "
                    f"{self._line_at(position, piece)} on"
                )
            position += len(piece)
        if position != self._lines_size:
            raise Invalid("the backup is damaged: its manifest has fewer entries than the archive")

    def _line_at(self, position: int, piece: bytes) -> str:
        """The path of the first entry that differs from the manifest; `position`: of `piece` in the lines."""
        self._lines.seek(position)
        mine = self._lines.read(len(piece))
        same = next((at for at, pair in enumerate(zip(mine, piece, strict=False)) if pair[0] != pair[1]), 0)
        start = max(position + same - LINE_MAX, 0)
        self._lines.seek(start)
        before = self._lines.read(position + same - start)
        self._lines.seek(start + before.rfind(b"\n") + 1)
        line = self._lines.readline(LINE_MAX)
        return repr(line.partition(b'"path":"')[2].partition(b'"')[0].decode("utf-8", "replace")[:200])
