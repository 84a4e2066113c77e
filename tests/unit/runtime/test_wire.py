from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from sampan.errors import Conflict, Invalid, Unavailable
from sampan.oci import spec as oci
from sampan.runtime import wire
from sampan.runtime.failure import ExecFailed, Failure, failure_of
from sampan.runtime.messages import CreateCall, CreateRequest, Done, LauncherCall, OpenRootCall


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


CALLS: wire.Codec[CreateCall | OpenRootCall] = wire.Codec(LauncherCall)


def call(size: int = 1) -> CreateCall:
    spec = oci.Spec("1.0.2", process=oci.Process("/", args=("x" * size,)))
    return CreateCall(CreateRequest("id", spec, None, "/run"), False, False)


@pytest.mark.parametrize("size", [1, 60_000, 70_000, 2_000_000])
def test_a_message_of_any_size_arrives_as_it_was_sent(
    pair: tuple[socket.socket, socket.socket], size: int
) -> None:
    wire.send(pair[0], call(size))
    received, descriptors = CALLS.receive(pair[1])
    assert received == call(size)
    assert descriptors == []


@pytest.mark.parametrize("size", [1, 200_000])
def test_descriptors_travel_beside_a_message_and_are_close_on_exec(
    pair: tuple[socket.socket, socket.socket], size: int
) -> None:
    reading, writing = os.pipe()
    wire.send(pair[0], call(size), (reading, writing))
    _, descriptors = CALLS.receive(pair[1])
    os.write(descriptors[1], b"through")
    assert os.read(reading, 10) == b"through"
    assert not any(os.get_inheritable(descriptor) for descriptor in descriptors)
    for descriptor in (reading, writing, *descriptors):
        os.close(descriptor)


@pytest.mark.parametrize("packet", [b"\x00", b"\x00garbage", b"\x01", b"\x00\x80", b"\xff\xff"])
def test_what_is_no_message_is_refused_and_its_descriptors_are_closed(
    pair: tuple[socket.socket, socket.socket], packet: bytes
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    if packet[0] == 1:
        pair[0].send(packet)
    else:
        socket.send_fds(pair[0], [packet], [0, 1])
    with pytest.raises(Invalid):
        CALLS.receive(pair[1])
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_end_of_the_other_side_is_none_to_read_and_unavailable_to_write(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    pair[1].close()
    with pytest.raises(Unavailable):
        wire.send(pair[0], Done())
    assert CALLS.receive(pair[0]) == (None, [])


def test_the_last_words_of_one_that_left_without_reading_everything_arrive(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    wire.send(pair[0], Done())
    wire.send(pair[1], failure_of(Conflict("why it ended")))
    pair[1].close()
    failures: wire.Codec[Failure] = wire.Codec(Failure)
    failure, _ = failures.receive(pair[0])
    assert failure is not None
    assert failure.message == "why it ended"
    assert failures.receive(pair[0]) == (None, [])


def test_an_error_keeps_its_kind_hint_and_exit_code_over_the_border() -> None:
    error = failure_of(ExecFailed("no program", hint="look", exit_code=127)).error()
    assert isinstance(error, ExecFailed)
    assert (error.message, error.hint, error.exit_code) == ("no program", "look", 127)
    assert isinstance(Failure("conflict", "taken").error(), Conflict)
    other = failure_of(FileNotFoundError(2, "No such file", "/x"), "mount").error()
    assert (other.kind, other.message) == ("internal", "mount: /x: no such file or directory")
