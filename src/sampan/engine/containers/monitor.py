"""Watching the running containers: their ends, who waits for them, and what follows (restart, removal)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from sampan.engine import restart, state
from sampan.engine.containers.base import Parts
from sampan.engine.containers.oom import OomWatch
from sampan.engine.containers.store import Slot
from sampan.engine.containers.volume_mounts import VolumeMounts
from sampan.engine.containers.wiring import Wiring
from sampan.engine.model import ContainerRecord, now
from sampan.errors import Invalid, SampanError
from sampan.runtime.messages import ExitRecord
from sampan.runtime.shim_client import NO_ANSWER, ShimClient

log = logging.getLogger(__name__)

UNKNOWN = 137
"""The exit code of a process whose end nobody has seen, as of a shim that was killed."""

CONDITIONS = ("not-running", "next-exit", "removed")


@dataclass(frozen=True, slots=True)
class Waited:
    """What `wait` answers."""

    exit_code: int
    error: str = ""


@dataclass(slots=True)
class Live:
    """A running container's link to its shim. `ended` is set when its end has been dealt with completely."""

    shim: ShimClient
    since: float
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    no_restart: bool = False
    """A person ended it: the restart policy does not count."""
    unhealthy: bool = False
    """It was ended because it had become unhealthy."""
    silent: bool = False
    """Its shim did not answer and was killed."""
    unknown: str = ""
    """Why it is not known how it ended."""


@dataclass(slots=True)
class Silent:
    """A running container whose shim has not answered this engine yet. `killed`: a person has had it killed."""

    killed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Its end has been dealt with, or its shim answers."""


@dataclass(slots=True)
class _Restarts:
    delay: float = 0.0
    task: asyncio.Task[None] | None = None


class Monitor:
    """Used from the event loop's thread. `start_again` and `remove_ended` are set by the lifecycle part."""

    def __init__(self, parts: Parts, wiring: Wiring, volume_mounts: VolumeMounts) -> None:
        self._parts = parts
        self._wiring = wiring
        self._volume_mounts = volume_mounts
        self._live: dict[str, Live] = {}
        self._waiters: dict[str, dict[str, list[asyncio.Future[Waited]]]] = {}
        self._restarts: dict[str, _Restarts] = {}
        self.silent: dict[str, Silent] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._oom = OomWatch(parts, self.spawn)
        self.start_again: Callable[[Slot], Awaitable[None]] = _nothing
        self.remove_ended: Callable[[Slot], Awaitable[None]] = _nothing
        self.on_started: Callable[[Slot], None] = lambda _slot: None
        self.on_ended: Callable[[Slot], None] = lambda _slot: None

    # Running

    def watch(self, slot: Slot, shim: ShimClient, *, running_for: float = 0.0) -> None:
        """From now on this container's end is noticed."""
        live = Live(shim, time.monotonic() - running_for)
        self._live[slot.record.id] = live
        asyncio.get_running_loop().add_reader(shim.fileno(), self._readable, slot, live)
        self._oom.watch(slot, found=running_for > 0)
        self.on_started(slot)

    def live(self, container_id: str) -> Live | None:
        return self._live.get(container_id)

    def _readable(self, slot: Slot, live: Live) -> None:
        asyncio.get_running_loop().remove_reader(live.shim.fileno())
        self.spawn(self._end(slot, live))

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """A task of the monitor's; an error in it is logged, not lost."""
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("container monitor: %s", error, exc_info=error)

    # Ending

    async def _end(self, slot: Slot, live: Live) -> None:
        exit_record = await asyncio.to_thread(self._last_word, slot.record, live)
        live.shim.close()
        await self.ended(slot, exit_record, live)

    def _last_word(self, record: ContainerRecord, live: Live) -> ExitRecord:
        """Blocking: how it ended. A shim that was killed could not end what is left of its container.

        Whatever fails here, the end is dealt with: who waits for it must not wait for ever.
        """
        try:
            end = live.shim.wait()
            if live.silent:
                end = ExitRecord(UNKNOWN, now(), error=NO_ANSWER)
        except (SampanError, OSError) as error:
            log.error("the end of container %s is not known: %s", record.id, error)
            live.unknown = str(error)
            end = ExitRecord(UNKNOWN, now(), error=live.unknown)
        try:
            group = self._parts.cgroup(record)
            if group.exists():
                group.kill_all()
                group.remove()
        except (SampanError, OSError) as error:
            log.warning("the control group of container %s could not be removed: %s", record.id, error)
        return end

    async def _give_back(self, record: ContainerRecord) -> None:
        try:
            await self._wiring.end(record)
        except (SampanError, OSError) as error:
            log.warning("network of container %s could not be taken down: %s", record.id, error)

    async def ended(self, slot: Slot, end: ExitRecord, live: Live | None) -> None:
        """Everything that follows the end of a container's process.

        The state says "exited" only when the network is given back and volumes are unmounted, so that a start at once
        finds its ports (and a fixed address) free.
        """
        parts = self._parts
        record = slot.record
        self.on_ended(slot)
        await self._give_back(record)
        await self._volume_mounts.unmount(record)
        while record.endpoints != slot.record.endpoints or record.published != slot.record.published:
            record = slot.record  # it was connected to a network, or left one, while that went on
            await self._give_back(record)
        decision = self._decide(slot.record, end, live)
        oom, oom_untold = self._oom.ended(slot, end)
        # Anew: somebody may have renamed it, or stopped it, meanwhile.
        record = self._wiring.forget(slot.record)
        after = state.exited(record.state, end.exit_code, end.finished_at, oom_killed=oom, error=end.error)
        if decision.restart:
            after = state.restarting(after)
        parts.store.replace(slot, replace(record, state=after))
        self._live.pop(record.id, None)
        if oom_untold:
            parts.announce(slot.record, "oom")
        self._announce_end(slot.record, end)
        removing = record.host.auto_remove and not decision.restart
        if not removing:
            await self._save_end(slot)
        if live is not None:
            live.ended.set()
        # What went wrong beside a program that ended by itself, such as a log on a full disk, is in the state; it
        # must not hide the exit code from who waits for it.
        waited = Waited(end.exit_code, live.unknown if live is not None else "")
        self._notify(record.id, ("not-running", "next-exit"), waited)
        if decision.restart:
            self._schedule(slot, decision.delay)
        elif removing:
            self.spawn(self.remove_ended(slot))

    async def _save_end(self, slot: Slot) -> None:
        """A full disk must not keep anybody waiting: the shim's own record tells a later engine of this end."""
        try:
            await self._parts.store.save(slot)
        except SampanError as error:
            log.error("the end of container %s could not be written down: %s", slot.record.id, error)

    def _decide(self, record: ContainerRecord, end: ExitRecord, live: Live | None) -> restart.Decision:
        if record.removing:
            return restart.Decision(False)
        known = self._restarts.get(record.id) or _Restarts()
        return restart.after_exit(
            record.host.restart_policy,
            exit_code=end.exit_code,
            restarts=record.restart_count,
            stopped=record.manually_stopped or (live is not None and live.no_restart),
            ran_for=time.monotonic() - live.since if live is not None else 0.0,
            last_delay=known.delay,
            unhealthy=live.unhealthy if live is not None else _ended_for_health(record),
        )

    def _announce_end(self, record: ContainerRecord, end: ExitRecord) -> None:
        parts = self._parts
        parts.announce(record, "die", {"exitCode": str(end.exit_code)})
        for name, endpoint in record.endpoints.items():
            network = parts.networks.get(endpoint.network_id)
            if network is None:
                continue
            attributes = {"container": record.id, "name": name, "type": network.driver}
            parts.events.publish("network", "disconnect", endpoint.network_id, attributes)
        parts.announce_volumes(record, "unmount")

    # Restarting

    def _schedule(self, slot: Slot, delay: float) -> None:
        known = self._restarts.setdefault(slot.record.id, _Restarts())
        known.delay = delay
        known.task = self.spawn(self._restart_after(slot, delay))

    async def _restart_after(self, slot: Slot, delay: float) -> None:
        await asyncio.sleep(delay)
        async with slot.lock:
            if slot.record.state.status != "restarting":
                return
            record = replace(slot.record, restart_count=slot.record.restart_count + 1)
            self._parts.store.replace(slot, record)
            try:
                await self.start_again(slot)
            except (SampanError, OSError) as error:
                log.warning("container %s could not be restarted: %s", record.id, error)
                after = replace(slot.record.state, status="exited")
                self._parts.set_state(slot, after)
                await self._save_end(slot)

    def cancel_restart(self, container_id: str) -> None:
        """No further automatic restart, and the delay begins anew."""
        known = self._restarts.pop(container_id, None)
        if known is not None and known.task is not None:
            known.task.cancel()

    def no_restart(self, container_id: str) -> None:
        live = self._live.get(container_id)
        if live is not None:
            live.no_restart = True

    # Waiting

    def wait(self, slot: Slot, condition: str) -> asyncio.Future[Waited]:
        """A future for the end; it is registered when this returns. Raises `Invalid` for an unknown condition."""
        condition = condition or "not-running"
        if condition not in CONDITIONS:
            raise Invalid(f"invalid condition: {condition!r}")
        future: asyncio.Future[Waited] = asyncio.get_running_loop().create_future()
        record = slot.record
        if condition == "not-running" and record.state.status not in ("running", "paused", "restarting"):
            future.set_result(Waited(record.state.exit_code))
            return future
        waiters = self._waiters.setdefault(record.id, {}).setdefault(condition, [])
        waiters.append(future)
        future.add_done_callback(lambda _: _forget(waiters, future))
        return future

    def waiting(self, container_id: str) -> int:
        """How many wait for something of this container."""
        return sum(len(futures) for futures in self._waiters.get(container_id, {}).values())

    def not_removed(self, record: ContainerRecord, error: str) -> None:
        """The container that should have gone stays: whoever waits for its removal learns why."""
        self._notify(record.id, ("removed",), Waited(record.state.exit_code, error))

    def removed(self, record: ContainerRecord) -> None:
        """The container is gone: whoever waits for anything of it learns that."""
        self.cancel_restart(record.id)
        self._notify(record.id, CONDITIONS, Waited(record.state.exit_code))
        self._waiters.pop(record.id, None)

    def _notify(self, container_id: str, conditions: tuple[str, ...], result: Waited) -> None:
        waiting = self._waiters.get(container_id, {})
        for condition in conditions:
            for future in waiting.pop(condition, ()):
                if not future.done():
                    future.set_result(result)

    async def close(self) -> None:
        """Let go of the shims; the containers run on."""
        for task in tuple(self._tasks):
            task.cancel()
        loop = asyncio.get_running_loop()
        for live in self._live.values():
            loop.remove_reader(live.shim.fileno())
            live.shim.close()
        self._oom.close()
        self._live.clear()


def _ended_for_health(record: ContainerRecord) -> bool:
    """Of a container that ended while no engine was there: whether an engine had begun to end it for its health."""
    health = record.state.health
    if (
        health is None or not health.failing_streak
    ):  # one that was paused counts as unhealthy without any failure
        return False
    return record.restarts_unhealthy and health.status == "unhealthy"


def _forget(waiters: list[asyncio.Future[Waited]], future: asyncio.Future[Waited]) -> None:
    """Clients come and go while a container runs: those who gave up must not add up."""
    if future in waiters:
        waiters.remove(future)


async def _nothing(_slot: Slot) -> None:
    return None
