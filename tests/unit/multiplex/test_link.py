"""Two links back to back, and a link against a peer that breaks the rules."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from sampan.errors import Conflict, Invalid, NotFound, SampanError, Unavailable
from sampan.multiplex.frames import MAX_PAYLOAD, WINDOW, Frame, FrameReader, Kind, credit, encode, header
from sampan.multiplex.link import MAX_STREAMS, Link, Stream

Serve = Callable[[Stream, bytes], None]
Pair = Callable[[Serve], tuple[Link, Link]]
Opener = tuple[Link, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:

        def make(serve: Serve) -> tuple[Link, Link]:
            ours, theirs = socket.socketpair()
            other = Link(theirs, name="the opener", accept=serve)
            opener = Link(ours, name="the peer")
            stack.callback(opener.close)
            stack.callback(other.close)
            return opener, other

        yield make


@pytest.fixture
def opener() -> Iterator[Opener]:
    """A link whose peer is a bare socket: it can say anything."""
    ours, theirs = socket.socketpair()
    link = Link(ours, name="the peer")
    theirs.settimeout(10)
    with theirs:
        yield link, theirs
    link.close()


def test_a_stream_carries_megabytes_both_ways_at_once(pair: Pair) -> None:
    sent = bytes(range(256)) * 16384  # 4 MiB: many windows

    def echo(stream: Stream, wanted: bytes) -> None:
        assert wanted == b"echo"
        while piece := stream.read():
            stream.write(piece)
        stream.end()

    link, _ = pair(echo)
    stream = link.open(b"echo")
    writing = threading.Thread(target=lambda: (stream.write(sent), stream.end()))
    writing.start()
    assert stream.read_all(len(sent)) == sent
    writing.join()


def test_a_refusal_keeps_its_kind_and_words(pair: Pair) -> None:
    def refuse(_stream: Stream, wanted: bytes) -> None:
        raise NotFound(f"no {wanted.decode()} here", hint="look elsewhere")

    link, _ = pair(refuse)
    with pytest.raises(NotFound, match=r"no secret here \(look elsewhere\)"):
        link.open(b"secret").read()


def test_what_was_ended_well_can_be_read_although_the_peer_has_closed_the_stream(pair: Pair) -> None:
    closed = threading.Event()

    def give(stream: Stream, _wanted: bytes) -> None:
        stream.write(b"all of it")
        stream.end()
        stream.close()
        closed.set()

    link, _ = pair(give)
    stream = link.open(b"")
    assert closed.wait(10)
    assert stream.read_all(100) == b"all of it"


def test_a_stream_that_nobody_reads_holds_up_no_other(pair: Pair) -> None:
    blocked = threading.Event()
    go = threading.Event()

    def serve(stream: Stream, wanted: bytes) -> None:
        if wanted == b"deaf":
            blocked.set()
            go.wait(10)
        else:
            stream.write(b"here")
            stream.end()

    link, _ = pair(serve)
    deaf = link.open(b"deaf")
    assert blocked.wait(10)
    deaf.write(bytes(WINDOW))  # as much as is taken without being read
    assert link.open(b"quick").read_all(10) == b"here"
    go.set()


def test_a_writer_waits_until_the_reader_has_made_room(pair: Pair) -> None:
    read = threading.Event()
    got: list[int] = []

    def serve(stream: Stream, _wanted: bytes) -> None:
        read.wait(10)
        got.append(len(stream.read_all(3 * WINDOW)))
        stream.end()

    link, _ = pair(serve)
    stream = link.open(b"")
    done = threading.Event()

    def write() -> None:
        stream.write(bytes(2 * WINDOW))
        done.set()
        stream.end()

    thread = threading.Thread(target=write)
    thread.start()
    assert not done.wait(0.1)
    read.set()
    assert stream.read_all(0) == b""
    thread.join()
    assert got == [2 * WINDOW]


def test_whoever_waits_hears_that_the_peer_has_gone(opener: Opener) -> None:
    link, peer = opener
    stream = link.open(b"")
    threading.Timer(0.05, peer.shutdown, (socket.SHUT_RDWR,)).start()
    with pytest.raises(Unavailable, match="the peer is gone"):
        stream.read()
    with pytest.raises(Unavailable, match="the peer is gone"):
        link.open(b"")


def test_closing_a_link_wakes_a_writer_whose_peer_never_reads(opener: Opener) -> None:
    link, peer = opener
    stream = link.open(b"")
    peer.sendall(encode(credit(stream.number, 1 << 30)))  # credit without end, and then no reading
    failure: list[SampanError] = []

    def write() -> None:
        try:
            while True:
                stream.write(bytes(MAX_PAYLOAD))
        except SampanError as error:
            failure.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    link.close("the build was cancelled")
    thread.join(10)
    assert not thread.is_alive()
    assert "the peer is gone" in failure[0].message


def test_a_peer_that_never_answers_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours, name="the peer", patience=0.05)
    with theirs, pytest.raises(Unavailable, match="has not answered"):
        link.open(b"").read()
    link.close()


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
        pytest.param(header(Kind.DATA, 1, 1 << 31), id="a frame of 2 GiB"),
        pytest.param(encode(Frame(Kind.OPEN, 7, b"x")), id="a stream that it may not open"),
        pytest.param(encode(Frame(Kind.DATA, 1, bytes(MAX_PAYLOAD))) * 9, id="more than it has credit for"),
        pytest.param(encode(credit(1, (1 << 32) - 1)), id="credit without bounds"),
        pytest.param(encode(Frame(Kind.CREDIT, 1, b"")), id="credit without a number"),
        pytest.param(encode(Frame(Kind.END, 1)) + encode(Frame(Kind.DATA, 1, b"x")), id="data after the end"),
    ],
)
def test_a_peer_that_breaks_the_rules_loses_the_link(opener: Opener, lie: bytes) -> None:
    link, peer = opener
    link.open(b"")
    peer.sendall(lie)
    while peer.recv(4096):
        pass  # the end of the connection comes
    assert link.closed


def test_an_answer_that_is_longer_than_asked_for_is_refused(pair: Pair) -> None:
    def serve(stream: Stream, _wanted: bytes) -> None:
        stream.write(bytes(101))
        stream.end()

    link, _ = pair(serve)
    with pytest.raises(Invalid, match="more than 100 bytes"):
        link.open(b"").read_all(100)


def test_streams_have_a_bound_and_closing_one_makes_room(opener: Opener) -> None:
    link, _ = opener
    streams = [link.open(b"") for _ in range(MAX_STREAMS)]
    with pytest.raises(Conflict):
        link.open(b"")
    streams[0].close()
    link.open(b"")


def test_frames_come_out_of_any_pieces() -> None:
    frames = [Frame(Kind.OPEN, 1, b"a"), Frame(Kind.DATA, 1, b"bc"), Frame(Kind.END, 1)]
    data = b"".join(encode(frame) for frame in frames)
    for size in range(1, len(data) + 1):
        reader = FrameReader()
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert [frame for piece in pieces for frame in reader.feed(piece)] == frames


def test_streams_that_threads_open_at_the_same_time_arrive_in_their_order(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, theirs = opener
    send, first_waits, other_began = link.send, threading.Event(), threading.Event()

    def slow(frame: Frame) -> None:
        if frame.stream == 1:
            first_waits.set()
            other_began.wait(0.2)  # long enough for the other to overtake, if it could
        send(frame)

    monkeypatch.setattr(link, "send", slow)
    first = threading.Thread(target=link.open, args=(b"one",))
    first.start()
    assert first_waits.wait(10)
    link.open(b"two")
    other_began.set()
    first.join()
    frames = FrameReader()
    found: list[Frame] = []
    while len(found) < 2:
        found += frames.feed(theirs.recv(4096))
    assert [(frame.stream, frame.payload) for frame in found] == [(1, b"one"), (2, b"two")]
