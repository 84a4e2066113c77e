"""What pull and push report: one line of Docker's JSON progress stream each."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

INTERVAL = 0.1
"""Seconds between two reports on the same transfer."""


class Progress(msgspec.Struct, frozen=True):
    """`current` and `total` in bytes, 0 when the status is not about a transfer. `aux` is Docker's extra result.

    `heading`: what follows is about `id`, which has no line of its own that is rewritten.
    """

    status: str
    id: str = ""
    current: int = 0
    total: int = 0
    aux: dict[str, object] | None = None
    heading: bool = False


Report = Callable[[Progress], None]


class Transfer:
    """Reports how far a transfer is, not more often than every `INTERVAL`, and its end."""

    def __init__(self, report: Report, status: str, id_: str, total: int) -> None:
        self._report = report
        self._status = status
        self._id = id_
        self._total = total
        self._next = 0.0

    def at(self, current: int) -> None:
        now = time.monotonic()
        if now >= self._next or current >= self._total > 0:
            self._next = now + INTERVAL
            self._report(Progress(self._status, self._id, current, self._total))
