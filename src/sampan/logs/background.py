"""A destination that takes entries at once and delivers them from a thread (`fluentd-async`)."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from sampan.logs.entry import LogEntry
from sampan.logs.undelivered import Losses

_BATCH = 1000
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 5.0
CLOSE_GRACE = 5.0
"""Seconds for what is still waiting when the destination is closed."""


class Deliverer(Protocol):
    """What works behind: a destination that counts what it gave up."""

    losses: Losses

    def send(self, entries: Sequence[LogEntry]) -> None: ...

    def close(self) -> None: ...


class Background:
    """At most `max_entries` and `max_bytes` wait; further ones are lost, and counted.

    `losses` is written by both threads under the lock, and by the destination behind, which has a count of its own.
    """

    def __init__(
        self, behind: Deliverer, *, max_entries: int, max_bytes: int, close_grace: float = CLOSE_GRACE
    ) -> None:
        self._behind = behind
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._close_grace = close_grace
        self._waiting: deque[LogEntry] = deque()
        self._bytes = 0
        self._dropped = Losses()
        self._deadline: float | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="log delivery", daemon=True)
        self._thread.start()

    @property
    def losses(self) -> Losses:
        total = Losses()
        total.entries = self._dropped.entries + self._behind.losses.entries
        total.bytes = self._dropped.bytes + self._behind.losses.bytes
        return total

    def send(self, entries: Sequence[LogEntry]) -> None:
        """Never blocks, never raises."""
        with self._changed:
            for entry in entries:
                room = self._bytes + len(entry.line) <= self._max_bytes
                if not room or len(self._waiting) >= self._max_entries:
                    self._dropped.add((entry,))
                    continue
                self._waiting.append(entry)
                self._bytes += len(entry.line)
            self._changed.notify()

    def close(self) -> None:
        """What waits has a few seconds to be delivered; the rest is lost."""
        with self._changed:
            self._deadline = time.monotonic() + self._close_grace
            self._changed.notify()
        self._thread.join(self._close_grace * 2)
        with self._changed:
            self._dropped.add(self._waiting)
            self._waiting.clear()
        self._behind.close()

    def _work(self) -> None:
        wait = _FIRST_WAIT
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._deadline is not None)
                batch = list(self._waiting)[:_BATCH] if len(self._waiting) <= _BATCH else self._head()
                if not batch:
                    return
            try:
                self._behind.send(batch)
                done, wait = len(batch), _FIRST_WAIT
            except OSError as error:
                done = getattr(error, "delivered", 0)
            with self._changed:
                for _ in range(min(done, len(self._waiting))):
                    self._bytes -= len(self._waiting.popleft().line)
                if done == len(batch):
                    continue
                closing = self._deadline is not None
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    return
                # A close ends the wait, so that its grace is used for attempts.
                self._changed.wait_for(
                    lambda closing=closing: not closing and self._deadline is not None,  # type: ignore[misc]
                    wait if not closing else _FIRST_WAIT,
                )
                wait = min(wait * 2, _LONGEST_WAIT)

    def _head(self) -> list[LogEntry]:
        return [self._waiting[place] for place in range(_BATCH)]
