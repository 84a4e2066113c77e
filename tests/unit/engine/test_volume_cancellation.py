"""Whoever gives up waiting for a change of volumes leaves the old state or the new one; and sweeping goes on."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.events import EventBus
from sampan.engine.threads import to_its_end
from sampan.engine.volumes import local
from sampan.engine.volumes.service import Volumes
from sampan.storage.metadata import Metadata, Table


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Volumes, Metadata]]:
    metadata = Metadata(tmp_path)
    yield Volumes(tmp_path / "volumes", metadata, EventBus()), metadata
    metadata.close()


@contextmanager
def halted(
    patch: pytest.MonkeyPatch, owner: Any, name: str
) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The function waits before it works: (it has been called, it may go on)."""
    begun, go_on = threading.Event(), threading.Event()
    function = getattr(owner, name)

    def waiting(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return function(*args, **kwargs)

    with patch.context() as inner:
        inner.setattr(owner, name, waiting)
        yield begun, go_on


async def given_up(change: Awaitable[Any], begun: threading.Event, go_on: threading.Event) -> None:
    """Cancel it, more than once, while its thread waits."""
    task = asyncio.ensure_future(change)
    assert await asyncio.to_thread(begun.wait, 60)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


def agree(volumes: Volumes, metadata: Metadata, root: Path) -> list[str]:
    """The names that memory, database and disk all have."""
    known = sorted(one["Name"] for one in volumes.list({})["Volumes"])
    assert [key for key, _ in metadata.items(Table.VOLUMES)] == known
    assert sorted(os.listdir(root / "volumes")) == known
    return known


def test_a_removal_that_nobody_waits_for_any_more_is_complete(
    opened: tuple[Volumes, Metadata], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes, metadata = opened

    async def story() -> None:
        await volumes.create("data")
        with halted(monkeypatch, local.os, "rename") as (begun, go_on):
            await given_up(volumes.remove("data"), begun, go_on)
        assert agree(volumes, metadata, tmp_path) == []

    asyncio.run(story())


@pytest.mark.parametrize(("name", "after"), [("data", ["data"]), ("", [])])
def test_a_volume_that_nobody_waits_for_any_more_is_there_or_not_at_all(
    opened: tuple[Volumes, Metadata],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    after: list[str],
) -> None:
    volumes, metadata = opened

    async def story() -> None:
        with halted(monkeypatch, local.LocalDriver, "create") as (begun, go_on):
            await given_up(volumes.create(name), begun, go_on)
        assert agree(volumes, metadata, tmp_path) == after

    asyncio.run(story())


def test_a_staged_volume_that_nobody_waits_for_at_its_end_is_known(
    opened: tuple[Volumes, Metadata], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes, metadata = opened
    monkeypatch.setattr("sampan.engine.volumes.staging.sync_all", lambda _: None)

    async def restore() -> None:
        async with volumes.staged("new") as place:
            (place / "file").write_text("content")

    async def story() -> None:
        with halted(monkeypatch, local.LocalDriver, "publish") as (begun, go_on):
            await given_up(restore(), begun, go_on)
        assert agree(volumes, metadata, tmp_path) == ["new"]

    asyncio.run(story())


def test_a_restore_given_up_at_its_very_beginning_leaves_nothing(
    opened: tuple[Volumes, Metadata], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes, metadata = opened

    async def restore(name: str) -> None:
        async with volumes.replaced(name) if name == "old" else volumes.staged(name):
            raise AssertionError("nobody waits for it")

    async def story() -> None:
        await volumes.create("old")
        for name in ("old", "new"):
            with halted(monkeypatch, local.LocalDriver, "stage") as (begun, go_on):
                await given_up(restore(name), begun, go_on)
        assert agree(volumes, metadata, tmp_path) == ["old"]

    asyncio.run(story())


def test_what_is_left_of_a_volume_and_cannot_be_removed_keeps_no_engine_from_starting(
    opened: tuple[Volumes, Metadata],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    volumes, metadata = opened
    asyncio.run(volumes.create("data"))
    for name in (".stuck.0123", ".other.0123"):
        (tmp_path / "volumes" / name).mkdir()
    remove = local.remove_tree

    def immutable(path: Path) -> None:
        if path.name.startswith(".stuck"):
            raise PermissionError(1, "Operation not permitted")
        remove(path)

    monkeypatch.setattr(local, "remove_tree", immutable)
    with caplog.at_level(logging.WARNING):
        again = Volumes(tmp_path / "volumes", metadata, EventBus())
    assert again.find("data") is not None
    assert sorted(os.listdir(tmp_path / "volumes")) == [".stuck.0123", "data"]
    assert ".stuck.0123" in caplog.text


def test_a_coroutine_goes_to_its_end_and_its_error_is_not_lost_on_who_still_waits() -> None:
    async def work(result: Callable[[], int]) -> int:
        await asyncio.sleep(0)
        return result()

    async def story() -> None:
        assert await to_its_end(work(lambda: 5)) == 5
        with pytest.raises(ZeroDivisionError):
            await to_its_end(work(lambda: 1 // 0))

    asyncio.run(story())
