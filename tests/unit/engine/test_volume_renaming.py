"""A container that is made while a volume gets another name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.containers.store import Slot
from sampan.engine.containers.unreadable import Unreadable
from sampan.engine.containers.volume_renaming import VolumeRenaming
from sampan.engine.model import NEVER, ContainerRecord, MountPoint
from sampan.errors import Conflict


def slot(name: str) -> Slot:
    mounts = (MountPoint("volume", "/d", source="/volumes/old/_data", name="old"),)
    return Slot(
        ContainerRecord(name, name, NEVER, "", "", (), ContainerConfig(), HostConfig(), mounts=mounts)
    )


def renaming(slots: dict[str, Slot], meanwhile: Callable[[], object]) -> tuple[VolumeRenaming, list[str]]:
    written: list[str] = []

    async def rename(_name: str, _new: str, write: Callable[[], None]) -> None:
        meanwhile()
        write()

    volumes = SimpleNamespace(
        get=lambda _name: None,
        path=lambda _name: Path("/volumes/old/_data"),
        use=SimpleNamespace(users=lambda _name: list(slots)),
        rename=rename,
    )
    store = SimpleNamespace(
        get=slots.get,
        replace=lambda one, record: setattr(one, "record", record),
        unreadable=Unreadable({"f" * 64: b'{"mounts":[{"name":"lost"}]'}),
    )
    metadata = SimpleNamespace(put=lambda _table, key, _body: written.append(key))
    parts: Any = SimpleNamespace(volumes=volumes, store=store, metadata=metadata)
    return VolumeRenaming(parts), written


def test_a_container_that_is_made_meanwhile_keeps_the_volume_from_its_new_name() -> None:
    slots = {"first": slot("first")}
    service, _ = renaming(slots, lambda: slots.update(second=slot("second")))
    with pytest.raises(Conflict, match="rename old: volume is in use"):
        asyncio.run(service.rename("old", "new"))
    assert {one.record.mounts[0].name for one in slots.values()} == {"old"}


def test_containers_that_were_there_before_know_the_new_name() -> None:
    slots = {"first": slot("first"), "second": slot("second")}
    service, written = renaming(slots, lambda: None)
    asyncio.run(service.rename("old", "new"))
    assert written == ["first", "second"]
    assert {one.record.mounts[0].source for one in slots.values()} == {"/volumes/new/_data"}


def test_a_volume_of_a_container_whose_record_can_not_be_read_keeps_its_name() -> None:
    service, written = renaming({}, lambda: None)
    with pytest.raises(Conflict, match="rename lost: volume is in use by container ffff"):
        asyncio.run(service.rename("lost", "new"))
    assert written == []
