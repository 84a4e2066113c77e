"""Collects events for a while and sends them in batches, from a thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

from sampan.logs.awslogs.events import (
    EVENT_OVERHEAD,
    MAX_BATCH_BYTES,
    MAX_BATCH_EVENTS,
    Assembler,
    Event,
    batch_length,
)
from sampan.logs.awslogs.outcome import Outcome
from sampan.logs.awslogs.settings import Settings
from sampan.logs.entry import LogEntry
from sampan.logs.undelivered import Losses, Undelivered

_ROOM_TIMEOUT = 10.0
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 32.0
_CLOSE_GRACE = 8.0
"""Seconds for what is still waiting when the container has ended."""

_LAST_REQUEST = 4.0
"""Seconds more for a request that is under way then."""


class Client(Protocol):
    """A log stream; see `LogStreamClient`."""

    def put(self, events: Sequence[Event]) -> tuple[Outcome, list[Event], str]: ...

    def close(self) -> None: ...


class AwsLogsDestination:
    """At most `max_buffered_events` wait, and bytes for four batches; while there is no room, `send` blocks."""

    def __init__(
        self,
        settings: Settings,
        client: Client,
        *,
        room_timeout: float = _ROOM_TIMEOUT,
        close_grace: float = _CLOSE_GRACE,
    ) -> None:
        self.losses = Losses()
        self.last_error = ""
        self._client = client
        self._interval = float(settings.flush_interval)
        self._max_events = settings.max_buffered_events
        self._room_timeout = room_timeout
        self._close_grace = close_grace
        self._assembler = Assembler(settings.multiline)
        self._waiting: deque[Event] = deque()
        self._size = 0
        self._due: float | None = None
        self._deadline: float | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="awslogs", daemon=True)
        self._thread.start()

    def send(self, entries: Sequence[LogEntry]) -> None:
        """Raises `Undelivered` when there was no room for some of them within a few seconds."""
        with self._changed:
            for done, entry in enumerate(entries):
                if not self._changed.wait_for(self._has_room, self._room_timeout):
                    raise Undelivered(self.last_error or "awslogs: no room for events", delivered=done)
                self._take(self._assembler.feed(entry))
                if self._due is None:
                    self._due = time.monotonic() + self._interval
                    self._changed.notify_all()
                elif self._is_full():
                    self._changed.notify_all()

    def close(self) -> None:
        """What waits has a few seconds to be taken; the rest is lost, and counted."""
        with self._changed:
            self._take(self._assembler.flush())
            self._deadline = time.monotonic() + self._close_grace
            self._changed.notify_all()
        self._thread.join(self._close_grace + _LAST_REQUEST)
        with self._changed:
            self._lose(self._waiting)
            self._waiting.clear()
        self._client.close()

    def _has_room(self) -> bool:
        return len(self._waiting) < self._max_events and self._size < 4 * MAX_BATCH_BYTES

    def _is_full(self) -> bool:
        full = min(self._max_events, MAX_BATCH_EVENTS)
        return len(self._waiting) >= full or self._size >= MAX_BATCH_BYTES

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            self._waiting.append(event)
            self._size += event.size

    def _lose(self, events: Sequence[Event] | deque[Event]) -> None:
        self.losses.count(len(events), sum(event.size - EVENT_OVERHEAD for event in events))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._is_time():
                    self._changed.wait(self._until_due())
                if self._due is not None and time.monotonic() >= self._due:
                    self._take(self._assembler.flush())
                self._due = time.monotonic() + self._interval if self._assembler.holds else None
                if not self._waiting:
                    if self._deadline is not None:
                        return
                    continue
            if not self._send_all():
                return

    def _is_time(self) -> bool:
        if self._deadline is not None or self._is_full():
            return True
        return self._due is not None and time.monotonic() >= self._due

    def _until_due(self) -> float | None:
        return None if self._due is None else max(self._due - time.monotonic(), 0)

    def _send_all(self) -> bool:
        """Send what waits now, in batches, each until it is taken. False when the time after closing is over."""
        with self._changed:
            left = len(self._waiting)
        wait = _FIRST_WAIT
        while left > 0:
            with self._changed:
                head = list(islice(self._waiting, min(left, MAX_BATCH_EVENTS)))
                batch = head[: batch_length(head)]
            outcome, refused, error = self._client.put(batch)
            with self._changed:
                self.last_error = error
                if outcome is Outcome.LATER:
                    if self._deadline is not None and time.monotonic() >= self._deadline:
                        return False
                    self._pause(wait)
                    wait = min(wait * 2, _LONGEST_WAIT)
                    continue
                wait = _FIRST_WAIT
                self._lose(batch if outcome is Outcome.NEVER else refused)
                for event in batch:
                    self._waiting.popleft()
                    self._size -= event.size
                left -= len(batch)
                self._changed.notify_all()
        return True

    def _pause(self, seconds: float) -> None:
        """With the lock held. A close ends it; after that the pauses are short."""
        if self._deadline is not None:
            self._changed.wait(min(seconds, max(self._deadline - time.monotonic(), 0.05)))
        else:
            self._changed.wait_for(lambda: self._deadline is not None, seconds)
