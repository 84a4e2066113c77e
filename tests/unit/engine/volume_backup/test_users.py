"""Containers kept still for a backup go on afterwards, and those that somebody else keeps still do not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.model import NEVER, ContainerRecord, MountPoint, State
from sampan.engine.volume_backup.users import How, Users
from sampan.errors import Conflict, SampanError, Unavailable
from sampan.storage.metadata import Metadata, Table


class FakeContainers:
    """Their states, and who has been asked for what. `before`: called before a container is paused or stopped."""

    def __init__(self, *names: str) -> None:
        mounts = (MountPoint(type="volume", name="vol", source="/x", destination="/d", rw=True),)
        self._records = {
            name: ContainerRecord(
                name, name, NEVER, "", "", (), ContainerConfig(), HostConfig(), mounts=mounts,
                state=State(status="running", pid=1),
            )
            for name in names
        }  # fmt: skip
        self.before: Any = lambda _name: None
        self.slow: asyncio.Event | None = None

    def records(self) -> Sequence[ContainerRecord]:
        return list(self._records.values())

    def put(self, name: str, status: str) -> None:
        record = self._records[name]
        self._records[name] = replace(record, state=replace(record.state, status=status))

    def status(self, name: str) -> str:
        return self._records[name].state.status

    async def pause(self, reference: str) -> None:
        self.before(reference)
        if self.status(reference) != "running":
            raise Conflict(f"Container {reference} is already paused")
        self.put(reference, "paused")

    async def unpause(self, reference: str) -> None:
        self.put(reference, "running")

    async def stop(self, reference: str, timeout: int | None = None, signal_name: str = "") -> bool:
        self.before(reference)
        if self.status(reference) != "running":
            return False
        if self.slow is not None:
            await self.slow.wait()
        self.put(reference, "exited")
        return True

    async def start(self, reference: str) -> bool:
        self.put(reference, "running")
        return True


@pytest.fixture
def metadata(tmp_path: Path) -> Any:
    store = Metadata(tmp_path)
    yield store
    store.close()


def notes(metadata: Metadata) -> list[tuple[str, bytes]]:
    return metadata.items(Table.SETTINGS)


def test_all_go_on_though_the_note_of_one_cannot_be_removed(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    containers = FakeContainers("a", "b", "c")
    users = Users(containers, metadata)
    delete = metadata.delete

    def full(table: Table, key: str, **more: Any) -> None:
        if key.endswith("b"):
            raise Unavailable("no space left on device")
        delete(table, key, **more)

    async def story() -> None:
        async with users.still("vol", "pause") as still:
            assert still.names == ["a", "b", "c"]
            assert {containers.status(name) for name in "abc"} == {"paused"}
            monkeypatch.setattr(metadata, "delete", full)
        assert {containers.status(name) for name in "abc"} == {"running"}

    asyncio.run(story())
    assert len(notes(metadata)) == 1


@pytest.mark.parametrize(("how", "held"), [("pause", "paused"), ("stop", "exited")])
def test_what_somebody_else_keeps_still_meanwhile_stays_so(metadata: Metadata, how: How, held: str) -> None:
    containers = FakeContainers("ours", "theirs")
    users = Users(containers, metadata)

    def others(name: str) -> None:
        if name == "theirs":
            containers.put(name, held)

    async def story() -> None:
        containers.before = others
        async with users.still("vol", how) as still:
            assert still.names == ["ours"]
        assert (containers.status("ours"), containers.status("theirs")) == ("running", held)

    asyncio.run(story())
    assert notes(metadata) == []


def test_a_client_that_leaves_while_a_container_stops_leaves_it_running(metadata: Metadata) -> None:
    containers = FakeContainers("slow")
    users = Users(containers, metadata)

    async def story() -> None:
        containers.slow = asyncio.Event()

        async def backup() -> None:
            async with users.still("vol", "stop"):
                raise AssertionError("nobody waits for it")

        task = asyncio.ensure_future(backup())
        while not notes(metadata):
            await asyncio.sleep(0)
        task.cancel()
        asyncio.get_running_loop().call_later(0.05, containers.slow.set)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert containers.status("slow") == "running"

    asyncio.run(story())
    assert notes(metadata) == []


def test_a_second_backup_waits_until_the_container_is_still(metadata: Metadata) -> None:
    containers = FakeContainers("one")
    users = Users(containers, metadata)

    async def story() -> None:
        containers.slow = asyncio.Event()
        seen: list[str] = []

        async def backup() -> None:
            async with users.still("vol", "stop") as still:
                assert still.names == ["one"]
                seen.append(containers.status("one"))

        both = asyncio.gather(backup(), backup())
        asyncio.get_running_loop().call_later(0.05, containers.slow.set)
        await both
        assert seen == ["exited", "exited"]
        assert containers.status("one") == "running"

    asyncio.run(story())
    assert notes(metadata) == []


def test_a_pause_that_fails_fails_the_backup_and_all_go_on(metadata: Metadata) -> None:
    containers = FakeContainers("a", "b")
    users = Users(containers, metadata)

    def broken(name: str) -> None:
        if name == "b":
            raise Unavailable("its group is gone")

    async def story() -> None:
        containers.before = broken
        with pytest.raises(SampanError, match="its group is gone"):
            async with users.still("vol", "pause"):
                raise AssertionError("not still")
        assert {containers.status(name) for name in "ab"} == {"running"}

    asyncio.run(story())
    assert notes(metadata) == []
