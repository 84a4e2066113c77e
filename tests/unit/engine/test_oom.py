"""OOM kills of running containers become events and states, each once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.containers.oom import OomWatch
from sampan.engine.containers.store import ContainerStore, Slot
from sampan.engine.model import ContainerRecord, State
from sampan.linux.cgroups import detect
from sampan.runtime.messages import ExitRecord

NOW = "2026-01-02T03:04:05Z"


class Disk:
    def put(self, *_: object, **__: object) -> None:
        return None

    def delete(self, *_: object, **__: object) -> None:
        return None

    def items(self, *_: object) -> list[tuple[str, bytes]]:
        return []


class Scene:
    """One running container in a version 2 group of plain files."""

    def __init__(self, root: Path, *, told: bool = False) -> None:
        (root / "cgroup.controllers").write_text("memory\n")
        (root / "c").mkdir()
        self._events = root / "c" / "memory.events"
        self.kernel_kills(0)
        host = detect(root)
        store = ContainerStore(Disk())
        state = State(status="running", pid=1, oom_killed=told)
        record = ContainerRecord("a" * 64, "c", NOW, "", "", (), ContainerConfig(), HostConfig(), state=state)
        self.slot: Slot = store.add(record)
        self.announced: list[str] = []
        self.heard = asyncio.Event()
        parts: Any = SimpleNamespace(
            store=store,
            announce=self._announce,
            cgroups=host,
            cgroup=lambda _record: host.group("c"),
            set_state=lambda slot, state: store.replace(
                slot, ContainerRecord(**{**_members(slot.record), "state": state})
            ),
        )
        self.watch = OomWatch(parts, asyncio.ensure_future)

    def _announce(self, _record: ContainerRecord, action: str) -> None:
        self.announced.append(action)
        self.heard.set()

    def kernel_kills(self, count: int) -> None:
        self._events.write_text(f"oom_kill {count}\n")


def _members(record: ContainerRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def _end(kills: int) -> ExitRecord:
    return ExitRecord(1, NOW, kills > 0, "", kills)


def test_a_kill_is_told_at_once_and_not_again_at_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        scene = Scene(tmp_path)
        scene.watch.watch(scene.slot)
        scene.kernel_kills(1)
        async with asyncio.timeout(10):
            await scene.heard.wait()
        assert scene.announced == ["oom"]
        assert scene.slot.record.state.oom_killed
        assert scene.watch.ended(scene.slot, _end(1)) == (True, False)
        scene.watch.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kills", "answer"),
    [(0, (False, False)), (1, (True, True))],
)
def test_what_was_not_seen_before_the_end_is_told_then(
    tmp_path: Path, kills: int, answer: tuple[bool, bool]
) -> None:
    async def main() -> None:
        scene = Scene(tmp_path)
        scene.watch.watch(scene.slot)
        assert scene.watch.ended(scene.slot, _end(kills)) == answer
        scene.watch.close()

    asyncio.run(main())


@pytest.mark.parametrize(("told", "announced"), [(False, ["oom"]), (True, [])])
def test_a_kill_before_the_engine_came_is_told_unless_it_was(
    tmp_path: Path, told: bool, announced: list[str]
) -> None:
    async def main() -> None:
        scene = Scene(tmp_path, told=told)
        scene.kernel_kills(1)
        scene.watch.watch(scene.slot, found=True)
        assert scene.announced == announced
        assert scene.watch.ended(scene.slot, _end(1)) == (True, False)
        scene.watch.close()

    asyncio.run(main())
