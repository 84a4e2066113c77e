from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.containers.lifecycle import Lifecycle
from sampan.engine.containers.store import ContainerStore
from sampan.engine.model import ContainerRecord
from sampan.errors import NotFound, Unavailable


class FullDisk:
    def put(self, *_: object, **__: object) -> None:
        raise Unavailable("no space left on device")

    def delete(self, *_: object, **__: object) -> None:
        return None

    def items(self, *_: object) -> list[tuple[str, bytes]]:
        return []


def test_a_rename_that_could_not_be_written_down_has_not_happened() -> None:
    store = ContainerStore(FullDisk())
    record = ContainerRecord(
        "a" * 64, "old", "2026-01-01T00:00:00Z", "", "", (), ContainerConfig(), HostConfig()
    )
    store.reserve_name("old", record.id)
    store.add(record)
    announced: list[object] = []
    parts: Any = SimpleNamespace(store=store, announce=lambda *event: announced.append(event))
    others: Any = SimpleNamespace(run=None)
    lifecycle = Lifecycle(parts, others, others, others)
    with pytest.raises(Unavailable, match="no space left"):
        asyncio.run(lifecycle.rename("old", "new"))
    assert store.find("old").record == record
    assert dict(store.names) == {"old": record.id}
    assert announced == []


class SlowDisk(FullDisk):
    """The first write takes until `go` is set."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.written: list[str] = []

    def put(self, *arguments: object, **__: object) -> None:
        self.begun.set()
        self.go.wait(10)
        self.written.append(msgspec.json.decode(arguments[2])["name"])  # type: ignore[arg-type]


class SlowRemoval(SlowDisk):
    def put(self, *_: object, **__: object) -> None:
        return None

    def delete(self, *_: object, **__: object) -> None:
        self.begun.set()
        self.go.wait(10)


def test_a_rename_that_was_given_up_while_it_was_written_down_has_not_happened() -> None:
    disk = SlowDisk()
    store = ContainerStore(disk)
    record = ContainerRecord(
        "a" * 64, "old", "2026-01-01T00:00:00Z", "", "", (), ContainerConfig(), HostConfig()
    )
    store.reserve_name("old", record.id)
    store.add(record)
    parts: Any = SimpleNamespace(store=store, announce=lambda *_event: None)
    others: Any = SimpleNamespace(run=None)
    lifecycle = Lifecycle(parts, others, others, others)

    async def give_up() -> None:
        task = asyncio.ensure_future(lifecycle.rename("old", "new"))
        await asyncio.to_thread(disk.begun.wait, 10)
        task.cancel()
        disk.go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert store.find("old").record.name == "old"
    assert dict(store.names) == {"old": record.id}
    assert disk.written[-1] == "old"


def _one(disk: Any) -> tuple[ContainerStore, ContainerRecord, Lifecycle]:
    store = ContainerStore(disk)
    record = ContainerRecord(
        "a" * 64, "old", "2026-01-01T00:00:00Z", "", "", (), ContainerConfig(), HostConfig()
    )
    store.reserve_name("old", record.id)
    store.add(record)
    parts: Any = SimpleNamespace(store=store, announce=lambda *_event: None)
    others: Any = SimpleNamespace(run=None)
    return store, record, Lifecycle(parts, others, others, others)


def test_of_renames_at_once_the_last_name_is_the_one_it_is_found_by() -> None:
    disk = SlowDisk()
    store, record, lifecycle = _one(disk)

    async def there_and_back() -> None:
        there = asyncio.ensure_future(lifecycle.rename("old", "new"))
        await asyncio.to_thread(disk.begun.wait, 10)
        back = asyncio.ensure_future(lifecycle.rename(record.id, "old"))
        await asyncio.sleep(0)
        disk.go.set()
        await asyncio.gather(there, back)

    asyncio.run(there_and_back())
    assert store.find("old").record.name == "old"
    assert dict(store.names) == {"old": record.id}


def test_a_container_that_is_removed_while_it_is_renamed_leaves_no_name_taken() -> None:
    disk = SlowDisk()
    store, record, lifecycle = _one(disk)

    async def rename_and_remove() -> None:
        renaming = asyncio.ensure_future(lifecycle.rename("old", "new"))
        await asyncio.to_thread(disk.begun.wait, 10)
        removing = asyncio.ensure_future(store.delete(store.find(record.id)))
        await asyncio.sleep(0)
        disk.go.set()
        await asyncio.gather(renaming, removing)

    asyncio.run(rename_and_remove())
    assert dict(store.names) == {}


def test_a_container_that_is_renamed_while_it_is_removed_leaves_no_name_taken() -> None:
    disk = SlowRemoval()
    store, record, lifecycle = _one(disk)

    async def remove_and_rename() -> None:
        removing = asyncio.ensure_future(store.delete(store.find(record.id)))
        await asyncio.to_thread(disk.begun.wait, 10)
        renaming = asyncio.ensure_future(lifecycle.rename(record.id, "new"))
        await asyncio.sleep(0)
        disk.go.set()
        await removing
        with pytest.raises(NotFound, match="No such container"):
            await renaming

    asyncio.run(remove_and_rename())
    assert dict(store.names) == {}
