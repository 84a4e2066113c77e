"""The end of a container reaches whoever waits for it, whatever fails on the way."""

from __future__ import annotations

import asyncio
import os
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.containers.monitor import Monitor, Waited
from sampan.engine.containers.runner import both
from sampan.engine.containers.store import ContainerStore, Slot
from sampan.engine.containers.volume_mounts import VolumeMounts
from sampan.engine.model import ContainerRecord, State
from sampan.errors import Internal, SampanError, Unavailable
from sampan.runtime.messages import ExitRecord

END = ExitRecord(7, "2026-01-02T03:04:05Z")


class Disk:
    """A metadata store that can be full."""

    def __init__(self) -> None:
        self.full = False

    def put(self, *_: object, **__: object) -> None:
        if self.full:
            raise Unavailable("no space left on device")

    def delete(self, *_: object, **__: object) -> None:
        return None

    def items(self, *_: object) -> list[tuple[str, bytes]]:
        return []


class Group:
    path = "none"

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def exists(self) -> bool:
        return True

    def kill_all(self) -> None:
        return None

    def remove(self) -> None:
        if self._error is not None:
            raise self._error


class Shim:
    """Ends when `end` is called."""

    def __init__(self, record: ExitRecord | SampanError) -> None:
        self._record = record
        self._read, self._write = os.pipe()

    def fileno(self) -> int:
        return self._read

    def end(self) -> None:
        os.write(self._write, b"x")

    def wait(self) -> ExitRecord:
        if isinstance(self._record, SampanError):
            raise self._record
        return self._record

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Wiring:
    async def end(self, _record: ContainerRecord) -> None:
        return None

    def forget(self, record: ContainerRecord) -> ContainerRecord:
        return record


class Scene:
    def __init__(self, group_error: Exception | None = None) -> None:
        self.disk = Disk()
        store = ContainerStore(self.disk)
        record = ContainerRecord(
            "a" * 64,
            "c",
            "2026-01-01T00:00:00Z",
            "",
            "",
            (),
            ContainerConfig(),
            HostConfig(),
            state=State(status="running", pid=1),
        )
        self.slot: Slot = store.add(record)
        parts: Any = SimpleNamespace(
            store=store,
            announce=lambda *_: None,
            announce_volumes=lambda *_: None,
            volumes=SimpleNamespace(find=lambda _name: None),
            cgroup=lambda _record: Group(group_error),
            networks=SimpleNamespace(get=lambda _id: None),
            cgroups=SimpleNamespace(layout="v1", hierarchies={}),  # a host that can't tell of OOM kills
        )
        wiring: Any = Wiring()
        self.monitor = Monitor(parts, wiring, VolumeMounts(parts))

    async def ends(self, shim: Shim) -> Waited:
        watched: Any = shim
        self.monitor.watch(self.slot, watched)
        waiting = self.monitor.wait(self.slot, "next-exit")
        shim.end()
        async with asyncio.timeout(10):
            return await waiting


def test_a_full_disk_keeps_nobody_waiting_for_the_end() -> None:
    async def main() -> None:
        scene = Scene()
        scene.disk.full = True
        assert await scene.ends(Shim(END)) == Waited(7)
        assert scene.slot.record.state.status == "exited"

    asyncio.run(main())


@pytest.mark.parametrize("error", [Unavailable("busy"), OSError(16, "Device or resource busy")])
def test_a_control_group_that_stays_does_not_hide_the_end(error: Exception) -> None:
    async def main() -> None:
        assert await Scene(error).ends(Shim(END)) == Waited(7)

    asyncio.run(main())


def test_an_unreadable_exit_record_is_an_end_too() -> None:
    async def main() -> None:
        waited = await Scene().ends(Shim(Internal("malformed exit record")))
        assert (waited.exit_code, waited.error) == (137, "malformed exit record")

    asyncio.run(main())


def test_who_gives_up_waiting_is_forgotten() -> None:
    async def main() -> None:
        scene = Scene()
        for _ in range(100):
            scene.monitor.wait(scene.slot, "not-running").cancel()
        await asyncio.sleep(0)
        assert scene.monitor.waiting(scene.slot.record.id) == 0
        kept = scene.monitor.wait(scene.slot, "not-running")
        assert scene.monitor.waiting(scene.slot.record.id) == 1
        kept.cancel()

    asyncio.run(main())


def test_work_in_threads_is_waited_for_when_its_awaiter_is_cancelled() -> None:
    go_on = threading.Event()
    started = threading.Event()

    def work() -> str:
        started.set()
        assert go_on.wait(10)
        return "made"

    async def main() -> None:
        async def fails() -> None:
            raise Unavailable("no")

        task = asyncio.ensure_future(both(fails(), asyncio.to_thread(work)))
        assert await asyncio.to_thread(started.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        first, second, cancelled = await task
        assert isinstance(first, Unavailable)
        assert second == "made"
        assert isinstance(cancelled, asyncio.CancelledError)

    asyncio.run(main())
