"""Attached streams: this process's stdin, stdout, stderr on one side, a hijacked connection on the other.

One loop over poll(2) moves everything, so that a container that does not read its input cannot stop its output.
Signals arrive in the same loop through a wake-up descriptor.
"""

from __future__ import annotations

import os
import select

from sampan.cli.terminal import DetachDetector, RawMode, is_terminal, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

    from sampan.client.api import Client, Hijacked
else:
    import _signal as signal

_READ = 32768
_PENDING_LIMIT = 1 << 17
_STDERR_STREAM = 2
# What a proxy does not pass on: what is about this process, or can't be caught. All else goes, as with Docker.
_KEPT = ("SIGKILL", "SIGSTOP", "SIGCHLD", "SIGPIPE", "SIGURG", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")


class Signals:
    """A context that turns signals into bytes on a descriptor, for the loop to read."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = numbers
        self._before: list[object] = []
        self.read_end = -1

    def __enter__(self) -> Signals:
        self.read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        os.set_blocking(self.read_end, False)
        self._before = [signal.signal(number, _ignore) for number in self._numbers]
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in zip(self._numbers, self._before, strict=True):
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self.read_end)
        os.close(self._write_end)

    def pending(self) -> list[int]:
        try:
            return list(os.read(self.read_end, 64))
        except BlockingIOError:
            return []


def _ignore(number: int, frame: object) -> None:
    """The wake-up descriptor carries the news; without a handler the default action would happen."""


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class FrameReader:
    """Docker's frames on a stream without a terminal: stream number, three zeros, length (big-endian)."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The complete frames; of a long one its parts are given as they come."""
        self._buffer += data
        frames = []
        while len(self._buffer) >= 8:
            length = int.from_bytes(self._buffer[4:8], "big")
            available = min(len(self._buffer) - 8, length)
            if available < length and available < _READ:
                break
            frames.append((self._buffer[0], bytes(self._buffer[8 : 8 + available])))
            rest = length - available
            if rest:
                self._buffer[: 8 + available] = bytes((self._buffer[0], 0, 0, 0)) + rest.to_bytes(4, "big")
            else:
                del self._buffer[: 8 + length]
        return frames


class Attachment:
    """One attached session. `pump` runs it; its value is "detached", "closed" or what `until` said."""

    def __init__(
        self,
        hijacked: Hijacked,
        *,
        tty: bool,
        stdin: bool,
        output: bool = True,
        detach_keys: bytes = b"",
        on_signal: Callable[[int], None] | None = None,
        on_resize: Callable[[int, int], None] | None = None,
    ) -> None:
        self._hijacked = hijacked
        self._sock = hijacked.sock
        self._tty = tty
        self._stdin = stdin
        self._output = output
        self._frames = FrameReader()
        self._detector = DetachDetector(detach_keys if tty else b"")
        self._on_signal = on_signal
        self._on_resize = on_resize
        self._pending = bytearray()
        self._input_ended = False

    def pump(self, signals: Signals) -> str:
        """Move bytes until the connection ends or the detach keys are typed."""
        self._deliver(self._hijacked.preread)
        self._sock.setblocking(False)
        poll = select.poll()
        poll.register(signals.read_end, select.POLLIN)
        raw = self._tty and self._stdin and is_terminal(0)
        with RawMode(0 if raw else -1):
            while True:
                self._watch(poll)
                for descriptor, _ in poll.poll():
                    if descriptor == signals.read_end:
                        self._handle_signals(signals)
                    elif descriptor == 0:
                        if self._read_input():
                            return "detached"
                    elif not self._exchange():
                        return "closed"

    def _watch(self, poll: select.poll) -> None:
        events = select.POLLIN | (select.POLLOUT if self._pending else 0)
        poll.register(self._sock.fileno(), events)
        if self._stdin and not self._input_ended:
            if len(self._pending) < _PENDING_LIMIT:
                poll.register(0, select.POLLIN)
            else:
                self._forget_input(poll)
        else:
            self._forget_input(poll)

    @staticmethod
    def _forget_input(poll: select.poll) -> None:
        try:
            poll.unregister(0)
        except KeyError:
            return  # it was not watched

    def _handle_signals(self, signals: Signals) -> None:
        for number in signals.pending():
            if number == signal.SIGWINCH and self._on_resize is not None:
                self._on_resize(*size())
            elif self._on_signal is not None:
                self._on_signal(number)

    def _read_input(self) -> bool:
        try:
            data = os.read(0, _READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._input_ended = True
            self._stdin = False
            self._end_input()
            return False
        passed, detached = self._detector.feed(data)
        self._pending += passed
        return detached

    def _end_input(self) -> None:
        if not self._pending:
            try:
                self._sock.shutdown(1)
            except OSError:
                return  # the other side is gone already

    def _exchange(self) -> bool:
        """One round on the connection; False when it has ended."""
        if self._pending:
            try:
                sent = self._sock.send(self._pending)
            except BlockingIOError:
                sent = 0
            except OSError:
                # The container's input is closed; its output may still come.
                self._pending.clear()
                self._stdin, sent = False, 0
            del self._pending[:sent]
            if self._input_ended:
                self._end_input()
        try:
            data = self._sock.recv(_READ)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        if not data:
            return False
        self._deliver(data)
        return True

    def _deliver(self, data: bytes) -> None:
        if not data or not self._output:
            return
        if self._tty:
            write_all(1, data)
            return
        for stream, content in self._frames.feed(data):
            write_all(2 if stream == _STDERR_STREAM else 1, content)


def forwarder(client: Client, container: str) -> Callable[[int], None]:
    """Pass a signal on to a container; that it has ended meanwhile is no failure."""
    from sampan.client.api import ApiError

    def forward(number: int) -> None:
        try:
            client.call("POST", f"/containers/{container}/kill", {"signal": str(number)})
        except ApiError:
            return

    return forward


def resizer(client: Client, path: str) -> Callable[[int, int], None]:
    """Tell the engine the terminal's size; `path` is /containers/ID or /exec/ID."""
    from sampan.client.api import ApiError

    def resize(rows: int, columns: int) -> None:
        if rows and columns:
            try:
                client.call("POST", f"{path}/resize", {"h": rows, "w": columns})
            except ApiError:
                return  # it has ended

    return resize


def attached_signals(*, proxy: bool, tty: bool) -> Signals:
    if proxy:
        kept = {int(getattr(signal, name)) for name in _KEPT}
        return Signals(sorted(int(number) for number in signal.valid_signals() if number not in kept))
    return Signals([int(signal.SIGWINCH)] if tty else [])
