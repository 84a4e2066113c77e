"""The contract of a cluster's store (`network.overlay.store`), held by etcd, a keeper, and the tests' own."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from sampan.daemon.cluster import login, tls_context
from sampan.engine.networks.cluster_settings import parse_cluster
from sampan.errors import Unavailable
from sampan.network.overlay.etcd import EtcdStore
from sampan.network.overlay.http import Address
from sampan.network.overlay.keeper import Keeper
from sampan.network.overlay.signing import SharedSecret
from sampan.network.overlay.store import Changes, Compacted, Condition, Delete, Kind, Put, Store
from sampan.testing.cluster_store import MemoryStore, SharedState
from sampan.testing.etcd import EtcdProcess, make_certificates, make_user

Open = Callable[[], AbstractAsyncContextManager[Store]]
SECRET = b"of sixteen characters and more"


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdProcess]:
    with tempfile.TemporaryDirectory() as directory, EtcdProcess(Path(directory)) as process:
        yield process


@pytest.fixture(params=["etcd", "keeper", "memory"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param == "etcd":
        process: EtcdProcess = request.getfixturevalue("etcd")

        @asynccontextmanager
        async def open_etcd() -> AsyncIterator[Store]:
            yield EtcdStore([Address(process.address, process.port)], process.url)

        return open_etcd
    if request.param == "memory":

        @asynccontextmanager
        async def open_memory() -> AsyncIterator[Store]:
            shared = SharedState()
            yield MemoryStore(shared)
            shared.close()

        return open_memory
    return lambda: kept(tmp_path, free_port())


@asynccontextmanager
async def kept(directory: Path, port: int) -> AsyncIterator[Store]:
    keeper = Keeper(directory / "store.db", SECRET)
    await keeper.listen("127.0.0.1", port)
    try:
        yield EtcdStore([Address("127.0.0.1", port)], "static:127.0.0.1", SharedSecret(SECRET))
    finally:
        await keeper.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_transactions_are_all_or_nothing(opened: Open) -> None:
    async def story() -> None:
        async with opened() as store:
            absent = Condition(Kind.ABSENT, "t1/a")
            assert await store.commit([absent], [Put("t1/a", b"\0\xff"), Put("t1/b", b"")])
            assert not await store.commit([absent], [Put("t1/a", b"2"), Delete("t1/b")])
            found = await store.read("t1/")
            assert {key: entry.value for key, entry in found.entries.items()} == {
                "t1/a": b"\0\xff",
                "t1/b": b"",
            }
            entry = found.entries["t1/a"]
            assert entry.created == entry.modified <= found.revision
            assert await store.commit(
                [Condition(Kind.UNCHANGED, "t1/a", entry.modified)], [Put("t1/a", b"3")]
            )
            assert not await store.commit(
                [Condition(Kind.UNCHANGED, "t1/a", entry.modified)], [Delete("t1/a")]
            )
            assert await store.commit([Condition(Kind.PRESENT, "t1/a")], [])
            assert not await store.commit([Condition(Kind.PRESENT, "t1/zz")], [])
            changed = (await store.read("t1/")).entries["t1/a"]
            assert changed.created == entry.created < changed.modified
            untouched = Condition(Kind.PREFIX_UNTOUCHED, "t1/", found.revision)
            assert not await store.commit([untouched], [Delete("t1/", prefix=True)])
            now = await store.read("t1/")
            untouched = Condition(Kind.PREFIX_UNTOUCHED, "t1/", now.revision)
            assert await store.commit([untouched], [Delete("t1/", prefix=True), Put("t10", b"")])
            assert (await store.read("t1/")).entries == {}
            assert list((await store.read("t10")).entries) == ["t10"]

    asyncio.run(story())


def test_more_than_a_page_is_read_whole(opened: Open) -> None:
    async def story() -> None:
        async with opened() as store:
            for start in range(0, 1200, 100):
                puts = [Put(f"t2/{number:05d}", b"x") for number in range(start, start + 100)]
                assert await store.commit([], puts)
            assert list((await store.read("t2/")).entries) == [f"t2/{number:05d}" for number in range(1200)]

    asyncio.run(story())


def test_a_watcher_hears_of_everything_in_order_from_the_revision_it_names(opened: Open) -> None:
    async def story() -> None:
        async with opened() as store:
            await store.commit([], [Put("t3/before", b"")])
            revision = (await store.read("t3/")).revision
            await store.commit([], [Put("t3/a", b"1"), Put("t3x", b"")])
            heard: list[Changes] = []

            async def listen() -> None:
                async for changes in store.watch("t3/", revision + 1):
                    if changes.changes:
                        heard.append(changes)
                    if changes.changes and changes.changes[-1].key == "t3/end":
                        return

            task = asyncio.ensure_future(listen())
            await store.commit([], [Delete("t3/a")])
            await store.commit([], [Put("t3/end", b"")])
            await asyncio.wait_for(task, 20)
            seen = [(one.key, one.entry.value if one.entry else None) for all in heard for one in all.changes]
            assert seen == [("t3/a", b"1"), ("t3/a", None), ("t3/end", b"")]
            assert [one.revision for one in heard] == sorted(one.revision for one in heard)

    asyncio.run(story())


def test_what_belongs_to_a_lease_goes_with_it(opened: Open) -> None:
    async def story() -> None:
        async with opened() as store:
            lease = await store.grant(30)
            assert await store.keep(lease)
            await store.commit([], [Put("t4/a", b"", lease), Put("t4/b", b"")])
            assert (await store.read("t4/")).entries["t4/a"].lease == lease
            await store.revoke(lease)
            await store.revoke(lease)
            assert list((await store.read("t4/")).entries) == ["t4/b"]
            assert not await store.keep(lease)
            with pytest.raises(Unavailable):
                await store.commit([], [Put("t4/c", b"", lease)])

    asyncio.run(story())


def test_a_lease_that_nobody_keeps_ends_by_itself(tmp_path: Path, etcd: EtcdProcess) -> None:
    async def until_gone(store: Store) -> None:
        lease = await store.grant(2)
        await store.commit([], [Put("t5/a", b"", lease)])
        revision = (await store.read("t5/")).revision
        async for changes in store.watch("t5/", revision + 1):
            if [change.entry for change in changes.changes] == [None]:
                return

    async def story() -> None:
        async with kept(tmp_path, free_port()) as keeper:
            stores = (EtcdStore([Address(etcd.address, etcd.port)], etcd.url), keeper)
            await asyncio.wait_for(asyncio.gather(*map(until_gone, stores)), 30)

    asyncio.run(story())


def test_who_is_too_far_behind_is_told_to_read_again(tmp_path: Path, etcd: EtcdProcess) -> None:
    async def story() -> None:
        store = EtcdStore([Address(etcd.address, etcd.port)], etcd.url)
        for _ in range(3):
            await store.commit([], [Put("t6/a", b"")])
        etcd.control("compact", str((await store.read("t6/")).revision))
        with pytest.raises(Compacted):
            async for _ in store.watch("t6/", 1):
                pass
        port = free_port()
        async with kept(tmp_path, port) as keeper:
            await keeper.commit([], [Put("t6/a", b"1")])
            revision = (await keeper.read("t6/")).revision
        # The next keeper has the data, not what happened before it.
        async with kept(tmp_path, port) as keeper:
            assert (await keeper.read("t6/")).entries["t6/a"].value == b"1"
            assert (await keeper.read("t6/")).revision == revision
            with pytest.raises(Compacted):
                async for _ in keeper.watch("t6/", revision):
                    pass

    asyncio.run(story())


def test_an_answer_that_is_not_signed_is_not_believed(etcd: EtcdProcess) -> None:
    """As if somebody had taken the keeper's address."""

    async def story() -> None:
        store = EtcdStore([Address(etcd.address, etcd.port)], "static:x", SharedSecret(SECRET))
        with pytest.raises(Unavailable, match="not signed with the cluster's secret"):
            await store.read("t7/")
        with pytest.raises(Unavailable, match="not signed with the cluster's secret"):
            async for _ in store.watch("t7/", 1):
                pass

    asyncio.run(story())


def test_etcd_behind_tls_is_talked_to_by_who_has_a_certificate(tmp_path: Path) -> None:
    for name in ("good", "other"):
        (tmp_path / name).mkdir()
        make_certificates(tmp_path / name)

    def store(port: int, authority: str, own: str) -> EtcdStore:
        options = {
            "kv.cacertfile": str(tmp_path / authority / "ca.pem"),
            "kv.certfile": str(tmp_path / own / "cert.pem"),
            "kv.keyfile": str(tmp_path / own / "key.pem"),
        }
        settings = parse_cluster(f"etcd://127.0.0.1:{port}", "", options)
        assert settings is not None
        return EtcdStore([Address("127.0.0.1", port, tls_context(settings))], settings.name)

    async def story(port: int) -> None:
        good = store(port, "good", "good")
        assert await good.commit([], [Put("t8/a", b"x")])
        assert (await good.read("t8/")).entries["t8/a"].value == b"x"
        plain = EtcdStore([Address("127.0.0.1", port)], "x")
        for wrong in (store(port, "other", "good"), store(port, "good", "other"), plain):
            with pytest.raises(Unavailable):
                await wrong.read("t8/")

    with EtcdProcess(tmp_path / "etcd", certificates=tmp_path / "good") as process:
        asyncio.run(story(process.port))


def test_etcd_with_users_is_asked_with_a_password(tmp_path: Path) -> None:
    for name, password in (("right", "of sampan"), ("wrong", "another")):
        (tmp_path / name).write_text(f"{password}\n")

    def store(process: EtcdProcess, password: str) -> EtcdStore:
        options = {"kv.username": "sampan", "kv.passwordfile": str(tmp_path / password)}
        settings = parse_cluster(process.url, "", options)
        assert settings is not None
        return EtcdStore([Address(process.address, process.port)], settings.name, login=login(settings))

    async def story(process: EtcdProcess) -> None:
        good = store(process, "right")
        lease = await good.grant(30)
        assert await good.commit([], [Put("sampan/a", b"x", lease)]) and await good.keep(lease)
        revision = (await good.read("sampan/")).revision
        async with asyncio.timeout(10):
            async for changes in store(process, "right").watch("sampan/", revision):
                if changes.changes:
                    assert [one.key for one in changes.changes] == ["sampan/a"]
                    break
        with pytest.raises(Unavailable, match="permission denied"):
            await good.commit([], [Put("other/a", b"x")])
        with pytest.raises(Unavailable, match="invalid user ID or password"):
            await store(process, "wrong").read("sampan/")
        with pytest.raises(Unavailable, match="user name is empty"):
            await EtcdStore([Address(process.address, process.port)], "x").read("sampan/")
        # What the password was exchanged for is over: after a start of etcd nobody knows it.
        process.kill()
        process.launch()
        await until_answered(good)

    async def until_answered(good: EtcdStore) -> None:
        async with asyncio.timeout(60):
            while True:
                try:
                    assert list((await good.read("sampan/")).entries) == ["sampan/a"]
                    return
                except Unavailable as error:
                    assert "cannot connect" in error.message or "status 50" in error.message, error.message
                    await asyncio.sleep(0.05)

    with EtcdProcess(tmp_path / "etcd") as process:
        make_user(process, "sampan", "of sampan", "sampan/")
        asyncio.run(story(process))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b'HTTP/1.1 200 OK\r\nContent-Length: 33\r\n\r\n{"header":{"revision":"a number"}}',
        b'HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\n{"kvs":[{"key":"no base64!"}]}',
        b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (2 << 20),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * (2 << 20),
        b'HTTP/1.1 200 OK\r\n\r\n{"x":' + b"[" * 60_000,
        b'HTTP/1.1 200 OK\r\n\r\n{"kvs":[{"key":"eA==","lease":"99999999999999999999"}]}',
    ],
    ids=range(16),
)
def test_a_store_that_answers_rubbish_counts_as_not_answering(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            writer.write(answer)
            await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    async def story() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        store = EtcdStore([Address("127.0.0.1", port)], "x")
        with pytest.raises(Unavailable):
            await store.read("x/")
        server.close()

    asyncio.run(story())
