"""Reading what the json-file writer wrote, rotated files included, and following it while it grows."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from sampan.errors import NotFound
from sampan.linux import inotify
from sampan.logs.log_files import LogFile, close_all, open_all, tail_starts

_NO_END = 1 << 62
_MAX_LINE = 1 << 20
"""A longer line was not written by us: its beginning is dropped."""
_LINES_IN_TURN = 256
"""Lines that a follower reads before the event loop's other work gets its turn."""
_STREAMS = {"stdout": 1, "stderr": 2}
_NANOSECONDS = 1_000_000_000


class LogRecord(msgspec.Struct, frozen=True):
    """`line` ends with a newline unless it is a part of a line or the last one. `time`: RFC 3339, nanoseconds."""

    stream: int
    time: str
    line: bytes
    attributes: dict[str, str] | None = None

    @property
    def time_ns(self) -> int:
        """Unix time in nanoseconds."""
        return parse_time(self.time)


class _Line(msgspec.Struct):
    log: str = ""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] | None = None


_decoder = msgspec.json.Decoder(_Line)


def parse_record(raw: bytes) -> LogRecord | None:
    """None for a line that is torn or not ours: a crash leaves such, and reading goes on after it."""
    try:
        line = _decoder.decode(raw)
        stream = _STREAMS[line.stream]
        parse_time(line.time)
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, ValueError):
        return None
    return LogRecord(stream, line.time, line.log.encode("utf-8", "replace"), line.attrs)


def parse_time(text: str) -> int:
    """Unix time in nanoseconds of an RFC 3339 time. Raises `ValueError`."""
    seconds, fraction = text[:19], "0"
    zone = text[19:]
    if zone.startswith("."):
        digits = zone[1:]
        length = next((at for at, letter in enumerate(digits) if not letter.isdigit()), len(digits))
        fraction, zone = digits[:length], digits[length:]
    moment = datetime.fromisoformat(seconds + ("+00:00" if zone == "Z" else zone))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * _NANOSECONDS + int(fraction[:9].ljust(9, "0"))


class _Range:
    """Which records are wanted by their time."""

    def __init__(self, since_ns: int | None, until_ns: int | None) -> None:
        self.since_ns = since_ns
        self.until_ns = until_ns

    def wants(self, record: LogRecord) -> bool:
        return self.since_ns is None or record.time_ns >= self.since_ns

    def ends_before(self, record: LogRecord) -> bool:
        return self.until_ns is not None and record.time_ns > self.until_ns


def read(
    path: str | Path, *, since_ns: int | None = None, until_ns: int | None = None, tail: int | None = None
) -> Iterator[LogRecord]:
    """The records of `path` and its rotated files, oldest first, as they are now.

    Times are Unix time in nanoseconds, both ends included. `tail`: only the last that many records; it counts before
    the times are looked at, as in Docker. No file at all is an empty log.
    """
    window = _Range(since_ns, until_ns)
    files = open_all(str(path))
    try:
        sizes = [file.size for file in files]
        starts = [0] * len(files) if tail is None else tail_starts(files, tail)
        for file, start, size in zip(files, starts, sizes, strict=True):
            for raw in _lines(file, start, size):
                record = parse_record(raw)
                if record is None:
                    continue
                if window.ends_before(record):
                    return
                if window.wants(record):
                    yield record
    finally:
        close_all(files)


def _lines(file: LogFile, start: int, end: int) -> Iterator[bytes]:
    """Lines between the offsets; a last one without a newline is included."""
    rest = b""
    for block in file.blocks(start, end):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()[-_MAX_LINE:]
        yield from lines
    if rest:
        yield rest


async def follow(
    path: str | Path,
    *,
    since_ns: int | None = None,
    until_ns: int | None = None,
    tail: int | None = None,
    ended: asyncio.Event,
) -> AsyncIterator[LogRecord]:
    """As `read`, then what is written from now on, without a gap, across rotations.

    Ends when `ended` is set and everything is read, or when `until_ns` has passed.
    Raises `NotFound` when the log's directory does not exist.
    """
    window = _Range(since_ns, until_ns)
    follower = _Follower(str(path), tail)
    try:
        while True:
            last = ended.is_set() or _passed(until_ns)
            for number, raw in enumerate(follower.read_lines(), 1):
                if number % _LINES_IN_TURN == 0:
                    await asyncio.sleep(0)
                record = parse_record(raw)
                if record is None:
                    continue
                if window.ends_before(record):
                    return
                if window.wants(record):
                    yield record
            if last:
                return
            await _either(follower.changed, ended, until_ns)
    finally:
        follower.close()


def _passed(until_ns: int | None) -> bool:
    return until_ns is not None and time.time_ns() > until_ns


async def _either(changed: asyncio.Event, ended: asyncio.Event, until_ns: int | None) -> None:
    """Until the file may have changed, the writer has ended or the time is up."""
    timeout = None if until_ns is None else max(0.0, (until_ns - time.time_ns()) / _NANOSECONDS) + 0.001
    waiting = [asyncio.ensure_future(event.wait()) for event in (changed, ended)]
    try:
        await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


class _Follower:
    """The open file that is being read, the newer ones behind it, and the watch on their directory.

    Must be made and closed in a running event loop.
    """

    def __init__(self, path: str, tail: int | None) -> None:
        self.changed = asyncio.Event()
        self._path = path
        self._name = os.path.basename(path)
        self._rest = b""
        self._watch = inotify.Inotify()
        try:
            # The directory, not the file: names change hands in a rotation. Watched before it is read: no gap.
            mask = (
                inotify.MODIFY
                | inotify.CREATE
                | inotify.MOVED_FROM
                | inotify.MOVED_TO
                | inotify.ONLY_DIRECTORY
            )
            self._watch.add(os.path.dirname(path) or ".", mask)
        except OSError as error:
            self._watch.close()
            if error.errno == errno.ENOENT:
                raise NotFound(f"no such log: {path}") from error
            raise
        try:
            self._files = open_all(path)
        except BaseException:
            self._watch.close()
            raise
        self._offsets = [0] * len(self._files)
        if tail is not None:
            self._offsets = tail_starts(self._files, tail)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._watch.fileno(), self._on_events)

    def close(self) -> None:
        self._loop.remove_reader(self._watch.fileno())
        self._watch.close()
        close_all(self._files)
        self._files.clear()

    def _on_events(self) -> None:
        for event in self._watch.read_nowait():
            if event.name == self._name or event.mask & inotify.OVERFLOW:
                self.changed.set()

    def read_lines(self) -> Iterator[bytes]:
        """Whole lines that were not given yet; a last one without a newline is kept for later."""
        self.changed.clear()
        while True:
            while self._files:
                yield from self._drain()
                if len(self._files) == 1:
                    break
                self._files.pop(0).close()
                self._offsets.pop(0)
                self._rest = b""  # torn for ever: lines do not go on in the next file
            if not self._open_newer():
                return

    def _drain(self) -> Iterator[bytes]:
        file = self._files[0]
        if file.size < self._offsets[0]:
            self._offsets[0], self._rest = 0, b""  # a single log file that is full begins anew
        for block in file.blocks(self._offsets[0], _NO_END):
            self._offsets[0] += len(block)
            lines = (self._rest + block).split(b"\n")
            self._rest = lines.pop()[-_MAX_LINE:]
            yield from lines

    def _open_newer(self) -> bool:
        """Put the files that are newer than the one being read behind it; False when there is none."""
        current = self._files[0].inode if self._files else None
        try:
            if os.stat(self._path).st_ino == current:
                return False
        except FileNotFoundError:
            return False  # between the two steps of a rotation, or not begun: an event follows
        newest = open_all(self._path)
        keep = self._place_in(newest) + 1
        close_all(newest[:keep])
        self._files += newest[keep:]
        self._offsets += [0] * (len(newest) - keep)
        return len(newest) > keep

    def _place_in(self, files: list[LogFile]) -> int:
        """Which of them is the one being read; -1 when it was rotated out of existence, and all of them are newer."""
        if not self._files:
            return -1
        ours = self._files[0]
        inodes = [file.inode for file in files]
        if ours.inode in inodes:
            return inodes.index(ours.inode)
        # It may have been compressed meanwhile, which makes it another file with the same content.
        packed = [number for number, file in enumerate(files) if file.compressed]
        record = ours.first_record() if packed else b""
        return next((number for number in packed if files[number].first_record() == record), -1)
