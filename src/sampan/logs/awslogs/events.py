"""From entries to the events and batches that CloudWatch Logs accepts. Pure: no I/O, no clock.

Limits: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from sampan.logs.entry import LogEntry

EVENT_OVERHEAD = 26
MAX_BATCH_BYTES = 1024 * 1024
MAX_BATCH_EVENTS = 10_000
MAX_BATCH_SPAN = 24 * 3600 * 1000
"""Milliseconds between the first and the last event of a batch."""

MAX_MESSAGE = 256 * 1024 - EVENT_OVERHEAD
"""Bytes of UTF-8 in one event."""


class Event(msgspec.Struct, frozen=True):
    """`time` in milliseconds since 1970; `size` in bytes as the service counts it."""

    time: int
    text: str
    size: int


def split(data: bytes, time: int) -> list[Event]:
    """Bytes that are no UTF-8 become U+FFFD; what is too long becomes several events; nothing becomes none."""
    encoded = data.decode("utf-8", "replace").encode()
    found = []
    start = 0
    while start < len(encoded):
        end = min(start + MAX_MESSAGE, len(encoded))
        while end < len(encoded) and encoded[end] & 0xC0 == 0x80:  # not inside a character
            end -= 1
        found.append(Event(time, encoded[start:end].decode(), end - start + EVENT_OVERHEAD))
        start = end
    return found


class Assembler:
    """Joins the pieces of long lines and, with a pattern, the lines that follow one that matches it."""

    def __init__(self, multiline: str = "") -> None:
        self._pattern = re.compile(multiline.encode()) if multiline else None
        self._lines: dict[int, tuple[bytearray, int]] = {}
        self._block = bytearray()
        self._block_time = 0

    @property
    def holds(self) -> bool:
        """Whether something waits for what belongs to it."""
        return bool(self._block) or bool(self._lines)

    def feed(self, entry: LogEntry) -> list[Event]:
        """The events that are complete with this entry."""
        time = entry.time_ns // 10**6
        line, began = self._lines.pop(entry.stream, (bytearray(), time))
        found: list[Event] = []
        if line and len(line) + len(entry.line) > MAX_MESSAGE:
            found += self._line(bytes(line), began)
            line, began = bytearray(), time
        line += entry.line
        if entry.partial:
            self._lines[entry.stream] = line, began
            return found
        return found + self._line(bytes(line), began)

    def flush(self) -> list[Event]:
        """What waits, as it is."""
        found: list[Event] = []
        for stream in sorted(self._lines):
            line, began = self._lines[stream]
            found += self._line(bytes(line), began)
        self._lines.clear()
        return found + self._end_block()

    def _line(self, line: bytes, time: int) -> list[Event]:
        if self._pattern is None:
            return split(line, time)
        found: list[Event] = []
        if self._pattern.search(line) or len(self._block) + len(line) + 1 > MAX_MESSAGE:
            found = self._end_block()
        if not self._block:
            self._block_time = time
        self._block += line + b"\n"
        return found

    def _end_block(self) -> list[Event]:
        found = split(bytes(self._block), self._block_time) if self._block else []
        self._block.clear()
        return found


def batch_length(events: Sequence[Event]) -> int:
    """How many of the first events fit in one request: at least one, if there is one."""
    size, earliest, latest = 0, None, None
    for count, event in enumerate(events):
        earliest = event.time if earliest is None else min(earliest, event.time)
        latest = event.time if latest is None else max(latest, event.time)
        size += event.size
        if count == MAX_BATCH_EVENTS or size > MAX_BATCH_BYTES or latest - earliest >= MAX_BATCH_SPAN:
            return max(count, 1)
    return len(events)
