"""A client of several etcd members, of which some are of no use."""

from __future__ import annotations

import asyncio

import pytest

from sampan.errors import Unavailable
from sampan.network.overlay.etcd import EtcdStore
from sampan.network.overlay.http import Address

WITHOUT_LEADER = b'{"error":"etcdserver: no leader","code":14}'


class Member:
    """Answers every request with the same, and counts them."""

    def __init__(self, status: int, body: bytes) -> None:
        self._answer = b"HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        writer.write(self._answer)
        await writer.drain()
        writer.close()


async def grant(*members: Member) -> list[int | str]:
    """What two calls in a row come to."""
    servers = [await asyncio.start_server(member.serve, "127.0.0.1", 0) for member in members]
    store = EtcdStore(
        [Address("127.0.0.1", server.sockets[0].getsockname()[1]) for server in servers], "etcd"
    )
    found: list[int | str] = []
    try:
        for _ in range(2):
            try:
                found.append(await store.grant(30))
            except Unavailable as error:
                found.append(error.message)
    finally:
        for server in servers:
            server.close()
    return found


def test_a_member_that_has_lost_the_others_is_passed_over_and_not_asked_first_again() -> None:
    lost, good = Member(503, WITHOUT_LEADER), Member(200, b'{"ID":"7","TTL":"30"}')
    assert asyncio.run(grant(lost, good)) == [7, 7]
    assert (lost.asked, good.asked) == (1, 2)


def test_what_no_member_can_do_is_told_in_a_members_words() -> None:
    (said, _) = asyncio.run(grant(Member(503, WITHOUT_LEADER), Member(500, b"")))
    assert "answers with status 503: etcdserver: no leader" in str(said)


@pytest.mark.parametrize("status", [400, 404])
def test_a_refusal_is_no_reason_to_ask_another_member(status: int) -> None:
    refusing, other = Member(status, b'{"error":"no"}'), Member(200, b"{}")
    (said, _) = asyncio.run(grant(refusing, other))
    assert f"answers with status {status}: no" in str(said)
    assert other.asked == 0
