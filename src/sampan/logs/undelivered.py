"""What a destination says of entries that it did not deliver, and of those it never will."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sampan.logs.entry import LogEntry


class Undelivered(OSError):
    """Not all entries of a call were delivered; those that were not should be sent again.

    `delivered`: how many of the call's first entries need not be sent again.
    """

    def __init__(self, message: str, *, delivered: int = 0) -> None:
        super().__init__(message)
        self.delivered = delivered


def deliver_lines(entries: Sequence[LogEntry], deliver: Callable[[Sequence[LogEntry]], None]) -> None:
    """Call `deliver` with the entries that say something: an empty line is no message, as with Docker.

    An `Undelivered` of its comes out counted in `entries`.
    """
    places = [place for place, entry in enumerate(entries) if entry.line]
    if not places:
        return
    try:
        deliver([entries[place] for place in places])
    except Undelivered as error:
        done = error.delivered
        error.delivered = places[done] if done < len(places) else len(entries)
        raise


class Losses:
    """Entries that were given up for good: what the server can never take, or an option says to drop."""

    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0

    def add(self, entries: Iterable[LogEntry]) -> None:
        for entry in entries:
            self.count(1, len(entry.line))

    def count(self, entries: int, size: int) -> None:
        """`size` in bytes of all of them."""
        self.entries += entries
        self.bytes += size
