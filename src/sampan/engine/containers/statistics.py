"""Statistics of running containers: one measurement a second of each, for however many listen to it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from sampan.engine.containers.base import Json, Parts
from sampan.engine.model import ContainerRecord, now
from sampan.engine.stats import (
    Interfaces,
    Sample,
    empty_json,
    parse_interfaces,
    parse_system_cpu,
    stats_json,
)
from sampan.engine.usage import Usage
from sampan.errors import Invalid, NotFound, SampanError
from sampan.linux.cgroups import files

log = logging.getLogger(__name__)

_INTERVAL = 1.0
_LEAST_INTERVAL = 0.5
"""Seconds; shorter ones make the share of the processor a matter of chance."""

_MOST_KEPT = 64
"""Containers whose files are kept open between measurements: about 15 descriptors each."""

_Queue = asyncio.Queue[Json | None]


@dataclass(slots=True, eq=False)
class _Meter:
    """A container that somebody listens to. `measured`: time.monotonic() of the last measurement, 0 for none;
    `pid`: of the container's life that `before` and `kept` are of."""

    container_id: str
    queues: set[_Queue] = field(default_factory=set)
    before: Sample | None = None
    measured: float = 0.0
    kept: files.KeptFiles | None = None
    pid: int = 0

    def close(self) -> None:
        if self.kept is not None:
            self.kept.close()
            self.kept = None


class Statistics:
    """Used from the event loop's thread; the measuring itself is done in another."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._meters: dict[str, _Meter] = {}
        self._task: asyncio.Task[None] | None = None
        self._new = asyncio.Event()

    async def stats(self, reference: str, *, stream: bool, one_shot: bool) -> AsyncIterator[Json]:
        """Samples, one a second; without `stream` one, with another a second before it unless `one_shot`.

        Raises `NotFound`, `Invalid` for both at once.
        """
        container_id = self._parts.store.find(reference).record.id
        if stream and one_shot:
            raise Invalid("cannot have stream=true and one-shot=true")
        return self._stream(container_id) if stream else self._once(container_id, one_shot)

    def close(self) -> None:
        """The streams end."""
        if self._task is not None:
            self._task.cancel()

    async def _once(self, container_id: str, one_shot: bool) -> AsyncIterator[Json]:
        before = None
        name = self._parts.store.find(container_id).record.name
        for last in (True,) if one_shot else (False, True):
            slot = self._parts.store.get(container_id)
            if slot is None or not slot.record.running:
                break
            record = slot.record
            try:
                sample, interfaces = await asyncio.to_thread(self._measure, record, files.read, _system_cpu())
            except NotFound:
                break  # it ended in this moment
            if last:
                yield stats_json(record.id, record.name, sample, before, interfaces=interfaces)
                return
            before = sample
            await asyncio.sleep(_INTERVAL)
        yield empty_json(container_id, name)

    async def _stream(self, container_id: str) -> AsyncIterator[Json]:
        """Until the container is removed. Who is slower than the measurements misses some."""
        queue: _Queue = asyncio.Queue(1)
        meter = self._meters.setdefault(container_id, _Meter(container_id))
        meter.queues.add(queue)
        self._new.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())
        try:
            while (item := await queue.get()) is not None:
                yield item
        finally:
            meter.queues.discard(queue)

    async def _run(self) -> None:
        """Measures once a second what is listened to, and at once what is new; ends when nobody listens."""
        try:
            following = time.monotonic()
            while self._drop_unused():
                self._new.clear()
                regular = time.monotonic() >= following
                if regular:
                    following = max(following + _INTERVAL, time.monotonic() + _LEAST_INTERVAL)
                due = self._due(regular)
                if due:
                    for (meter, _), item in zip(
                        due, await asyncio.to_thread(self._measure_all, due), strict=True
                    ):
                        _publish(meter, item)
                try:
                    async with asyncio.timeout(max(0.0, following - time.monotonic())):
                        await self._new.wait()
                except TimeoutError:
                    continue
        finally:
            self._task = None
            for meter in self._meters.values():
                meter.close()
                _publish(meter, None)
            self._meters.clear()

    def _drop_unused(self) -> bool:
        for meter in [meter for meter in self._meters.values() if not meter.queues]:
            meter.close()
            del self._meters[meter.container_id]
        return bool(self._meters)

    def _due(self, regular: bool) -> list[tuple[_Meter, ContainerRecord]]:
        due = []
        ripe = time.monotonic() - _LEAST_INTERVAL
        for meter in list(self._meters.values()):
            if meter.measured > ripe or (meter.measured and not regular):
                continue
            slot = self._parts.store.get(meter.container_id)
            if slot is None:
                _publish(meter, None)
                meter.close()
                del self._meters[meter.container_id]
            else:
                due.append((meter, slot.record))
        return due

    def _measure_all(self, due: list[tuple[_Meter, ContainerRecord]]) -> list[Json]:
        """Blocking."""
        system = _system_cpu()
        room = _MOST_KEPT - sum(1 for meter in list(self._meters.values()) if meter.kept is not None)
        items = []
        for meter, record in due:
            meter.measured = time.monotonic()
            if meter.pid != record.state.pid:
                meter.close()  # it has been started again: other files at the same places
                meter.before, meter.pid = None, record.state.pid
            if record.running and meter.kept is None and room > 0:
                meter.kept = files.KeptFiles()
                room -= 1
            items.append(self._measure_one(meter, record, system))
        return items

    def _measure_one(self, meter: _Meter, record: ContainerRecord, system: int) -> Json:
        if record.running:
            try:
                read = files.read if meter.kept is None else meter.kept.read
                sample, interfaces = self._measure(record, read, system)
            except NotFound:
                log.debug("container %s ended while it was measured", record.id)
            except (SampanError, OSError) as error:
                log.warning("container %s could not be measured: %s", record.id, error)
            else:
                before, meter.before = meter.before, sample
                return stats_json(record.id, record.name, sample, before, interfaces=interfaces)
        meter.before = None
        return empty_json(record.id, record.name)

    def _measure(self, record: ContainerRecord, read: files.Read, system: int) -> tuple[Sample, Interfaces]:
        """Blocking. Raises `NotFound` when its group is gone."""
        stats = self._parts.cgroup(record).stats(read)
        return Sample(now(), stats, system), _interfaces(record)

    async def usages(self) -> list[Usage]:
        """Of every running container, as of now; without those that can't be measured."""
        running = [record for record in self._parts.store if record.running]
        return await asyncio.to_thread(self._usages, running)

    def _usages(self, records: list[ContainerRecord]) -> list[Usage]:
        found = []
        for record in records:
            cgroup = self._parts.cgroup(record)
            try:
                found.append(Usage(record, cgroup.stats(), _interfaces(record), cgroup.oom_kills()))
            except NotFound:
                continue  # it ended in this moment
            except SampanError as error:
                log.warning("container %s could not be measured: %s", record.id, error)
        return found


def _interfaces(record: ContainerRecord) -> Interfaces:
    """Without a network of its own a container has none to count."""
    if record.host.network_mode in ("host", "none"):
        return {}
    try:
        # Not kept open: it would keep the network namespace of a container that has ended.
        with open(f"/proc/{record.state.pid}/net/dev", encoding="ascii") as file:
            return parse_interfaces(file.read())
    except OSError:
        return {}  # it ended in this moment


def _publish(meter: _Meter, item: Json | None) -> None:
    for queue in meter.queues:
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(item)


def _system_cpu() -> int:
    with open("/proc/stat", encoding="ascii") as file:
        return parse_system_cpu(file.readline(), os.sysconf("SC_CLK_TCK"))
