"""One attached client of a shim: output to it, input from it.

What happens when a client does not keep up: its output waits in a buffer of `MAX_PENDING` bytes. A client that
was there before the start is part of a pipeline (`run … | less`): when its buffer is full, output is not read
any more, and the container waits as it would for a full pipe, as in Docker. One that came later is an onlooker:
it is dropped, so that nobody can stop a container by looking at it.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable

from sampan.runtime.loop import HANGUP, READ, WRITE, Loop
from sampan.runtime.messages import AttachOptions

MAX_PENDING = 1 << 20
"""Bytes."""

_HEADER = struct.Struct(">BxxxL")
_CHUNK = 32 * 1024
_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class DetachKeys:
    """Finds a key sequence in a stream of input; what is not the sequence passes unchanged."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """The bytes to pass on, and whether the sequence is complete (what follows it is dropped)."""
        if not self._keys:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte != self._keys[self._matched]:
                passed += self._keys[: self._matched]
                self._matched = 0
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self._matched = 0
                    return bytes(passed), True
            else:
                passed.append(byte)
        return bytes(passed), False


class AttachClient:
    """Owns the connection. `on_input` gets what the client types (b"" once, when it has closed its side);
    `on_change` is called when its state changed: gone, or more or less to be sent."""

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        options: AttachOptions,
        *,
        terminal: bool,
        onlooker: bool,
        on_input: Callable[[bytes], None],
        on_change: Callable[[AttachClient], None],
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._options = options
        self._terminal = terminal
        self._onlooker = onlooker
        self._on_input = on_input
        self._on_change = on_change
        self._keys = DetachKeys(options.detach_keys if terminal else b"")
        self._pending = bytearray()
        self._reading = options.stdin
        self._paused = False
        self._finishing = False
        self.closed = False
        self._watch()

    @property
    def congested(self) -> bool:
        """The container has to wait for this client."""
        return not self._onlooker and len(self._pending) >= MAX_PENDING

    @property
    def pending(self) -> int:
        """Bytes that wait to be sent."""
        return len(self._pending)

    def feed_input(self, data: bytes) -> None:
        """Input of the client that somebody else has read already."""
        if self._reading and data:
            self._input(data)

    def send(self, stream: int, data: bytes) -> None:
        """Output of the container, to be sent if the client wants it."""
        options = self._options
        if self.closed or not (options.stdout if stream == 1 else options.stderr):
            return
        framed = options.framed and not self._terminal
        parts = (_HEADER.pack(stream, len(data)) + data) if framed else data
        if self._pending:
            self._pending += parts
        else:
            sent = self._transmit(parts)
            if sent < len(parts):
                self._pending += parts[sent:]
        if self._onlooker and len(self._pending) > MAX_PENDING:
            self.close()
        elif self._pending:
            self._watch()

    def pause_input(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            self._watch()

    def finish(self) -> None:
        """No more output is to come: close after the last byte."""
        self._finishing = True
        self._reading = False
        if not self._pending:
            self.close()
        else:
            self._watch()

    def release(self) -> None:
        """Leave the connection to whoever else holds it: there was no process, and the engine tells the client why."""
        if not self.closed:
            self.closed = True
            self._loop.forget(self._connection.fileno())
            self._connection.close()
            self._pending.clear()
            self._on_change(self)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.forget(self._connection.fileno())
            try:
                # The daemon may hold a duplicate for a moment still: the client is to see the end now.
                self._connection.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno not in (errno.ENOTCONN, errno.EPIPE, errno.EINVAL):
                    raise
            finally:
                self._connection.close()
            self._pending.clear()
            self._on_change(self)

    def _watch(self) -> None:
        if not self.closed:
            events = READ if self._reading and not self._paused else 0
            events |= WRITE if self._pending else 0
            self._loop.watch(self._connection.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & READ and not self.closed and self._reading:
            self._receive()
        if events & HANGUP and not events & READ and not self.closed:
            self._leave()

    def _flush(self) -> None:
        congested = self.congested
        while self._pending and not self.closed:
            sent = self._transmit(bytes(memoryview(self._pending)[:_CHUNK]))
            if not sent:
                break
            del self._pending[:sent]
        if self.closed:
            return
        if self._finishing and not self._pending:
            self.close()
            return
        self._watch()
        if congested and not self.congested:
            self._on_change(self)

    def _transmit(self, data: bytes) -> int:
        try:
            return self._connection.send(data, _SEND_FLAGS)
        except BlockingIOError:
            return 0
        except OSError:
            self._leave()
            return len(data)

    def _receive(self) -> None:
        try:
            data = self._connection.recv(_CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self._leave()
            return
        if data:
            self._input(data)
            return
        # Half-closed, mostly: output may still be wanted.
        self._reading = False
        self._watch()
        self._on_input(b"")

    def _input(self, data: bytes) -> None:
        passed, detached = self._keys.feed(data)
        if passed:
            self._on_input(passed)
        if detached:
            self._reading = False
            self.close()

    def _leave(self) -> None:
        """The connection is gone altogether."""
        was_reading = self._reading
        self._reading = False
        self.close()
        if was_reading:
            self._on_input(b"")
