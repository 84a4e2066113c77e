"""What a process leaves in its pipes when it ends is read, and no more than that."""

from __future__ import annotations

import os

from sampan.runtime.logsink import LogSink
from sampan.runtime.loop import Loop
from sampan.runtime.streams import Streams


class Refilling(LogSink):
    """A log whose every write brings new output: as of somebody who inherited the pipe and never stops."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self.size = 0

    def write(self, stream: int, data: bytes, time_ns: int) -> None:
        self.size += len(data)
        assert self.size < 64 << 20, "output is read without an end"
        os.write(self._pipe, data)

    def close(self) -> None:
        return None


def test_who_inherited_the_streams_can_not_keep_the_end_from_being_recorded() -> None:
    output, inherited = os.pipe()
    sink = Refilling(inherited)
    streams = Streams(Loop(), sink, lambda _error: None)
    streams.add_output(output, 1)
    os.write(inherited, b"x" * 1000)
    streams.drain()
    os.close(inherited)
    assert sink.size >= 1000


def test_all_that_was_in_a_full_pipe_is_read() -> None:
    output, inherited = os.pipe()
    os.set_blocking(inherited, False)
    written = 0
    try:
        while True:
            written += os.write(inherited, b"y" * 4096)
    except BlockingIOError:
        os.close(inherited)
    seen = []

    class Kept(LogSink):
        def write(self, stream: int, data: bytes, time_ns: int) -> None:
            seen.append(data)

        def close(self) -> None:
            return None

    streams = Streams(Loop(), Kept(), lambda _error: None)
    streams.add_output(output, 1)
    streams.drain()
    assert len(b"".join(seen)) == written
