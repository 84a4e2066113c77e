"""The shim's side of a log writer: what waits to be delivered, and what is done when it is too much.

Output is kept here until the writer says that it is delivered; so a writer that was killed costs nothing: the next one
gets the same again. When `buffer` bytes wait, the container has to wait (mode blocking) or new output is dropped and
counted, whole lines at a time (mode non-blocking), as Docker's ring buffer does.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from sampan.errors import Internal, Invalid
from sampan.logs.lines import Lines
from sampan.logs.options import Delivery
from sampan.logs.packets import HEADER, Delivered, Opened, Report, Trouble, count_lines, cut, pack
from sampan.logs.status import StatusFile
from sampan.runtime import wire
from sampan.runtime.failure import Failure
from sampan.runtime.logsink import LogSink
from sampan.runtime.loop import READ, WRITE, Loop

OPEN_SECONDS = 40.0
"""How long a writer may take for its server before the container's start fails."""

GRACE = 10.0
"""Seconds after the container's end for the delivery of what waits; the rest is lost, and counted."""

CLOSE_SECONDS = 15.0
"""Then, for what the driver itself still holds back."""

_LEAST_PACKETS = 1024
_BYTES_A_PACKET = 16
"""The buffer is full too when it has a packet for every so many of its bytes: a container that writes lines of one
byte would make the shim keep fifty times as much, as each packet is an object."""

_MOST_DEATHS = 5
"""Writers that may die in a row over the same output before it is dropped."""

_REPORTS: Final[wire.Codec[Opened | Delivered | Trouble | Failure]] = wire.Codec(Report)

StartWriter = Callable[[int, socket.socket], int]
"""Number of writers that died in a row, its socket; returns its process id."""


class Feed(LogSink):
    """`cache`: a sink on disk that records everything too, whatever becomes of the rest.

    `settle_seconds`: so long `close` itself waits for the writer, when who hears of the end will read what it wrote.
    """

    def __init__(
        self,
        start_writer: StartWriter,
        delivery: Delivery,
        status: StatusFile,
        cache: LogSink | None = None,
        *,
        settle_seconds: float = 0.0,
    ) -> None:
        """Raises `Internal` when the writer can't begin, `Invalid` for options that it refuses."""
        self._start_writer = start_writer
        self._delivery = delivery
        self._most_packets = max(_LEAST_PACKETS, delivery.buffer // _BYTES_A_PACKET)
        self._file = status
        self._cache = cache
        self._settle_seconds = settle_seconds
        self._lines = Lines()
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._sent = 0
        self._delivered = 0
        self._earlier_losses = (0, 0)
        self._losses = (0, 0)
        self._deaths = 0
        self._deadline: float | None = None
        self._loop: Loop | None = None
        self._changed: Callable[[], None] = lambda: None
        self._socket: socket.socket | None = None
        self._pid = 0
        self._start()
        try:
            self._await_opening()
        except BaseException:
            self._end_writer()
            raise

    # What the shim calls.

    def join(self, loop: Loop, changed: Callable[[], None]) -> None:
        self._loop = loop
        self._changed = changed
        if self._cache is not None:
            self._cache.join(loop, changed)
        self._pump()

    @property
    def congested(self) -> bool:
        return not self._delivery.drops and self._full

    @property
    def _full(self) -> bool:
        return self._bytes >= self._delivery.buffer or len(self._queue) >= self._most_packets

    @property
    def patience(self) -> float | None:
        if self._socket is None or self._deadline is None:
            return None
        return max(0.0, self._deadline - time.monotonic())

    def write(self, stream: int, data: bytes, time_ns: int) -> None:
        for piece in self._lines.feed(stream, data):
            self._offer(stream, piece, time_ns, partial=not piece.endswith(b"\n"))
        self._pump()
        if self._cache is not None:
            self._cache.write(stream, data, time_ns)

    def close(self) -> None:
        """Raises OSError when output was lost until now."""
        now = time.time_ns()
        for stream, rest in self._lines.flush():
            self._offer(stream, rest, now, partial=False)
        self._deadline = time.monotonic() + GRACE + (0.0 if self._queue else CLOSE_SECONDS)
        self._pump()
        if self._cache is not None:
            self._cache.close()
        if self._settle_seconds:
            self._settle(time.monotonic() + self._settle_seconds)
        status = self._file.status
        if status.lost_lines:
            reason = f": {status.error}" if status.error else ""
            raise OSError(f"output lost: {status.lost_lines} lines, {status.lost_bytes} bytes{reason}")

    def _settle(self, deadline: float) -> None:
        while self._socket is not None and (left := deadline - time.monotonic()) > 0:
            unsent = [self._socket] if self._sent < len(self._queue) else []
            readable, writable, _ = select.select([self._socket], unsent, [], left)
            if writable:
                self._pump()
            if readable:
                self._receive()

    def give_up(self) -> None:
        """What waits is lost, and counted."""
        self._end_writer()
        self._lose_all()

    # The queue.

    def _offer(self, stream: int, piece: bytes, time_ns: int, *, partial: bool) -> None:
        room = 0 if self._full else self._delivery.buffer - self._bytes
        if self._delivery.drops and len(piece) > room:
            fit = piece.rfind(b"\n", 0, max(room, 0)) + 1
            if not fit and not self._queue:
                fit = piece.find(b"\n") + 1 or len(piece)  # one line has always room, however long it is
            if fit < len(piece):
                self._lose(piece[fit:])
            piece = piece[:fit]
            if not piece:
                return
        for part in cut(piece):
            self._queue.append(pack(stream, part, time_ns, partial=partial))
        self._bytes += len(piece)

    def _lose(self, data: bytes) -> None:
        status = self._file.status
        status.lost_lines += count_lines(data)
        status.lost_bytes += len(data)
        self._file.save()

    def _lose_all(self) -> None:
        while self._queue:
            self._lose(self._queue.popleft()[HEADER.size :])
        self._bytes = self._sent = 0

    def _drop_head(self, count: int) -> None:
        congested = self.congested
        for _ in range(count):
            self._bytes -= len(self._queue.popleft()) - HEADER.size
        self._sent = max(0, self._sent - count)
        if self._deadline is not None and not self._queue:
            self._deadline = time.monotonic() + CLOSE_SECONDS
        if congested and not self.congested:
            self._changed()

    def _pump(self) -> None:
        """Send what has not been sent; and when all is and no more comes, say so."""
        if self._socket is None and self._loop is not None and self._queue and self._deadline is None:
            self._restart()
        if self._loop is None or self._socket is None:
            return
        blocked = False
        try:
            for packet in islice(self._queue, self._sent, None):
                self._socket.send(packet, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                self._sent += 1
            if self._deadline is not None:
                self._socket.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            blocked = True
        except OSError:
            pass  # it has died: the socket is readable, and that is where it is handled
        self._loop.watch(self._socket.fileno(), READ | (WRITE if blocked else 0), self._ready)

    # The writer.

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._pid = self._start_writer(self._deaths, theirs)
            except BaseException:
                ours.close()
                raise
        self._socket = ours
        self._sent = self._delivered = 0

    def _await_opening(self) -> None:
        assert self._socket is not None
        self._socket.settimeout(OPEN_SECONDS)
        try:
            report, _ = _REPORTS.receive(self._socket)
        except TimeoutError:
            report = Failure(Internal.kind, "the log server does not answer")
        self._socket.settimeout(None)
        match report:
            case Opened():
                self._trouble(report.error)
            case Failure():
                error = report.error()
                kind = Invalid if isinstance(error, Invalid) else Internal
                raise kind(f"failed to initialize logging driver: {error.message}", hint=error.hint)
            case _:
                raise Internal("failed to initialize logging driver: the log writer has ended")

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._pump()
        if events & ~WRITE:
            self._receive()

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            report, _ = _REPORTS.receive(self._socket)
        except (OSError, Invalid):
            report = None
        match report:
            case Delivered():
                self._on_delivered(report)
            case Trouble() | Opened():
                self._trouble(report.error)
            case _:
                self._writer_gone()

    def _on_delivered(self, report: Delivered) -> None:
        count = min(report.packets - self._delivered, len(self._queue))
        if count > 0:
            self._deaths = 0
            self._delivered = report.packets
            self._drop_head(count)
            if self._file.status.error and not self._file.status.lost_lines:
                self._file.status.error = ""  # it has been overcome
                self._file.save()
        losses = (report.lost_lines, report.lost_bytes)
        if losses != self._losses:
            status = self._file.status
            status.lost_lines += losses[0] - self._losses[0]
            status.lost_bytes += losses[1] - self._losses[1]
            self._losses = losses
            self._file.save()

    def _trouble(self, error: str) -> None:
        if error and error != self._file.status.error:
            self._file.status.error = error
            self._file.save()

    def _writer_gone(self) -> None:
        """It has ended: in order, or before its time; then another one takes its place."""
        status = self._end_writer()
        over = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        if self._deadline is not None and (over or not self._queue or time.monotonic() >= self._deadline):
            self._lose_all()
            return
        self._deaths += 1
        self._losses = (0, 0)
        self._file.status.writer_restarts += 1
        self._trouble("the log writer has ended unexpectedly")
        self._file.save()
        if self._deaths >= _MOST_DEATHS and self._queue:
            self._lose(self._queue[0][HEADER.size :])
            self._drop_head(1)
        self._restart()
        self._pump()

    def _restart(self) -> None:
        """Without a process to be had what waits is lost, so that the container goes on; later output tries again."""
        try:
            self._start()
        except OSError as error:
            self._trouble(f"the log writer can't be started: {error.strerror}")
            self._lose_all()
            self._changed()

    def _end_writer(self) -> int:
        """Its wait status."""
        if self._socket is None:
            return 0
        if self._loop is not None:
            self._loop.forget(self._socket.fileno())
        self._socket.close()
        self._socket = None
        try:
            os.kill(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        return os.waitpid(self._pid, 0)[1]
