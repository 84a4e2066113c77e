"""An engine that dies between any two steps of a change of volumes: the next one finds the old state or the new."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.events import EventBus
from sampan.engine.model import NEVER, VolumeRecord
from sampan.engine.volumes import local, renaming, staging
from sampan.engine.volumes.service import Volumes
from sampan.errors import Conflict, SampanError
from sampan.storage.metadata import Metadata, Table

Change = Callable[[Volumes], Awaitable[None]]
DIED = 77


def opened(root: Path) -> tuple[Volumes, Metadata]:
    metadata = Metadata(root)
    return Volumes(root / "volumes", metadata, EventBus()), metadata


def state(root: Path) -> dict[str, str]:
    """What the next engine has: each volume's content. Nothing else may lie about."""
    volumes, metadata = opened(root)
    try:
        names = sorted(one["Name"] for one in volumes.list({})["Volumes"])
        assert sorted(os.listdir(root / "volumes")) == names
        assert metadata.items(Table.SETTINGS, renaming.RENAME_NOTE) == []
        return {name: (volumes.path(name) / "file").read_text() for name in names}
    finally:
        metadata.close()


def dies_at(root: Path, change: Change, step: int) -> bool:
    """Do the change in a process that ends, as by kill -9, before its `step`-th step. False when it has fewer."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _count_down(step)
            volumes, metadata = opened(root)
            asyncio.run(change(volumes))  # type: ignore[arg-type]
            metadata.close()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, DIED)
    return code == DIED


def _count_down(step: int) -> None:
    left = step

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                os._exit(DIED)
            return function(*args, **kwargs)

        return counted

    for owner, name in (
        (local.os, "rename"),
        (local, "exchange"),
        (local, "remove_tree"),
        (Metadata, "put"),
        (Metadata, "delete"),
        (Metadata, "_end"),
        (staging, "sync_all"),
        (local, "_flush"),
    ):
        setattr(owner, name, counting(getattr(owner, name)))


async def _make(volumes: Volumes) -> None:
    async with volumes.staged("new") as place:
        (place / "file").write_text("new")


async def _replace(volumes: Volumes) -> None:
    async with volumes.replaced("old") as place:
        (place / "file").write_text("replaced")


async def _rename(volumes: Volumes) -> None:
    await volumes.rename("old", "renamed", lambda: None)


@pytest.mark.parametrize(
    ("change", "after"),
    [
        (_make, {"new": "new", "old": "before"}),
        (_replace, {"old": "replaced"}),
        (_rename, {"renamed": "before"}),
    ],
    ids=["restore into a new volume", "restore into an old one", "rename"],
)
def test_a_change_is_all_or_nothing(change: Change, after: dict[str, str], tmp_path: Path) -> None:
    before = {"old": "before"}
    seen = []
    for step in range(1, 40):
        root = tmp_path / str(step)

        async def first(volumes: Volumes) -> None:
            await volumes.create("old")
            (volumes.path("old") / "file").write_text("before")

        volumes, metadata = opened(root)
        asyncio.run(first(volumes))
        metadata.close()
        died = dies_at(root, change, step)
        found = state(root)
        assert found in (before, after), f"died before step {step}"
        seen.append(found)
        if not died:
            assert found == after
            break
    else:
        pytest.fail("it never ends")
    assert len(seen) > 3
    assert before in seen and after in seen
    # Once it is done it stays done.
    assert seen == [before] * seen.count(before) + [after] * seen.count(after)


def test_a_volume_in_use_or_of_another_name_is_not_renamed(tmp_path: Path) -> None:
    volumes, metadata = opened(tmp_path)

    async def refused() -> None:
        for name in ("one", "two"):
            await volumes.create(name)
        for new, kind in (("two", Conflict), ("x/y", SampanError), ("", SampanError)):
            with pytest.raises(kind):
                await volumes.rename("one", new, lambda: None)
        with volumes.holding("one"), pytest.raises(Conflict):
            await volumes.rename("one", "three", lambda: None)
        volumes.use.busy = lambda _name: ["container"]
        with pytest.raises(Conflict, match="running containers: container"):
            await volumes.rename("one", "three", lambda: None)
        assert volumes.path("one").is_dir()

    asyncio.run(refused())
    metadata.close()


def test_what_a_creation_that_died_before_its_record_left_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes, metadata = opened(tmp_path)
    driver = local.LocalDriver(tmp_path / "volumes")
    nobodys, filled = "a" * 64, "b" * 64
    for name in (nobodys, filled, "named", "other", "full"):
        driver.create(VolumeRecord(name, NEVER, "local"))
    for name in (filled, "full"):
        (tmp_path / "volumes" / name / "_data/file").write_text("kept")
    asyncio.run(volumes.create("mine"))
    metadata.put(Table.VOLUMES, "c" * 64, b"a newer engine's")
    driver.create(VolumeRecord("c" * 64, NEVER, "local"))
    metadata.close()
    volumes, metadata = opened(tmp_path)
    assert not (tmp_path / "volumes" / nobodys).exists()
    assert (tmp_path / "volumes" / ("c" * 64)).exists()
    flushed: list[Path] = []
    monkeypatch.setattr(local, "_flush", lambda place: flushed.append(place) or (place / "named").stat())

    async def change() -> None:
        async with volumes.staged("named") as place:
            (place / "file").write_text("new")
        await volumes.rename("mine", "other", lambda: None)
        with pytest.raises(Conflict, match="belongs to no volume"):
            async with volumes.staged("full"):
                pass

    asyncio.run(change())
    metadata.close()
    assert flushed == [tmp_path / "volumes"]  # once it had its name
    assert (tmp_path / "volumes/named/_data/file").read_text() == "new"
    for name in (filled, "full"):
        assert (tmp_path / "volumes" / name / "_data/file").read_text() == "kept"
    volumes, metadata = opened(tmp_path)
    assert sorted(one["Name"] for one in volumes.list({})["Volumes"]) == ["named", "other"]
    metadata.close()
