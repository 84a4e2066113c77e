"""The log writer: a process between a shim and a log server (or a slow disk), for one container.

It takes packets of output, delivers them, however long that takes and however often it has to be tried, and says what
is delivered. When the shim's side ends, the rest has the seconds of `sampan.logs.feed`, also when the shim is dead.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Sequence
from typing import NoReturn, Protocol

import msgspec

from sampan.errors import Internal, Invalid, SampanError
from sampan.linux import process
from sampan.logs.destination import Destination, open_destination
from sampan.logs.entry import LogEntry, LogSource
from sampan.logs.feed import CLOSE_SECONDS, GRACE
from sampan.logs.file_sink import file_sink
from sampan.logs.options import FILE_DRIVERS, delivery_options, file_options, own_options
from sampan.logs.packets import MAX_PACKET, Delivered, Opened, Trouble, count_lines, entries, unpack
from sampan.logs.undelivered import Losses
from sampan.runtime import wire
from sampan.runtime.failure import Failure, describe, failure_of
from sampan.runtime.logsink import LogSink
from sampan.runtime.messages import LogTarget

_BATCH_BYTES = 256 * 1024
_BATCH_LINES = 4096
"""A batch that has as much is complete; each line is an object of its own."""
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 5.0
_WAIT_AT_THE_END = 0.5
MOST_MEMORY = 768 << 20
"""Bytes of a writer's own: what it holds back for a server is bounded far below that."""
_RESTART_WAIT = 0.25


class Output(Protocol):
    """What packets are delivered to."""

    @property
    def losses(self) -> Losses: ...

    def put(self, packets: Sequence[bytes]) -> None:
        """Raises OSError for what is to be tried again."""

    def close(self) -> None: ...


class RemoteOutput:
    """Entries to a destination; those that one call has delivered are not sent by the next."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._rest: list[LogEntry] = []

    @property
    def losses(self) -> Losses:
        return self._destination.losses

    def put(self, packets: Sequence[bytes]) -> None:
        if not self._rest:
            self._rest = [entry for packet in packets for entry in entries(packet)]
        try:
            self._destination.send(self._rest)
        except OSError as error:
            del self._rest[: getattr(error, "delivered", 0)]
            raise
        self._rest = []

    def close(self) -> None:
        self._destination.close()


class FileOutput:
    """A sink on disk (mode non-blocking of `json-file`). What can't be written is lost, and counted."""

    def __init__(self, sink: LogSink) -> None:
        self.losses = Losses()
        self.error = ""
        self._sink = sink

    def put(self, packets: Sequence[bytes]) -> None:
        for packet in packets:
            stream, data, time_ns, _ = unpack(packet)
            try:
                self._sink.write(stream, data, time_ns)
            except OSError as error:
                self.losses.count(count_lines(data), len(data))
                self.error = f"the log can't be written: {describe(error)}"

    def close(self) -> None:
        self._sink.close()


def start_writer(target: LogTarget, deaths: int, theirs: socket.socket) -> int:
    """Fork a writer; its process id. `deaths`: how many died in a row before it; only the first may refuse to begin."""
    pid = os.fork()
    if pid == 0:
        _run(target, deaths, theirs)
    return pid


def _run(target: LogTarget, deaths: int, theirs: socket.socket) -> NoReturn:
    code = 1
    try:
        process.close_except({theirs.fileno()})
        process.set_name("sampan-log")
        # A server's endless answer ends the writer, not the host's memory.
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = MOST_MEMORY if hard == resource.RLIM_INFINITY else min(MOST_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        gc.enable()
        time.sleep(min(deaths * _RESTART_WAIT, _LONGEST_WAIT))
        writer = Writer(theirs)
        output = writer.open(target, first=deaths == 0)
        if output is not None:
            writer.serve(output)
            code = 0
    except BaseException as error:  # noqa: BLE001 - the border of the process
        _say(theirs, Trouble(f"log writer: {type(error).__name__}: {error}"))
    finally:
        os._exit(code)


def _say(sock: socket.socket, report: msgspec.Struct) -> None:
    try:
        wire.send(sock, report)
    except (SampanError, OSError):
        return  # the shim is gone; what is left is delivered all the same


def _words(error: Exception) -> str:
    """Drivers put Docker's words into their errors, beside the number."""
    return (error.strerror if isinstance(error, OSError) else None) or describe(error)


class Writer:
    """`sock`: the shim's other side."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._packets = 0
        self._ended = False
        self._error = ""

    def open(self, target: LogTarget, *, first: bool) -> Output | None:
        """None when it can't be, and the container is not to start."""
        if target.driver not in FILE_DRIVERS:
            return self._open_remote(target, first=first)
        try:
            sink = file_sink(target, file_options(target.driver, target.options))
        except OSError as error:
            _say(self._sock, failure_of(error))
            return None
        _say(self._sock, Opened())
        return FileOutput(sink)

    def _open_remote(self, target: LogTarget, *, first: bool) -> Output | None:
        """A server that is not there is waited for only when the container may not wait, or runs already."""
        source = msgspec.msgpack.decode(target.source, type=LogSource)
        patient = not first or delivery_options(target.options).drops
        wait = _FIRST_WAIT
        told = not first
        while True:
            try:
                destination = open_destination(target.driver, own_options(target.options), source)
            except (SampanError, OSError) as error:
                if not patient or isinstance(error, Invalid):
                    known = isinstance(error, SampanError)
                    _say(self._sock, failure_of(error) if known else Failure(Internal.kind, _words(error)))
                    return None
                self._trouble(error, opening=not told)
                told = True
                self._pause(wait)
                wait = min(wait * 2, _LONGEST_WAIT)
            else:
                if not told:
                    _say(self._sock, Opened())
                return RemoteOutput(destination)

    def serve(self, output: Output) -> None:
        """Until the shim's side has ended, and what it said is delivered."""
        while packets := self._receive():
            self._deliver(output, packets)
        signal.setitimer(signal.ITIMER_REAL, CLOSE_SECONDS)
        output.close()
        self._report(output)

    def _receive(self) -> list[bytes]:
        """The packets that are there, at least one; none at the end."""
        found: list[bytes] = []
        size = lines = 0
        while size < _BATCH_BYTES and lines < _BATCH_LINES:
            try:
                packet = self._sock.recv(MAX_PACKET, socket.MSG_DONTWAIT if found else 0)
            except BlockingIOError:
                break
            except ConnectionError:
                packet = b""
            if not packet:
                break
            found.append(packet)
            size += len(packet)
            lines += packet.count(b"\n")
        return found

    def _deliver(self, output: Output, packets: list[bytes]) -> None:
        wait = _FIRST_WAIT
        while True:
            try:
                output.put(packets)
            except OSError as error:
                if getattr(error, "delivered", 0):
                    wait = _FIRST_WAIT
                self._trouble(error)
                self._pause(wait)
                wait = min(wait * 2, _LONGEST_WAIT)
            else:
                break
        self._packets += len(packets)
        self._error = ""
        if isinstance(output, FileOutput) and output.error:
            _say(self._sock, Trouble(output.error))
        self._report(output)

    def _report(self, output: Output) -> None:
        losses = output.losses
        _say(self._sock, Delivered(self._packets, losses.entries, losses.bytes))

    def _trouble(self, error: Exception, *, opening: bool = False) -> None:
        text = _words(error)
        if opening:
            _say(self._sock, Opened(text))
        elif text != self._error:
            _say(self._sock, Trouble(text))
        self._error = text

    def _pause(self, seconds: float) -> None:
        """Before the next try. The end of the shim's side is noticed, and from then on the time is limited."""
        if not self._ended:
            poll = select.poll()
            poll.register(self._sock, select.POLLRDHUP)
            self._ended = bool(poll.poll(seconds * 1000))
            if self._ended:
                signal.setitimer(signal.ITIMER_REAL, GRACE)
        else:
            time.sleep(min(seconds, _WAIT_AT_THE_END))
