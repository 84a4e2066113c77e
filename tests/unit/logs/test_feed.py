"""What a shim keeps for its log writer, what it drops, and what it does when the writer dies. The writer is played."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sampan.errors import Internal, Invalid
from sampan.logs.feed import Feed
from sampan.logs.options import Delivery
from sampan.logs.packets import Delivered, Opened, Report, Trouble, unpack
from sampan.logs.status import LogStatus, StatusFile, read_status
from sampan.runtime import wire
from sampan.runtime.failure import Failure
from sampan.runtime.loop import Loop


class Writers:
    """Starts processes that do nothing, and holds their sockets."""

    def __init__(self) -> None:
        self.opening: Report = Opened()
        self.deaths: list[int] = []
        self.pids: list[int] = []
        self.sockets: list[socket.socket] = []
        self._packets = 0

    def start(self, deaths: int, theirs: socket.socket) -> int:
        self.deaths.append(deaths)
        self.sockets.append(theirs.dup())
        self._packets = 0
        wire.send(self.sockets[-1], self.opening)
        self.pids.append(os.posix_spawn("/bin/sleep", ["sleep", "1000"], os.environ))
        return self.pids[-1]

    def take(self, count: int = 1000) -> list[tuple[int, bytes, bool]]:
        """What has arrived: stream, data, whether it goes on."""
        found = []
        while len(found) < count:
            try:
                packet = self.sockets[-1].recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if not packet:
                break
            stream, data, _, partial = unpack(packet)
            found.append((stream, data, partial))
        return found

    def say(self, report: Report) -> None:
        wire.send(self.sockets[-1], report)

    def deliver(self, count: int, **losses: int) -> None:
        self._packets += count
        self.say(Delivered(self._packets, **losses))

    def die(self) -> None:
        self.sockets[-1].close()


@pytest.fixture
def writers() -> Iterator[Writers]:
    made = Writers()
    yield made
    for each in made.sockets:
        each.close()
    for pid in made.pids:
        try:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            continue  # the feed has ended it


class Shim:
    """A feed in a loop, as a shim has it."""

    def __init__(self, writers: Writers, path: Any, *, drops: bool = False, buffer: int = 1000) -> None:
        self.changes = 0
        self.path = path / "status"
        self.loop = Loop()
        self.feed = Feed(writers.start, Delivery(drops, buffer), StatusFile(str(self.path)))
        self.feed.join(self.loop, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def turn(self) -> None:
        assert self.loop.run_once(10)

    def replace_writer(self, writers: Writers) -> None:
        """It dies, and the next one begins."""
        writers.die()
        begun = len(writers.pids)
        while len(writers.pids) == begun:
            self.turn()

    @property
    def status(self) -> LogStatus:
        return read_status(self.path) or LogStatus()


@pytest.fixture
def shim(writers: Writers, tmp_path: Any) -> Iterator[Callable[..., Shim]]:
    made: list[Shim] = []

    def make(**options: Any) -> Shim:
        made.append(Shim(writers, tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.feed.give_up()
        each.loop.close()


def test_lines_travel_whole_and_long_ones_in_marked_pieces(
    shim: Callable[..., Shim], writers: Writers
) -> None:
    one = shim(buffer=1 << 20)
    one.feed.write(1, b"a\nb\nc", 5)
    one.feed.write(2, b"error\n", 6)
    one.feed.write(1, b"d\n" + b"x" * 16384 + b"y\n", 7)
    one.feed.write(1, b"end", 8)
    one.feed.close()
    assert writers.take() == [
        (1, b"a\nb\n", False),
        (2, b"error\n", False),
        (1, b"cd\n", False),
        (1, b"x" * 16384, True),
        (1, b"y\n", False),
        (1, b"end", False),
    ]


def test_much_at_once_is_cut_after_lines(shim: Callable[..., Shim], writers: Writers) -> None:
    one = shim(buffer=1 << 20)
    data = b"".join(b"line %d\n" % number for number in range(8000))
    one.feed.write(1, data, 0)
    packets = writers.take()
    assert b"".join(text for _, text, _ in packets) == data
    assert len(packets) > 1
    assert all(text.endswith(b"\n") and len(text) <= 32 * 1024 for _, text, _ in packets)


def test_a_full_buffer_lets_the_container_wait_until_something_is_delivered(
    shim: Callable[..., Shim], writers: Writers
) -> None:
    one = shim(buffer=1000)
    one.feed.write(1, b"x" * 499 + b"\n", 0)
    assert not one.feed.congested
    one.feed.write(1, b"x" * 499 + b"\n", 0)
    assert one.feed.congested
    assert len(writers.take()) == 2  # taken is not delivered
    assert one.feed.congested
    writers.deliver(1)
    one.turn()
    assert (one.feed.congested, one.changes) == (False, 1)
    assert one.status == LogStatus()


def test_what_does_not_fit_is_dropped_in_whole_lines_and_counted(
    shim: Callable[..., Shim], writers: Writers
) -> None:
    one = shim(drops=True, buffer=10)
    one.feed.write(1, b"123\n456\n789\n", 0)  # two fit
    one.feed.write(1, b"abc\n", 0)
    assert not one.feed.congested
    assert (one.status.lost_lines, one.status.lost_bytes) == (2, 8)
    assert writers.take() == [(1, b"123\n456\n", False)]
    writers.deliver(1)
    one.turn()
    one.feed.write(1, b"def\n", 0)
    assert writers.take() == [(1, b"def\n", False)]
    assert one.status.lost_lines == 2


def test_one_line_has_room_in_an_empty_buffer_however_small_it_is(
    shim: Callable[..., Shim], writers: Writers
) -> None:
    one = shim(drops=True, buffer=0)
    one.feed.write(1, b"long line\nnext\n", 0)
    assert writers.take() == [(1, b"long line\n", False)]
    assert (one.status.lost_lines, one.status.lost_bytes) == (1, 5)


def test_a_new_writer_gets_what_the_dead_one_had_not_delivered(
    shim: Callable[..., Shim], writers: Writers
) -> None:
    one = shim(buffer=1 << 20)
    for text in (b"1\n", b"2\n", b"3\n"):
        one.feed.write(1, text, 0)
    writers.take(2)
    writers.deliver(1)
    one.turn()
    writers.die()
    one.turn()
    one.feed.write(1, b"4\n", 0)
    assert writers.take() == [(1, b"2\n", False), (1, b"3\n", False), (1, b"4\n", False)]
    assert writers.deaths == [0, 1]
    assert (one.status.writer_restarts, one.status.lost_lines) == (1, 0)


def test_output_over_which_every_writer_dies_is_given_up(shim: Callable[..., Shim], writers: Writers) -> None:
    one = shim(buffer=1 << 20)
    one.feed.write(1, b"poison\n", 0)
    one.feed.write(1, b"good\n", 0)
    for _ in range(4):
        one.replace_writer(writers)
        assert writers.take() == [(1, b"poison\n", False), (1, b"good\n", False)]
    one.replace_writer(writers)
    assert writers.take() == [(1, b"good\n", False)]
    assert one.status.lost_bytes == len(b"poison\n")


def test_a_host_without_processes_to_spare_costs_output_until_it_has_some(
    shim: Callable[..., Shim], writers: Writers, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = shim(buffer=4)
    one.feed.write(1, b"1\n2\n", 0)
    assert one.feed.congested

    def refuse(deaths: int, theirs: socket.socket) -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(one.feed, "_start_writer", refuse)
        writers.die()
        one.turn()
        assert (one.feed.congested, one.changes) == (False, 1)
        one.feed.write(1, b"3\n", 0)
    assert (one.status.lost_lines, one.status.error) == (
        3,
        "the log writer can't be started: Resource temporarily unavailable",
    )
    one.feed.write(1, b"4\n", 0)
    assert writers.take() == [(1, b"4\n", False)]


@pytest.mark.parametrize("drops", [False, True])
def test_short_lines_fill_the_buffer_by_their_number(
    shim: Callable[..., Shim], writers: Writers, drops: bool
) -> None:
    one = shim(buffer=1 << 20, drops=drops)
    for _ in range(65536):
        one.feed.write(1, b"\n", 0)
    assert one.feed.congested != drops
    one.feed.write(1, b"\n", 0)
    assert one.status.lost_lines == (1 if drops else 0)


def test_losses_of_the_driver_itself_are_added(shim: Callable[..., Shim], writers: Writers) -> None:
    one = shim(buffer=1 << 20)
    one.feed.write(1, b"too large for a datagram\n", 0)
    writers.deliver(1, lost_lines=1, lost_bytes=24)
    one.turn()
    writers.deliver(0, lost_lines=3, lost_bytes=30)
    one.turn()
    writers.say(Trouble("no route"))
    one.turn()
    assert one.status == LogStatus(3, 30, "no route")


def test_the_end_waits_for_the_writer_and_then_no_longer(shim: Callable[..., Shim], writers: Writers) -> None:
    one = shim(buffer=1 << 20)
    assert one.feed.patience is None
    one.feed.write(1, b"1\n2\n", 0)
    one.feed.close()
    assert one.feed.patience is not None
    assert 0 < one.feed.patience <= 10
    one.feed.give_up()
    assert one.feed.patience is None
    assert (one.status.lost_lines, one.status.lost_bytes) == (2, 4)


def test_the_end_of_a_writer_that_has_delivered_everything_is_the_end(
    shim: Callable[..., Shim], writers: Writers
) -> None:
    one = shim(buffer=1 << 20)
    one.feed.write(1, b"1\n", 0)
    one.feed.close()
    assert writers.take() == [(1, b"1\n", False)]
    assert writers.sockets[-1].recv(1) == b""  # it is told that no more comes
    writers.deliver(1)
    one.turn()
    writers.die()
    one.turn()
    assert one.feed.patience is None
    assert (len(writers.pids), one.status) == (1, LogStatus())


def test_trouble_that_was_overcome_is_forgotten(shim: Callable[..., Shim], writers: Writers) -> None:
    one = shim(buffer=1 << 20)
    one.feed.write(1, b"1\n", 0)
    writers.say(Trouble("connection refused"))
    one.turn()
    assert one.status.error == "connection refused"
    writers.deliver(1)
    one.turn()
    assert one.status == LogStatus()


def test_losses_until_the_end_are_told_to_the_shim(shim: Callable[..., Shim], writers: Writers) -> None:
    one = shim(drops=True, buffer=2)
    one.feed.write(1, b"1\n2\n3\n", 0)
    with pytest.raises(OSError, match="output lost: 2 lines, 4 bytes"):
        one.feed.close()


@pytest.mark.parametrize(
    ("opening", "kind"),
    [
        (Failure("invalid", "no such file"), Invalid),
        (Failure("internal", "dial tcp: connection refused"), Internal),
    ],
)
def test_a_writer_that_can_not_begin_is_an_error_of_the_start(
    writers: Writers, opening: Failure, kind: type[Exception]
) -> None:
    writers.opening = opening
    with pytest.raises(kind, match=f"failed to initialize logging driver: {opening.message}"):
        Feed(writers.start, Delivery(), StatusFile(""))
    # It is not left behind.
    with pytest.raises(ChildProcessError):
        os.waitpid(writers.pids[0], 0)


def test_a_status_that_is_longer_than_its_file_is_cut(tmp_path: Any) -> None:
    file = StatusFile(str(tmp_path / "status"))
    file.status.error = "\u20ac" * 10_000
    file.save()
    found = read_status(tmp_path / "status")
    assert found is not None
    assert 50 <= len(found.error) <= 200
    assert os.stat(tmp_path / "status").st_size == 512


def test_a_full_disk_under_the_status_is_no_error() -> None:
    file = StatusFile("/dev/full")
    file.status.lost_lines = 1
    file.save()
