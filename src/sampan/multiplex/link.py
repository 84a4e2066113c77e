"""A link: streams over one connected socket, used by blocking threads.

One thread reads the socket and never waits for anything else: what comes is put into the stream's buffer, which
the credit that was given bounds. So a reader that is slow, or left, holds up its own stream and no other. A peer
that breaks the rules loses the link; all who wait on a stream then get `Unavailable`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from sampan.errors import Conflict, Invalid, SampanError, Unavailable
from sampan.multiplex.frames import MAX_PAYLOAD, WINDOW, Frame, FrameReader, Kind, credit, header, refusal

PATIENCE = 600.0
"""Seconds without any progress of the peer after which a read or a write gives up."""
MAX_STREAMS = 64
"""Open at the same time."""
_MAX_CREDIT = 1 << 31
_SMALL = 4096
"""Bytes up to which pieces are joined: many tiny ones would take much more memory than their bytes."""

Accept = Callable[["Stream", bytes], None]


class Link:
    """The side that opens streams has no `accept`; the other side's is called in a new thread for each stream."""

    def __init__(
        self,
        sock: socket.socket,
        preread: bytes = b"",
        *,
        name: str,
        accept: Accept | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """The socket belongs to the link from here on. `name` is said in messages: whom the peer is."""
        self.name = name
        self.patience = patience
        self._sock = sock
        self._accept = accept
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._closed = False
        self._reason = ""
        self._opening = threading.Lock()
        self._sending = threading.Lock()
        self.changed = threading.Condition()
        threading.Thread(target=self._read, args=(preread,), name=f"link {name}", daemon=True).start()

    @property
    def closed(self) -> bool:
        return self._closed

    def open(self, wanted: bytes) -> Stream:
        """A new stream for what `wanted` says. Raises `Unavailable`, `Conflict` when there are too many."""
        with self._opening:  # the peer hears of streams in the order of their numbers
            with self.changed:
                self.require_open()
                if len(self._streams) >= MAX_STREAMS:
                    raise Conflict(f"more than {MAX_STREAMS} streams of one build session are open")
                stream = Stream(self, self._next)
                self._streams[stream.number] = stream
                self._next += 1
            self.send(Frame(Kind.OPEN, stream.number, wanted))
        return stream

    def close(self, reason: str = "the build has ended") -> None:
        """Whoever waits on a stream gets `Unavailable`. Does not block; from any thread, several times."""
        with self.changed:
            if not self._closed:
                self._closed = True
                self._reason = reason
            self.changed.notify_all()
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it is down already

    def require_open(self) -> None:
        if self._closed:
            raise Unavailable(f"{self.name} is gone: {self._reason}")

    def send(self, frame: Frame) -> None:
        """Raises `Unavailable`."""
        self.require_open()
        try:
            with self._sending:
                self._sock.sendall(header(frame.kind, frame.stream, len(frame.payload)) + frame.payload)
        except OSError as error:
            self.close(f"the connection broke: {error.strerror or error}")
            raise Unavailable(f"{self.name} is gone: {self._reason}") from error

    def forget(self, number: int) -> None:
        with self.changed:
            self._streams.pop(number, None)

    def _read(self, preread: bytes) -> None:
        frames = FrameReader()
        try:
            data = preread
            while True:
                for frame in frames.feed(data):
                    self._take(frame)
                data = self._sock.recv(4 * MAX_PAYLOAD)
                if not data:
                    self.close("it closed the connection")
                    return
        except OSError as error:
            self.close(f"the connection broke: {error.strerror or error}")
        except SampanError as error:
            self.close(error.message)
        finally:
            self._sock.close()

    def _take(self, frame: Frame) -> None:
        with self.changed:
            if frame.kind is Kind.OPEN:
                self._opened(frame)
                return
            stream = self._streams.get(frame.stream)
            if stream is not None:  # else it was closed here while this was under way
                stream.take(frame)
                self.changed.notify_all()

    def _opened(self, frame: Frame) -> None:
        if self._accept is None or frame.stream in self._streams or frame.stream < self._next:
            raise Invalid("it opened a stream that is not its to open")
        if len(self._streams) >= MAX_STREAMS:
            raise Invalid(f"it opened more than {MAX_STREAMS} streams")
        self._next = frame.stream + 1
        stream = Stream(self, frame.stream)
        self._streams[frame.stream] = stream
        threading.Thread(
            target=self._serve, args=(self._accept, stream, frame.payload), name="stream", daemon=True
        ).start()

    def _serve(self, accept: Accept, stream: Stream, wanted: bytes) -> None:
        try:
            accept(stream, wanted)
        except SampanError as error:
            stream.refuse(error)
        except OSError as error:
            stream.refuse(
                Unavailable(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
            )
        finally:
            stream.close()


class Stream:
    """Bytes in both directions. One thread may read while another writes."""

    def __init__(self, link: Link, number: int) -> None:
        self.number = number
        self._link = link
        self._buffer: deque[bytes] = deque()
        self._waiting = 0
        """Bytes in the buffer."""
        self._taken = 0
        """Bytes that were read and that no credit was sent for yet."""
        self._credit = WINDOW
        self._peer_ended = False
        self._ended = False
        self._error: SampanError | None = None

    def read(self, limit: int = MAX_PAYLOAD) -> bytes:
        """Up to `limit` bytes; b"" at the end. Raises what the peer refused with, `Unavailable`."""
        with self._link.changed:
            self._wait(lambda: bool(self._buffer) or self._peer_ended, after_error=True)
            if not self._buffer:
                return b""
            piece = self._buffer.popleft()
            if len(piece) > limit:
                self._buffer.appendleft(piece[limit:])
                piece = piece[:limit]
            self._waiting -= len(piece)
            self._taken += len(piece)
            due = self._taken if self._taken >= WINDOW // 2 and not self._peer_ended else 0
            self._taken -= due
        if due:
            self._link.send(credit(self.number, due))
        return piece

    def read_all(self, limit: int) -> bytes:
        """Everything to the end. Raises `Invalid` when it is more than `limit` bytes."""
        found = bytearray()
        while piece := self.read():
            found += piece
            if len(found) > limit:
                raise Invalid(f"{self._link.name} sent more than {limit} bytes")
        return bytes(found)

    def write(self, data: bytes | memoryview, /) -> int:
        """Waits until the peer has room for all of it. Raises what the peer refused with, `Unavailable`."""
        left = memoryview(data).cast("B")
        while left:
            with self._link.changed:
                self._wait(lambda: self._credit > 0)
                size = min(len(left), self._credit, MAX_PAYLOAD)
                self._credit -= size
            self._link.send(Frame(Kind.DATA, self.number, bytes(left[:size])))
            left = left[size:]
        return len(data)

    def end(self) -> None:
        """Nothing more will be written."""
        with self._link.changed:
            if self._ended or self._error is not None:
                return
            self._ended = True
        self._link.send(Frame(Kind.END, self.number))

    def refuse(self, error: SampanError) -> None:
        """End both directions; the peer's calls raise this error. Nothing happens when it is over already."""
        with self._link.changed:
            if self._error is not None or self._link.closed or (self._ended and self._peer_ended):
                return
            self._error = error
            self._link.changed.notify_all()
        try:
            self._link.send(refusal(self.number, error))
        except Unavailable:
            return  # the peer is gone: it needs no reason any more

    def close(self) -> None:
        """Give the stream up: a direction that has not ended is broken off. May be called several times."""
        self.refuse(Unavailable("the stream was closed"))
        self._link.forget(self.number)

    def take(self, frame: Frame) -> None:
        """A frame of the peer; the link's lock is held. Raises `Invalid` when the peer breaks the rules."""
        if frame.kind is Kind.CREDIT:
            self._credit += frame.credit
            if self._credit > _MAX_CREDIT:
                raise Invalid("it gave more credit than a stream can have")
        elif frame.kind is Kind.ERROR:
            self._error = self._error or frame.error
        elif self._peer_ended:
            raise Invalid("it went on with a stream that it had ended")
        elif frame.kind is Kind.END:
            self._peer_ended = True
        else:
            self._waiting += len(frame.payload)
            if self._waiting + self._taken > WINDOW:
                raise Invalid("it sent more than it had credit for")
            if self._buffer and len(self._buffer[-1]) + len(frame.payload) <= _SMALL:
                self._buffer[-1] += frame.payload
            elif frame.payload:
                self._buffer.append(frame.payload)

    def _wait(self, ready: Callable[[], bool], *, after_error: bool = False) -> None:
        """Until `ready`, with the link's lock. `after_error`: what the peer had ended well before it can be had."""
        until = time.monotonic() + self._link.patience
        while True:
            if self._error is not None and not (after_error and self._peer_ended):
                raise self._error
            if ready():
                return
            self._link.require_open()
            if not self._link.changed.wait(max(until - time.monotonic(), 0.0)) and time.monotonic() >= until:
                raise Unavailable(f"{self._link.name} has not answered for {self._link.patience:.0f} s")
