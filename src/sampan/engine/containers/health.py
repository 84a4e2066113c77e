"""Health checks: a command run in the container again and again, and what its results say."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from dataclasses import dataclass

from msgspec.structs import replace

from sampan.engine.containers.base import Parts
from sampan.engine.containers.store import Slot
from sampan.engine.execs import ExecCreate, Execs
from sampan.engine.model import Health, HealthResult, rfc3339
from sampan.errors import SampanError
from sampan.oci.image import Healthcheck

log = logging.getLogger(__name__)

_SECOND = 1_000_000_000
_KEPT = 5
_OUTPUT = 4096
"""Bytes of a check's output that are kept, as in Docker."""
TIMED_OUT = -1


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds; with Docker's defaults filled in."""

    interval: float
    timeout: float
    start_period: float
    start_interval: float
    retries: int


def times_of(check: Healthcheck) -> Times:
    return Times(
        interval=(check.interval or 30 * _SECOND) / _SECOND,
        timeout=(check.timeout or 30 * _SECOND) / _SECOND,
        start_period=check.start_period / _SECOND,
        start_interval=(check.start_interval or 5 * _SECOND) / _SECOND,
        retries=check.retries or 3,
    )


def command_of(check: Healthcheck | None, shell: tuple[str, ...] | None) -> tuple[str, ...]:
    """What to run; empty: there is no check."""
    test = check.test if check is not None else ()
    if not test or test[0] == "NONE":
        return ()
    if test[0] == "CMD-SHELL":
        return (*(shell or ("/bin/sh", "-c")), " ".join(test[1:]))
    return test[1:]


def after_result(health: Health, result: HealthResult, times: Times, *, running_for: float) -> Health:
    """Docker's rules: failures during the start period do not count, one success ends it."""
    entries = (*health.log, result)[-_KEPT:]
    if result.exit_code == 0:
        return Health("healthy", 0, entries)
    if health.status == "starting" and running_for < times.start_period:
        return replace(health, log=entries)
    streak = health.failing_streak + 1
    status = "unhealthy" if streak >= times.retries else health.status
    return Health(status, streak, entries)


class HealthChecks:
    def __init__(self, parts: Parts, execs: Execs) -> None:
        self._parts = parts
        self._execs = execs
        self._tasks: dict[str, asyncio.Task[None]] = {}

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

    def close(self) -> None:
        for container_id in tuple(self._tasks):
            self.ended(container_id)

    async def _watch(self, slot: Slot, command: tuple[str, ...], times: Times) -> None:
        began = time.monotonic()
        while True:
            health = slot.record.state.health or Health()
            starting = health.status == "starting" and time.monotonic() - began < times.start_period
            await asyncio.sleep(min(times.start_interval, times.interval) if starting else times.interval)
            if slot.record.state.status != "running":
                continue
            try:
                result = await self._check(slot, command, times)
            except OSError as error:  # descriptors have run out, say: no reason never to look again
                log.warning("health check of container %s: %s", slot.record.id, error)
                continue
            before = slot.record.state.health or Health()
            after = after_result(before, result, times, running_for=time.monotonic() - began)
            self._parts.set_state(slot, replace(slot.record.state, health=after))
            if after.status != before.status:
                self._parts.announce(slot.record, f"health_status: {after.status}")
            try:
                await self._parts.store.save(slot)
            except SampanError as error:
                log.warning("health of container %s could not be written down: %s", slot.record.id, error)

    async def _check(self, slot: Slot, command: tuple[str, ...], times: Times) -> HealthResult:
        start = rfc3339(time.time_ns())
        exit_code, output = TIMED_OUT, ""
        try:
            async with asyncio.timeout(times.timeout):
                exit_code, output = await self._run(slot, command)
        except TimeoutError:
            output = f"Health check exceeded timeout ({times.timeout:g}s)"
        except SampanError as error:
            output = error.message
        return HealthResult(start, rfc3339(time.time_ns()), exit_code, output)

    async def _run(self, slot: Slot, command: tuple[str, ...]) -> tuple[int, str]:
        body = ExecCreate(attach_stdout=True, attach_stderr=True, tty=False, cmd=command)
        exec_id = self._execs.create(slot.record.id, body)
        ours, theirs = socket.socketpair()

        async def take() -> tuple[socket.socket, bytes]:
            return theirs, b""

        reading = asyncio.ensure_future(_read_output(ours))
        try:
            await self._execs.start(exec_id, take)
            found = self._execs.get(exec_id)
            await found.ended.wait()
            output = await reading
        except BaseException:
            reading.cancel()
            with contextlib.suppress(SampanError):
                await self._execs.kill(exec_id, signal.SIGKILL)
            raise
        finally:
            theirs.close()
        return found.exit_code or 0, output


async def _read_output(connection: socket.socket) -> str:
    """The text in a framed stream, up to what is kept; the rest is read and forgotten."""
    reader, writer = await asyncio.open_connection(sock=connection)
    found = bytearray()
    try:
        while True:
            header = await reader.readexactly(8)
            data = await reader.readexactly(int.from_bytes(header[4:], "big"))
            found += data[: max(0, _OUTPUT - len(found))]
    except asyncio.IncompleteReadError:
        return found.decode("utf-8", "replace")
    finally:
        writer.close()
