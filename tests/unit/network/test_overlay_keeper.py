"""Who keeps the store of a cluster without etcd: strangers do not hinder it, and what it has can be read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sampan.errors import Invalid, Unavailable
from sampan.network.overlay import keeper_state
from sampan.network.overlay.etcd import EtcdStore
from sampan.network.overlay.http import Address
from sampan.network.overlay.keeper import Keeper
from sampan.network.overlay.keeper_state import MAX_BYTES, KeeperState
from sampan.network.overlay.signing import SharedSecret
from sampan.network.overlay.store import Delete, Put

SECRET = b"of sixteen characters and more"
HALF = b"POST /v3/kv/range HTTP/1.1\r\nContent-Length: 262144\r\n\r\n" + bytes(1000)


@asynccontextmanager
async def kept(directory: Path) -> AsyncIterator[tuple[EtcdStore, Address]]:
    keeper = Keeper(directory / "store.db", SECRET)
    await keeper.listen("127.0.0.1", 0)
    assert keeper._server is not None
    address = Address("127.0.0.1", keeper._server.sockets[0].getsockname()[1])
    try:
        yield EtcdStore([address], "static:127.0.0.1", SharedSecret(SECRET)), address
    finally:
        await keeper.close()


def test_strangers_that_send_half_a_request_do_not_keep_a_host_from_being_answered(tmp_path: Path) -> None:
    async def story() -> None:
        async with kept(tmp_path) as (store, address):
            strangers = []
            for _ in range(300):
                reader, writer = await asyncio.open_connection(address.host, address.port)
                writer.write(HALF)
                strangers.append((reader, writer))
            assert await store.commit([], [Put("t/a", b"x")])
            # The oldest are gone: what they have sent is not kept any more.
            for reader, _ in strangers[:150]:
                try:
                    assert await asyncio.wait_for(reader.read(), 10) == b""
                except ConnectionResetError:
                    continue
            for _, writer in strangers:
                writer.transport.abort()

    asyncio.run(story())


def test_a_request_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    async def story() -> None:
        async with kept(tmp_path) as (store, address):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(HALF.replace(b"262144", b"262145"))
            try:
                assert await asyncio.wait_for(reader.read(), 5) == b""
            except ConnectionResetError:
                pass
            writer.transport.abort()
            with pytest.raises(Unavailable):
                await store.commit([], [Put("t/a", bytes(300_000))])

    asyncio.run(story())


@pytest.mark.parametrize("size", [60_000, 100])
def test_a_store_that_is_full_can_be_read_and_made_smaller(tmp_path: Path, size: int) -> None:
    state = KeeperState(tmp_path / "store.db", lambda: 0.0)
    lease = state.grant(1000)
    each = len("t/00000") + size
    puts = [Put(f"t/{number:05d}", bytes(size), lease) for number in range(MAX_BYTES // (each + 150))]
    assert state.commit([], puts)
    with pytest.raises(Invalid, match="the store is full"):
        for number in range(10):
            state.commit([], [Put(f"u/{number}", bytes(size))])
    assert state.commit([], [Put("t/00000", bytes(size))])
    with pytest.raises(Invalid, match="the store is full"):
        state.commit([], [Put("t/00000", bytes(size + 60_000))])
    state.close()

    async def story() -> None:
        async with kept(tmp_path) as (store, _):
            assert len((await store.read("t/")).entries) == len(puts)
            assert await store.commit([], [Delete("t/00001"), Put("u/0", bytes(size // 2))])

    asyncio.run(story())


def test_a_disk_that_is_full_changes_nothing_and_is_no_end(tmp_path: Path) -> None:
    state = KeeperState(tmp_path / "store.db", lambda: 0.0)
    state.commit([], [Put("t/a", b"before")])
    pages = state._database.execute("PRAGMA page_count").fetchone()[0]
    state._database.execute(f"PRAGMA max_page_count={pages}")
    revision = state.revision
    with pytest.raises(Unavailable, match="can not be written"):
        state.commit([], [Put("t/a", b"after"), Put("t/b", bytes(50_000))])
    assert (
        state.revision == revision and state.entries["t/a"].value == b"before" and "t/b" not in state.entries
    )
    state._database.execute("PRAGMA max_page_count=100000")
    assert state.commit([], [Put("t/a", b"after")])
    state.close()
    again = keeper_state.KeeperState(tmp_path / "store.db", lambda: 0.0)
    assert {key: entry.value for key, entry in again.entries.items()} == {"t/a": b"after"}
    again.close()


@pytest.mark.parametrize("place", [0, 4096])
def test_a_store_that_is_damaged_begins_anew_and_is_kept_for_people(tmp_path: Path, place: int) -> None:
    """Its first page, or another one."""
    path = tmp_path / "store.db"
    state = KeeperState(path, lambda: 0.0)
    state.commit([], [Put(f"t/{number}", bytes(100)) for number in range(200)])
    state.close()
    before = bytearray(path.read_bytes())
    before[place : place + 4096] = bytes(range(256)) * 16
    path.write_bytes(before)
    again = KeeperState(path, lambda: 0.0)
    assert not again.entries and again.commit([], [Put("t/a", b"x")])
    again.close()
    assert (tmp_path / "store.damaged").read_bytes() == before
    last = KeeperState(path, lambda: 0.0)
    assert list(last.entries) == ["t/a"]
    last.close()
