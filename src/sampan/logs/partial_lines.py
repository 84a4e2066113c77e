"""The pieces of a long line, numbered as Docker numbers them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from sampan.logs.entry import LogEntry


class Piece(msgspec.Struct, frozen=True):
    """`id`: of the line, 64 hexadecimal digits; `ordinal`: from 1."""

    id: str
    ordinal: int
    last: bool


class PartialLines:
    """Tells which entries are pieces. Entries not delivered are asked about again: only `advance` moves on."""

    def __init__(self) -> None:
        self._open: dict[int, Piece] = {}

    def pieces(self, entries: Sequence[LogEntry]) -> list[Piece | None]:
        found: list[Piece | None] = []
        open = dict(self._open)
        for entry in entries:
            before = open.pop(entry.stream, None)
            if before is None and not entry.partial:
                found.append(None)
                continue
            id = before.id if before is not None else os.urandom(32).hex()
            piece = Piece(id, before.ordinal + 1 if before is not None else 1, not entry.partial)
            found.append(piece)
            if entry.partial:
                open[entry.stream] = piece
        return found

    def advance(self, entries: Sequence[LogEntry], pieces: Sequence[Piece | None]) -> None:
        """These entries are delivered."""
        for entry, piece in zip(entries, pieces, strict=True):
            if piece is not None and not piece.last:
                self._open[entry.stream] = piece
            else:
                self._open.pop(entry.stream, None)
