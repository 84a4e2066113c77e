"""A shim's side of a container's standard streams: output to the log and to the attached clients, input from these."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable

from sampan.errors import Invalid
from sampan.linux import terminal
from sampan.runtime.attach import AttachClient
from sampan.runtime.logsink import LogSink
from sampan.runtime.loop import HANGUP, READ, WRITE, Loop
from sampan.runtime.messages import AttachOptions

_CHUNK = 64 * 1024
_TERMINAL = 1 << 20
"""Bytes: more than a terminal's buffers hold."""
_MAX_INPUT = 64 * 1024
"""Bytes of input that may wait for the container before clients are not read from any more."""


class Streams:
    """The log gets every piece first, then the clients; see `attach` for clients that don't keep up."""

    def __init__(self, loop: Loop, sink: LogSink | None, on_log_error: Callable[[OSError], None]) -> None:
        self._loop = loop
        self._sink = sink
        self._on_log_error = on_log_error
        self._outputs: dict[int, int] = {}
        self._input = -1
        self._once = False
        self._master = -1
        self._typed = bytearray()
        self._closing_input = False
        self._clients: list[AttachClient] = []
        self._started = False
        self._ended = False
        if sink is not None:
            sink.join(loop, self._log_changed)

    def add_output(self, descriptor: int, stream: int) -> None:
        """The reading end of a pipe; owned from here on."""
        os.set_blocking(descriptor, False)
        self._outputs[descriptor] = stream
        self._watch_outputs()

    def set_input(self, descriptor: int, once: bool) -> None:
        """The writing end of a pipe; owned from here on. `once`: close it with the first client's input."""
        os.set_blocking(descriptor, False)
        self._input = descriptor
        self._once = once

    def set_terminal(self, master: int, has_input: bool) -> None:
        """Owned from here on. A terminal's input is never closed by a client's leaving."""
        os.set_blocking(master, False)
        self._master = master
        self._outputs[master] = 1
        self._input = master if has_input else -1
        self._watch_outputs()

    def resize(self, height: int, width: int) -> None:
        """Raises `Invalid` without a terminal."""
        if self._master < 0:
            raise Invalid("the process has no terminal")
        terminal.set_size(self._master, height, width)

    def started(self) -> None:
        """Who attaches from now on is an onlooker."""
        self._started = True

    def attach(self, connection: socket.socket, preread: bytes, options: AttachOptions) -> None:
        client = AttachClient(
            self._loop,
            connection,
            options,
            terminal=self._master >= 0,
            onlooker=self._started,
            on_input=self._from_client,
            on_change=self._client_changed,
        )
        self._clients.append(client)
        client.feed_input(preread)

    def drain(self, *, failed: bool = False) -> None:
        """The process has ended: what it has written is read, and no more is waited for.

        `failed`: it never became the program; then clients are let go of without an end of their connections.
        """
        for descriptor in tuple(self._outputs):
            # Not more than there can be of it: who inherited its streams may write for ever.
            left = _capacity(descriptor)
            while left > 0 and descriptor in self._outputs and (size := self._read(descriptor)):
                left -= size
        for descriptor in tuple(self._outputs):
            self._end_output(descriptor)
        self._close_input()
        self._ended = True
        if self._sink is not None:
            self._guard_log(self._sink.close)
        for client in tuple(self._clients):
            if failed:
                client.release()
            else:
                client.finish()

    @property
    def busy(self) -> bool:
        """Clients or the log have not received everything yet."""
        return bool(self._clients) or (self._sink is not None and self._sink.patience is not None)

    def linger(self, seconds: float) -> None:
        """After `drain`, while `busy`: one round of the loop. Clients are dropped after `seconds` without progress."""
        patience = self._sink.patience if self._sink is not None else None
        if self._sink is not None and patience is not None and patience <= 0:
            self._sink.give_up()
        elif (
            not self._loop.run_once(seconds if patience is None else min(patience, seconds))
            and patience is None
        ):
            for client in tuple(self._clients):
                client.close()

    def _log_changed(self) -> None:
        if not self._ended:
            self._watch_outputs()

    def _watch_outputs(self) -> None:
        congested = any(client.congested for client in self._clients)
        congested = congested or (self._sink is not None and self._sink.congested)
        for descriptor, stream in self._outputs.items():
            wants_write = WRITE if descriptor == self._input and self._typed else 0
            events = (0 if congested else READ) | wants_write
            if events == 0:
                # A hang-up is reported whether asked for or not: without interest, don't watch at all.
                self._loop.forget(descriptor)
            else:
                self._loop.watch(descriptor, events, self._output_callback(descriptor, stream))

    def _output_callback(self, descriptor: int, stream: int) -> Callable[[int], None]:
        def ready(events: int) -> None:
            if events & WRITE:
                self._flush_input()
            if events & (READ | HANGUP) and descriptor in self._outputs:
                self._read(descriptor)

        return ready

    def _read(self, descriptor: int) -> int:
        """One piece of output to the log and the clients; its size, 0 when there is none now."""
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return 0
        except OSError as error:
            if not terminal.is_hangup(error):
                raise
            data = b""
        if not data:
            self._end_output(descriptor)
            return 0
        stream = self._outputs[descriptor]
        if self._sink is not None:
            sink = self._sink
            self._guard_log(lambda: sink.write(stream, data, time.time_ns()))
        for client in tuple(self._clients):
            client.send(stream, data)
        if not self._ended and (self._clients or (self._sink is not None and self._sink.congested)):
            self._watch_outputs()
        return len(data)

    def _guard_log(self, action: Callable[[], None]) -> None:
        """A full disk must not stop the container: the log ends there, and the exit record tells."""
        try:
            action()
        except OSError as error:
            self._on_log_error(error)

    def _end_output(self, descriptor: int) -> None:
        self._loop.forget(descriptor)
        del self._outputs[descriptor]
        if descriptor == self._input:
            self._input = -1
        if descriptor == self._master:
            self._master = -1
        os.close(descriptor)

    def _client_changed(self, client: AttachClient) -> None:
        if client.closed and client in self._clients:
            self._clients.remove(client)
        if not self._ended:
            self._watch_outputs()

    def _from_client(self, data: bytes) -> None:
        if self._input < 0:
            return
        if not data:
            if self._once and self._input != self._master:
                self._closing_input = True
                self._flush_input()
            return
        self._typed += data
        self._flush_input()

    def _flush_input(self) -> None:
        while self._typed and self._input >= 0:
            try:
                written = os.write(self._input, self._typed)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise
                self._close_input()
                return
            del self._typed[:written]
        if self._closing_input and not self._typed:
            self._close_input()
            return
        for client in self._clients:
            client.pause_input(len(self._typed) >= _MAX_INPUT)
        if self._input == self._master:
            self._watch_outputs()
        elif self._input >= 0 and self._typed:
            self._loop.watch(self._input, WRITE, lambda _: self._flush_input())
        elif self._input >= 0:
            self._loop.forget(self._input)

    def _close_input(self) -> None:
        """The container sees the end of its input; what clients still send is dropped."""
        self._typed.clear()
        self._closing_input = False
        if self._input >= 0 and self._input != self._master:
            self._loop.forget(self._input)
            os.close(self._input)
        self._input = -1
        for client in self._clients:
            client.pause_input(False)


def _capacity(descriptor: int) -> int:
    """The bytes that a pipe or a terminal can hold at most."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ)
    except OSError:
        return _TERMINAL
