"""A build's client over a link: the engine's side and the command line's, without HTTP between them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from sampan.build.session import MAX_SECRET
from sampan.cli.build.session import BuildSession
from sampan.client.address import Address, parse_address
from sampan.engine.build_sessions import BuildSessions, ClaimedSession, LinkedClient
from sampan.errors import Conflict, Invalid, NotFound, Unavailable
from sampan.multiplex.link import Link, Stream

ID = "0123456789abcdef"


class _Engine:
    """What `BuildSession` needs of a client: it connects to nobody but this test."""

    def __init__(self) -> None:
        self.address: Address = parse_address("unix:///nowhere")
        self.ours, self._theirs = socket.socketpair()

    def hijack(self, _path: str, _query: object, protocol: str) -> object:
        assert protocol == "sampan-session"
        return type("Hijacked", (), {"sock": self._theirs, "preread": b""})()


def _give(data: bytes):  # type: ignore[no-untyped-def]
    def serve(stream: Stream) -> None:
        stream.write(data)
        stream.end()

    return serve


def test_a_client_gives_what_it_offers_and_nothing_else() -> None:
    stored: list[bytes] = []

    def store(stream: Stream) -> None:
        stored.append(stream.read_all(1 << 20))
        stream.end()

    def full(stream: Stream) -> None:
        stream.read()
        raise OSError(28, "No space left on device", "out.tar")

    offers = {
        ("secret", "token"): _give(b"hunter2"),
        ("secret", "large"): _give(bytes(MAX_SECRET + 1)),
        ("ssh", "default"): _give(b"agent"),
        ("context", "docs"): _give(b"tar"),
        ("deliver", "0"): store,
        ("deliver", "full"): full,
    }
    engine = _Engine()
    with BuildSession(engine, offers):  # type: ignore[arg-type]
        link = Link(engine.ours, name="the build's client")
        client = LinkedClient(link)
        assert client.secret("token") == b"hunter2"
        with pytest.raises(NotFound, match="secret other: not found"):
            client.secret("other")
        with pytest.raises(Invalid, match="more than 512000 bytes"):
            client.secret("large")
        assert client.has_ssh_agent("default")
        assert not client.has_ssh_agent("work")
        assert client.ssh_agent("default").read() == b"agent"
        assert client.open_context("docs").read() == b"tar"
        sink = client.deliver("0")
        sink.write(b"one")
        sink.write(b"two")
        sink.commit()
        assert stored == [b"onetwo"]
        sink = client.deliver("full")
        sink.write(b"x")
        with pytest.raises(Unavailable, match=r"out\.tar: No space left on device"):
            sink.commit()
        link.close()


def test_a_session_is_claimed_once_by_the_build_that_knows_its_id() -> None:
    async def check() -> None:
        sessions = BuildSessions()
        ours, theirs = socket.socketpair()
        with theirs:
            sessions.require_free(ID)
            sessions.add(ID, ours, b"")
            with pytest.raises(Conflict):
                sessions.require_free(ID)
            claimed = sessions.claim(ID)
            with pytest.raises(NotFound):
                sessions.claim(ID)
            events = [event async for event in claimed.closed_after(_events())]
            assert events == [1, 2]
            theirs.settimeout(10)
            assert theirs.recv(1) == b""
        with pytest.raises(Invalid):
            sessions.require_free("../etc")

    asyncio.run(check())


def test_a_session_that_no_build_claims_is_closed() -> None:
    async def check() -> None:
        sessions = BuildSessions(claim_seconds=0.01)
        ours, theirs = socket.socketpair()
        with theirs:
            sessions.add(ID, ours, b"")
            theirs.settimeout(10)
            assert await asyncio.to_thread(theirs.recv, 1) == b""
        with pytest.raises(NotFound):
            sessions.claim(ID)

    asyncio.run(check())


def test_giving_a_build_up_ends_its_session() -> None:
    async def check() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            claimed = ClaimedSession(Link(ours, name="the build's client"))
            iterator = aiter(claimed.closed_after(_events()))
            await anext(iterator)
            await iterator.aclose()  # type: ignore[attr-defined]
            theirs.settimeout(10)
            assert theirs.recv(1) == b""

    asyncio.run(check())


async def _events() -> AsyncIterator[int]:
    yield 1
    yield 2
