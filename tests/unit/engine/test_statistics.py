"""Who listens to a container's statistics gets one measurement a second, which is made once for all of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.containers import statistics
from sampan.engine.containers.statistics import Statistics
from sampan.engine.containers.store import ContainerStore
from sampan.engine.model import ContainerRecord, State
from sampan.errors import Internal, Invalid
from sampan.linux.cgroups import BlockIoEntry, CgroupStats, CpuStats, MemoryStats, PidsStats

NOW = "2026-01-02T03:04:05Z"


class Disk:
    def put(self, *_: object, **__: object) -> None:
        return None

    def delete(self, *_: object, **__: object) -> None:
        return None

    def items(self, *_: object) -> list[tuple[str, bytes]]:
        return []


class Group:
    """Counts how often it was measured."""

    def __init__(self) -> None:
        self.measured = 0

    def stats(self, _read: object) -> CgroupStats:
        self.measured += 1
        return CgroupStats(
            CpuStats(self.measured, 3, 4, (self.measured, 0), 5, 6, 7),
            MemoryStats(100, 200, 1 << 20, 0, {"total_inactive_file": 30}),
            PidsStats(1, None),
            (BlockIoEntry(8, 0, "Read", 9),),
            (BlockIoEntry(8, 0, "Read", 1),),
        )


class Scene:
    def __init__(self) -> None:
        self.store = ContainerStore(Disk())
        self.group = Group()
        record = ContainerRecord(
            "a" * 64, "c", NOW, "", "", (), ContainerConfig(), HostConfig(network_mode="none"),
            state=State(status="running", pid=1),
        )  # fmt: skip
        self.slot = self.store.add(record)
        parts: Any = SimpleNamespace(store=self.store, cgroup=lambda _record: self.group)
        self.statistics = Statistics(parts)

    async def stream(self) -> AsyncIterator[Any]:
        return await self.statistics.stats("aaa", stream=True, one_shot=False)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_INTERVAL", 0.02)
    monkeypatch.setattr(statistics, "_LEAST_INTERVAL", 0.01)


def test_a_sample_has_the_members_that_dockerd_gives_on_version_1() -> None:
    async def main() -> None:
        scene = Scene()
        samples = [
            sample async for sample in await scene.statistics.stats("aaa", stream=False, one_shot=False)
        ]
        (sample,) = samples
        empty = ("queue", "service_time", "wait_time", "merged", "time")
        assert sample["blkio_stats"] == {
            "io_service_bytes_recursive": [{"major": 8, "minor": 0, "op": "Read", "value": 9}],
            "io_serviced_recursive": [{"major": 8, "minor": 0, "op": "Read", "value": 1}],
            **{f"io_{name}_recursive": [] for name in empty},
            "sectors_recursive": [],
        }
        assert sample["memory_stats"] == {
            "usage": 100,
            "max_usage": 200,
            "stats": {"total_inactive_file": 30},
            "limit": 1 << 20,
        }
        cpu = {
            "cpu_usage": {
                "total_usage": 2,
                "percpu_usage": [2, 0],
                "usage_in_kernelmode": 4,
                "usage_in_usermode": 3,
            },
            "online_cpus": os.cpu_count(),
            "throttling_data": {"periods": 5, "throttled_periods": 6, "throttled_time": 7},
        }
        assert {**sample["cpu_stats"], "system_cpu_usage": 0} == {**cpu, "system_cpu_usage": 0}
        assert sample["precpu_stats"]["cpu_usage"]["total_usage"] == 1
        assert (sample["name"], sample["num_procs"], sample["storage_stats"]) == ("/c", 0, {})
        assert "networks" not in sample
        assert sample["pids_stats"] == {"current": 1}

    asyncio.run(main())


def test_a_stream_of_one_shot_is_refused_in_dockers_words() -> None:
    async def main() -> None:
        with pytest.raises(Invalid, match="cannot have stream=true and one-shot=true"):
            await Scene().statistics.stats("aaa", stream=True, one_shot=True)

    asyncio.run(main())


def test_two_listeners_share_the_measurements_and_the_work_ends_with_the_last() -> None:
    async def main() -> None:
        scene = Scene()
        one, two = await scene.stream(), await scene.stream()
        async with asyncio.timeout(10):
            seen = [await asyncio.gather(anext(one), anext(two)) for _ in range(4)]
            values = [{item["cpu_stats"]["cpu_usage"]["total_usage"] for item in pair} for pair in seen[1:]]
            assert all(len(value) == 1 for value in values)  # each measured once
            await one.aclose()  # type: ignore[attr-defined]
            await two.aclose()  # type: ignore[attr-defined]
            while scene.statistics._task is not None:
                await asyncio.sleep(0)
        assert scene.statistics._meters == {}

    asyncio.run(main())


def test_a_stream_goes_on_over_the_containers_end_and_next_start_and_ends_with_its_removal() -> None:
    async def main() -> None:
        scene = Scene()
        stream = await scene.stream()

        def become(**state: Any) -> None:
            scene.store.replace(scene.slot, replace(scene.slot.record, state=State(**state)))

        async with asyncio.timeout(10):
            assert (await anext(stream))["pids_stats"]["current"] == 1
            assert (await anext(stream))["precpu_stats"]["cpu_usage"]["total_usage"] > 0
            become(status="exited")
            while (await anext(stream))["pids_stats"]:
                pass
            become(status="running", pid=2)
            while not (again := await anext(stream))["pids_stats"]:
                pass
            assert again["preread"] == "0001-01-01T00:00:00Z"
            await scene.store.delete(scene.slot)
            async for _ in stream:  # it ends
                pass

    asyncio.run(main())


def test_files_of_a_few_containers_only_are_kept_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "_MOST_KEPT", 1)

    async def main() -> None:
        scene = Scene()
        other = replace(scene.slot.record, id="b" * 64, name="d")
        scene.store.add(other)
        streams = [await scene.statistics.stats(name, stream=True, one_shot=False) for name in ("aaa", "bbb")]
        async with asyncio.timeout(10):
            for _ in range(3):
                await asyncio.gather(*(anext(stream) for stream in streams))
        kept = [meter.kept is not None for meter in scene.statistics._meters.values()]
        assert sorted(kept) == [False, True]
        scene.statistics.close()
        async with asyncio.timeout(10):
            for stream in streams:
                async for _ in stream:  # it ends
                    pass

    asyncio.run(main())


def test_a_container_that_can_not_be_measured_does_not_keep_the_others_from_being_shown() -> None:
    class Broken(Group):
        def stats(self, read: object = None) -> CgroupStats:
            raise Internal("cgroup: reading memory.stat: Too many open files")

    class Whole(Group):
        def stats(self, read: object = None) -> CgroupStats:
            return super().stats(read)

        def oom_kills(self) -> int:
            return 2

    async def main() -> None:
        scene = Scene()
        record = scene.slot.record
        other = scene.store.add(replace(record, id="b" * 64, name="d")).record
        groups = {record.id: Broken(), other.id: Whole()}
        parts: Any = SimpleNamespace(store=scene.store, cgroup=lambda record: groups[record.id])
        found = await Statistics(parts).usages()
        assert [(usage.record.name, usage.oom_kills) for usage in found] == [("d", 2)]

    asyncio.run(main())
