"""The reports of stages that run at the same time, one stage after the other: what a reader of lines can follow.

The first stage that has not ended is heard as it speaks; what later ones say is kept until their turn.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from sampan.build.model import BuildEvent
from sampan.build.worker import Report

MAX_KEPT = 16 << 20
"""Bytes of text that are kept of one stage; what it says beyond is left out, and that is said."""
_EVENT = 100
"""Bytes that an event takes beside its text, roughly."""


@dataclass(slots=True)
class _Channel:
    kept: list[BuildEvent] = field(default_factory=list)
    size: int = 0
    left_out: int = 0
    ended: bool = False


class Channels:
    """Thread-safe. Channels are heard in the order in which they were opened."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._open: dict[int, _Channel] = {}

    def open(self, number: int) -> None:
        with self._lock:
            self._open.setdefault(number, _Channel())

    def say(self, number: int, event: BuildEvent) -> None:
        """On a channel that was never opened, or has ended: heard at once."""
        with self._lock:
            channel = self._open.get(number)
            if channel is None or next(iter(self._open)) == number:
                self._report(event)
                return
            channel.size += len(event.stream) + len(event.status) + _EVENT
            if channel.size <= MAX_KEPT:
                channel.kept.append(event)
            else:
                channel.left_out += len(event.stream)

    def end(self, number: int) -> None:
        """The channel says nothing more; those behind it that ended earlier are heard now."""
        with self._lock:
            self._open[number].ended = True
            while self._open:
                first = next(iter(self._open))
                channel = self._open[first]
                self._flush(channel)
                if not channel.ended:
                    return
                del self._open[first]

    def end_all(self) -> None:
        """Everything that is kept, heard in order; for a build that failed."""
        with self._lock:
            for channel in self._open.values():
                self._flush(channel)
            self._open.clear()

    def _flush(self, channel: _Channel) -> None:
        for event in channel.kept:
            self._report(event)
        if channel.left_out:
            self._report(BuildEvent(stream=f"[{channel.left_out} characters of output were left out here]\n"))
        channel.kept, channel.left_out, channel.size = [], 0, 0
