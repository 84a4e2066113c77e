"""Health checks: a command run in the container again and again (the rules are in `engine/health.py`)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from sampan.engine.containers.base import Parts
from sampan.engine.containers.store import Slot
from sampan.engine.execs import ExecCreate, Execs
from sampan.engine.health import (
    OUTPUT_KEPT,
    TIMED_OUT,
    Times,
    after_result,
    command_of,
    kept_output,
    timed_out_text,
    times_of,
)
from sampan.engine.model import Health, HealthResult, epoch_ns, rfc3339
from sampan.errors import SampanError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class CheckCounts:
    """Since the engine's start, of all containers."""

    run: int = 0
    failed: int = 0


class HealthChecks:
    """`on_unhealthy` hears of containers that have failed their checks and are to be restarted for that."""

    def __init__(self, parts: Parts, execs: Execs) -> None:
        self.counts = CheckCounts()
        self._parts = parts
        self._execs = execs
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.on_unhealthy: Callable[[Slot], None] = lambda _slot: None

    def started(self, slot: Slot) -> None:
        """Begin to check a container that has just started (or was found running)."""
        check = slot.record.config.healthcheck
        command = command_of(check, slot.record.config.shell)
        if check is None or not command:
            return
        self.ended(slot.record.id)
        current = slot.record.state
        if current.health is None:
            self._parts.set_state(slot, replace(current, health=Health()))
        self._tasks[slot.record.id] = asyncio.ensure_future(self._watch(slot, command, times_of(check)))

    def ended(self, container_id: str) -> None:
        task = self._tasks.pop(container_id, None)
        if task is not None:
            task.cancel()

    def watching(self, container_id: str) -> bool:
        task = self._tasks.get(container_id)
        return task is not None and not task.done()

    def close(self) -> None:
        for container_id in tuple(self._tasks):
            self.ended(container_id)

    async def _watch(self, slot: Slot, command: tuple[str, ...], times: Times) -> None:
        while True:
            health = slot.record.state.health or Health()
            await asyncio.sleep(times.delay(health, _running_for(slot)))
            if slot.record.state.status != "running":
                continue
            try:
                result = await self._check(slot, command, times)
            except OSError as error:  # descriptors have run out, say: no reason never to look again
                log.warning("health check of container %s: %s", slot.record.id, error)
                continue
            if slot.record.state.status != "running":
                continue  # held still or ended while it was looked at: that says nothing
            self.counts.run += 1
            self.counts.failed += result.exit_code != 0
            before = slot.record.state.health or Health()
            after = after_result(before, result, times, running_for=_running_for(slot))
            self._parts.set_state(slot, replace(slot.record.state, health=after))
            if after.status != before.status:
                self._parts.announce(slot.record, f"health_status: {after.status}")
            try:
                await self._parts.store.save(slot)
            except SampanError as error:
                log.warning("health of container %s could not be written down: %s", slot.record.id, error)
            if after.failing_streak >= times.retries and slot.record.restarts_unhealthy:
                self.on_unhealthy(slot)
                return

    async def _check(self, slot: Slot, command: tuple[str, ...], times: Times) -> HealthResult:
        start = rfc3339(time.time_ns())
        exit_code, output = TIMED_OUT, bytearray()
        text = ""
        try:
            async with asyncio.timeout(times.timeout):
                exit_code = await self._run(slot, command, output)
        except TimeoutError:
            text = timed_out_text(times.timeout, kept_output(bytes(output)))
        except SampanError as error:
            text = error.message
        return HealthResult(start, rfc3339(time.time_ns()), exit_code, text or kept_output(bytes(output)))

    async def _run(self, slot: Slot, command: tuple[str, ...], output: bytearray) -> int:
        """Its exit code; what it says is added to `output` while it runs."""
        body = ExecCreate(attach_stdout=True, attach_stderr=True, tty=False, cmd=command)
        exec_id = self._execs.create(slot.record.id, body)
        ours, theirs = socket.socketpair()

        async def take() -> tuple[socket.socket, bytes]:
            return theirs, b""

        reading = asyncio.ensure_future(_read_output(ours, output))
        try:
            await self._execs.start(exec_id, take)
            found = self._execs.get(exec_id)
            await found.ended.wait()
            await reading
        except BaseException:
            reading.cancel()
            with contextlib.suppress(SampanError):
                await self._execs.kill(exec_id, signal.SIGKILL)
            raise
        finally:
            theirs.close()
        return found.exit_code or 0


def _running_for(slot: Slot) -> float:
    """Seconds; by the record, so that an engine's restart does not begin a start period anew."""
    return max(0.0, (time.time_ns() - epoch_ns(slot.record.state.started_at)) / 1e9)


async def _read_output(connection: socket.socket, output: bytearray) -> None:
    """The text in a framed stream, one byte more than what is kept; the rest is read and forgotten."""
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        while True:
            header = await reader.readexactly(8)
            data = await reader.readexactly(int.from_bytes(header[4:], "big"))
            output += data[: max(0, OUTPUT_KEPT + 1 - len(output))]
    except asyncio.IncompleteReadError:
        return
    finally:
        writer.close()
