"""Chunks of output, as they came, into runs of whole lines; the same for every driver. Pure."""

from __future__ import annotations

PARTIAL_SIZE = 16 * 1024
"""A longer line is recorded in pieces of this many bytes; only the last has a newline (as Docker does)."""


class Lines:
    """Keeps back, for each stream, what has no newline yet."""

    def __init__(self) -> None:
        self._pending: dict[int, bytes] = {}

    def feed(self, stream: int, data: bytes) -> list[bytes]:
        """In order: runs of whole lines, and pieces of `PARTIAL_SIZE` bytes (without a newline) of longer ones."""
        pending = self._pending.pop(stream, b"")
        if pending:
            data = pending + data
        pieces: list[bytes] = []
        start = at = 0
        while True:
            # Lines that end within the window are short enough, without a look at each of them.
            newline = data.rfind(b"\n", at, at + PARTIAL_SIZE)
            if newline >= 0:
                at = newline + 1
                continue
            if at > start:
                pieces.append(data[start:at])
            if len(data) - at < PARTIAL_SIZE:
                break
            pieces.append(data[at : at + PARTIAL_SIZE])
            start = at = at + PARTIAL_SIZE
        if at < len(data):
            self._pending[stream] = data[at:]
        return pieces

    def flush(self) -> list[tuple[int, bytes]]:
        """The unfinished lines, by stream."""
        rest = sorted(self._pending.items())
        self._pending.clear()
        return rest
