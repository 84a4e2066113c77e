"""What becomes of a container's record when it is changed, whatever happens to the container in the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.containers.lifecycle import Lifecycle
from sampan.engine.containers.store import ContainerStore
from sampan.engine.host_facts import HostFacts
from sampan.engine.model import ContainerRecord, State
from sampan.errors import Internal
from sampan.linux.cgroups import CgroupLimits

MIB = 1 << 20
NOW = "2026-01-02T03:04:05Z"


class Disk:
    def __init__(self) -> None:
        self.written = 0

    def put(self, *_: object, **__: object) -> None:
        self.written += 1

    def items(self, *_: object) -> list[tuple[str, bytes]]:
        return []


class Group:
    """Lower limits make the kernel kill at once."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self._kill = kill

    def update(self, limits: CgroupLimits) -> Callable[[], None]:
        self._kill()
        return lambda: None


def test_an_oom_kill_that_the_update_brings_is_not_forgotten() -> None:
    async def main() -> None:
        store = ContainerStore(Disk())  # type: ignore[arg-type]
        host = HostConfig(memory=64 * MIB, memory_swap=128 * MIB)
        state = State(status="running", pid=1)
        slot = store.add(
            ContainerRecord("a" * 64, "eater", NOW, "", "", (), ContainerConfig(), host, state=state)
        )

        def kill() -> None:
            struck = replace(slot.record.state, oom_killed=True)
            store.replace(slot, replace(slot.record, state=struck))

        parts: Any = SimpleNamespace(
            store=store,
            facts=HostFacts(cpus=2, cpuset="0-1", memory_nodes="0"),
            cgroup=lambda _record: Group(kill),
            announce=lambda *_: None,
        )
        unused: Any = SimpleNamespace(run=None)
        lifecycle = Lifecycle(parts, unused, unused, SimpleNamespace())  # type: ignore[arg-type]
        assert await lifecycle.update(slot.record.id, HostConfig(memory=16 * MIB)) == []
        assert slot.record.host.memory == 16 * MIB
        assert slot.record.state.oom_killed

    asyncio.run(main())


def test_a_record_that_no_engine_could_read_again_is_not_written() -> None:
    async def main() -> None:
        disk = Disk()
        store = ContainerStore(disk)  # type: ignore[arg-type]
        record = ContainerRecord("a" * 64, "c", NOW, "", "", (), ContainerConfig(), HostConfig())
        broken = replace(record, host=HostConfig(memory_swap=1 << 63))
        with pytest.raises(Internal, match=r"container a{64} can't be read: .*MemorySwap"):
            await store.insert(broken, durable=True)
        assert (disk.written, len(store)) == (0, 0)
        slot = await store.insert(record, durable=True)
        store.replace(slot, broken)
        with pytest.raises(Internal):
            await store.save(slot)
        assert disk.written == 1

    asyncio.run(main())
