"""A client of several etcd members, of which some are of no use."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sampan.errors import Unavailable
from sampan.network.overlay import etcd
from sampan.network.overlay.etcd import EtcdStore, Login
from sampan.network.overlay.http import Address
from sampan.network.overlay.store import Condition, Kind, Put

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


class Scripted:
    """A member that does with each path what the test says; what it was asked is in `asked`."""

    def __init__(self, answers: dict[str, Callable[[dict[str, Any]], Awaitable[bytes | None]]]) -> None:
        """An answer is JSON, or None: the connection is closed without one."""
        self._answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.authorized: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
        question = json.loads(await reader.readexactly(int(fields["content-length"])))
        path = head.split(" ")[1]
        self.asked.append((path, question))
        self.authorized.append(fields.get("authorization", ""))
        try:
            answer = await self._answers[path](question)
            if answer is not None:
                status, _, body = answer.partition(b" ") if answer[:1].isdigit() else (b"200", b"", answer)
                writer.write(b"HTTP/1.1 %s x\r\n\r\n%s" % (status, body))
                await writer.drain()
        finally:
            writer.close()


@asynccontextmanager
async def served(*members: Scripted, login: Login | None = None) -> AsyncIterator[EtcdStore]:
    servers = [await asyncio.start_server(member.serve, "127.0.0.1", 0) for member in members]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    try:
        yield EtcdStore([Address("127.0.0.1", port) for port in ports], "etcd", login=login)
    finally:
        for server in servers:
            server.close()


def says(answer: bytes | None) -> Callable[[dict[str, Any]], Awaitable[bytes | None]]:
    async def answered(_question: dict[str, Any]) -> bytes | None:
        return answer

    return answered


def told(revision: int, key: str, *, at: int = 0) -> bytes:
    """A line of a watch, of a store that has gone on until revision `at`."""
    pair = {"key": base64.b64encode(key.encode()).decode(), "mod_revision": str(revision)}
    line = {"result": {"header": {"revision": str(at or revision)}, "events": [{"kv": pair}]}}
    return json.dumps(line).encode() + b"\n"


def test_what_one_member_has_not_told_is_heard_from_the_next_one() -> None:
    async def story() -> None:
        # The first one tells in pieces: its store is further than what it has told.
        breaking = Scripted({"/v3/watch": says(told(5, "x/a", at=9))})
        good = Scripted({"/v3/watch": says(told(6, "x/b") + told(9, "x/c"))})
        async with served(breaking, good) as store:
            heard = []
            async for changes in store.watch("x/", 5):
                heard.append(changes.changes[0].key)
                if len(heard) == 3:
                    break
            assert heard == ["x/a", "x/b", "x/c"]
        assert good.asked[0][1]["create_request"]["start_revision"] == "6"

    asyncio.run(story())


def test_a_member_that_answers_no_calls_is_not_listened_to_any_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may have been stopped, or cut off from the others: its connection tells nothing, and does not end."""
    monkeypatch.setattr(etcd, "_CALL_SECONDS", 0.2)

    async def story() -> None:
        silent = asyncio.Event()

        async def never(_question: dict[str, Any]) -> bytes | None:
            await silent.wait()
            return None

        class Hanging(Scripted):
            async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                head = await reader.readuntil(b"\r\n\r\n")
                if b"/v3/watch" in head:
                    writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + told(5, "x/a"))
                    await writer.drain()
                await never({})
                writer.close()

        good = Scripted(
            {"/v3/watch": says(told(6, "x/b")), "/v3/lease/keepalive": says(b'{"result":{"TTL":"9"}}')}
        )
        async with served(Hanging({}), good) as store:
            heard: asyncio.Queue[str] = asyncio.Queue()

            async def listen() -> None:
                async for changes in store.watch("x/", 5):
                    heard.put_nowait(changes.changes[0].key)

            task = asyncio.ensure_future(listen())
            assert await asyncio.wait_for(heard.get(), 5) == "x/a"
            assert await store.keep(7)
            assert await asyncio.wait_for(heard.get(), 5) == "x/b"
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            silent.set()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("value", "lease", "done"), [(b"mine", "7", True), (b"theirs", "7", False), (b"mine", "8", False)]
)
def test_a_transaction_whose_answer_was_lost_has_succeeded_when_what_it_wrote_is_there(
    value: bytes, lease: str, done: bool
) -> None:
    async def story() -> None:
        pair = {"key": "eC9h", "value": base64.b64encode(value).decode(), "lease": lease}
        found = json.dumps({"kvs": [pair]}).encode()
        lost = Scripted({"/v3/kv/txn": says(None)})
        good = Scripted({"/v3/kv/txn": says(b"{}"), "/v3/kv/range": says(found)})
        async with served(lost, good) as store:
            assert await store.commit([Condition(Kind.ABSENT, "x/a")], [Put("x/a", b"mine", 7)]) == done
            # A refusal without a doubt is one.
            good.asked.clear()
            assert not await store.commit([Condition(Kind.ABSENT, "x/a")], [Put("x/a", b"mine", 7)])
            assert [path for path, _ in good.asked] == ["/v3/kv/txn"]

    asyncio.run(story())


def test_a_user_of_etcd_asks_with_what_the_password_was_exchanged_for_and_again_when_that_is_over() -> None:
    async def story() -> None:
        tokens = iter([b'{"token":"first.1"}', b'{"token":"second.2"}'])
        good = {"first.1": True}

        async def authenticate(question: dict[str, Any]) -> bytes:
            assert question == {"name": "sampan", "password": "secret"}
            return next(tokens)

        async def granted(_question: dict[str, Any]) -> bytes:
            return (
                b'{"ID":"7"}'
                if good.get(member.authorized[-1])
                else b'401 {"error":"etcdserver: invalid auth token"}'
            )

        member = Scripted({"/v3/auth/authenticate": authenticate, "/v3/lease/grant": granted})
        async with served(member, login=Login("sampan", "secret")) as store:
            assert [await store.grant(9), await store.grant(9)] == [7, 7]
            good.clear()
            good["second.2"] = True
            assert await store.grant(9) == 7
        assert [path for path, _ in member.asked].count("/v3/auth/authenticate") == 2

    asyncio.run(story())


def test_a_wrong_password_is_told_in_etcds_words() -> None:
    async def story() -> None:
        refused = b'400 {"error":"etcdserver: authentication failed, invalid user ID or password"}'
        async with served(
            Scripted({"/v3/auth/authenticate": says(refused)}), login=Login("sampan", "x")
        ) as store:
            with pytest.raises(Unavailable, match="authentication failed, invalid user ID or password"):
                await store.grant(9)

    asyncio.run(story())


def test_a_store_with_more_than_fits_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd, "MAX_BYTES", 1000)

    async def story() -> None:
        pairs = [{"key": "eC9h", "value": base64.b64encode(bytes(2000)).decode()}]
        page = json.dumps({"header": {"revision": "5"}, "kvs": pairs, "more": True}).encode()
        async with served(Scripted({"/v3/kv/range": says(page)})) as store:
            with pytest.raises(Unavailable, match="more than"):
                await store.read("x/")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            b"Client sent an HTTP request to an HTTPS server.\n",
            "Client sent an HTTP request to an HTTPS server.",
        ),
        (b"", "no reason given"),
        (b"\x1b[2Jnothing", "no reason given"),
        (b'{"error":"etcdserver: no"}', "etcdserver: no"),
    ],
)
def test_why_it_is_refused_is_said_also_when_it_is_plain_text(body: bytes, words: str) -> None:
    (said, _) = asyncio.run(grant(Member(400, body)))
    assert str(said).endswith(f"answers with status 400: {words}")
