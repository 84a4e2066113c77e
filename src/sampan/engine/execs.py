"""Further processes in running containers (`exec`). The only writer of their state, which no restart outlives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sampan.engine import state
from sampan.engine.config import Docker, Words, words
from sampan.engine.model import ContainerRecord, new_id
from sampan.engine.spec import override_environment
from sampan.errors import Conflict, Invalid, NotFound, SampanError
from sampan.linux.capabilities import NAMES
from sampan.linux.process import kill_process, start_time
from sampan.oci.spec import Box, Capabilities, Process
from sampan.runtime.failure import ExecFailed
from sampan.runtime.messages import AttachOptions, Created, ExecRequest
from sampan.runtime.shim_client import KILL_SECONDS, ShimClient, ShimSilent, kill_shim

if TYPE_CHECKING:  # containers imports this module
    from sampan.engine.containers.base import Json, Parts
    from sampan.engine.containers.specs import SpecMaker

log = logging.getLogger(__name__)

Take = Callable[[], Awaitable[tuple[socket.socket, bytes]]]

_KEPT_ENDED = 256
"""Ended execs that can still be inspected."""
_KEPT_WAITING = 256
"""Execs of one container that were created and not started yet; the oldest beyond that are forgotten."""


class ExecCreate(Docker, frozen=True):
    """Body of POST /containers/{id}/exec."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    console_size: tuple[int, int] = (0, 0)
    detach_keys: str | None = None
    tty: bool = False
    env: tuple[str, ...] = ()
    cmd: Words = ()
    privileged: bool = False
    user: str = ""
    working_dir: str = ""


@dataclass(slots=True)
class Exec:
    id: str
    container_id: str
    body: ExecCreate
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    pid: int = 0
    start_time: int = 0
    """Of the process, in clock ticks since boot."""
    shim: ShimClient | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """It runs, or could not be started."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Execs:
    """Used from the event loop's thread."""

    def __init__(self, parts: Parts, specs: SpecMaker) -> None:
        self._parts = parts
        self._specs = specs
        self._execs: dict[str, Exec] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def create(self, reference: str, body: ExecCreate) -> str:
        """Raises `NotFound`, `Conflict` (not running, paused), `Invalid`."""
        record = self._parts.store.find(reference).record
        if not words(body.cmd):
            raise Invalid("No exec command specified")
        if any("\0" in word for word in (*words(body.cmd), *body.env, body.user, body.working_dir)):
            raise Invalid("invalid exec configuration: a word contains a zero byte")
        state.check_exec(record)
        found = Exec(new_id(), record.id, body)
        self._execs[found.id] = found
        self._forget_old(record.id)
        command = " ".join(words(body.cmd))
        self._parts.announce(record, f"exec_create: {command}", {"execID": found.id})
        return found.id

    def _forget_old(self, container_id: str) -> None:
        ended = [key for key, one in self._execs.items() if one.started and not one.running]
        waiting = [
            key for key, one in self._execs.items() if one.container_id == container_id and not one.started
        ]
        for key in (
            *ended[: max(0, len(ended) - _KEPT_ENDED)],
            *waiting[: max(0, len(waiting) - _KEPT_WAITING)],
        ):
            del self._execs[key]

    def get(self, exec_id: str) -> Exec:
        found = self._execs.get(exec_id)
        if found is None:
            matches = [one for key, one in self._execs.items() if exec_id and key.startswith(exec_id)]
            if len(matches) != 1:
                raise NotFound(f"No such exec instance: {exec_id}")
            found = matches[0]
        return found

    def content_type(self, exec_id: str, *, tty: bool) -> str:
        self.get(exec_id)
        return "application/vnd.docker." + ("raw-stream" if tty else "multiplexed-stream")

    def ids_of(self, container_id: str) -> list[str]:
        """Running execs of a container."""
        return [one.id for one in self._execs.values() if one.container_id == container_id and one.running]

    async def start(
        self,
        exec_id: str,
        take: Take | None,
        *,
        console: tuple[int, int] = (0, 0),
        keys: bytes = b"\x10\x11",
    ) -> None:
        """Run it. `take` gives the client's connection (None: detached).

        What is wrong before the connection is taken is raised; afterwards the client reads it from the stream,
        and the exit code is 126 or 127, as with Docker.
        """
        found = self.get(exec_id)
        record = self._record(found)
        if found.started:
            raise Conflict(f"Error: Exec command {found.id} has already run")
        state.check_exec(record)
        found.started = True
        taken: socket.socket | None = None
        preread = b""
        try:
            if take is not None:
                taken, preread = await take()
                taken.setblocking(True)
            await self._run(found, record, taken, preread, console, keys)
        except SampanError as error:
            found.exit_code = error.exit_code if isinstance(error, ExecFailed) else 126
            found.ended.set()
            if self._parts.store.get(record.id) is None or not self._record(found).running:
                error = Conflict(f"Container {record.id} is not running")
            text = exec_failure(error)
            if taken is None:
                raise type(error)(text, hint=error.hint) from error
            with contextlib.suppress(OSError):  # the client may have left
                await asyncio.to_thread(taken.sendall, _output_text(text + "\r\n", found.body.tty))
        finally:
            found.settled.set()
            if taken is not None:
                taken.close()

    def _record(self, found: Exec) -> ContainerRecord:
        slot = self._parts.store.get(found.container_id)
        if slot is None:
            raise NotFound(f"No such container: {found.container_id}")
        return slot.record

    async def _run(
        self,
        found: Exec,
        record: ContainerRecord,
        taken: socket.socket | None,
        preread: bytes,
        console: tuple[int, int],
        keys: bytes,
    ) -> None:
        body = found.body
        options = AttachOptions(
            stdin=body.attach_stdin,
            stdout=body.attach_stdout,
            stderr=body.attach_stderr,
            framed=not body.tty,
            detach_keys=keys,
        )

        def run() -> tuple[ShimClient, Created]:
            request = self._request(found, record, console)
            attached = None if taken is None else (taken.fileno(), preread, options)
            shim, control = ShimClient.begin(self._run_dir(found), attached)
            try:
                with control:
                    created = self._parts.launcher.exec(request, control=control.fileno())
                shim.begun()
            except BaseException:
                shim.close()
                raise
            return shim, created

        starting = asyncio.ensure_future(asyncio.to_thread(run))
        try:
            shim, created = await asyncio.shield(starting)
        except BaseException:
            # The thread goes on when we are cancelled (a health check that took too long): what it makes is ended.
            await asyncio.wait([starting])
            await asyncio.to_thread(self._give_up, found, starting)
            raise
        found.pid, found.start_time = created.init_pid, created.init_start_time
        found.shim = shim
        found.running = True
        command = " ".join(words(body.cmd))
        self._parts.announce(record, f"exec_start: {command}", {"execID": found.id})
        asyncio.get_running_loop().add_reader(shim.fileno(), self._readable, found, shim)

    def _give_up(self, found: Exec, starting: asyncio.Future[tuple[ShimClient, Created]]) -> None:
        """Blocking: nothing is left of an exec whose start has failed or is not wanted any more."""
        if starting.exception() is None:
            shim, created = starting.result()
            try:
                with contextlib.suppress(Conflict):  # it has ended by itself
                    shim.kill(signal.SIGKILL)
                shim.wait(KILL_SECONDS)
            except ShimSilent:
                kill_shim(self._run_dir(found))
                kill_process(created.init_pid, created.init_start_time)
            except SampanError as error:
                log.warning("exec %s could not be ended: %s", found.id, error)
            finally:
                shim.close()
        self._remove_run_dir(found)

    def _run_dir(self, found: Exec) -> Any:
        return self._parts.run_directory(found.container_id) / f"exec-{found.id[:32]}"

    def _remove_run_dir(self, found: Exec) -> None:
        directory = self._run_dir(found)
        if directory.exists():
            shutil.rmtree(directory)

    def _request(self, found: Exec, record: ContainerRecord, console: tuple[int, int]) -> ExecRequest:
        """Blocking: what the launcher is asked for."""
        body = found.body
        spec = self._specs.spec_of(record)
        init = spec.process
        if init is None:
            raise Invalid("the container has no process configuration")
        height, width = console if any(console) else body.console_size
        capabilities = init.capabilities
        if body.privileged:
            capabilities = Capabilities(bounding=NAMES, effective=NAMES, permitted=NAMES)
        environment = override_environment(init.env, ("TERM=xterm",) if body.tty else ())
        process = Process(
            cwd=body.working_dir or init.cwd,
            args=words(body.cmd),
            env=override_environment(environment, body.env),
            terminal=body.tty,
            console_size=Box(height=height, width=width) if body.tty and height and width else None,
            capabilities=capabilities,
            rlimits=init.rlimits,
            no_new_privileges=init.no_new_privileges,
            apparmor_profile=None if body.privileged else init.apparmor_profile,
            selinux_label=init.selinux_label,
            oom_score_adj=init.oom_score_adj,
        )
        run_dir = self._run_dir(found)
        run_dir.mkdir(mode=0o710, parents=True)
        return ExecRequest(
            found.id,
            record.id,
            record.state.pid,
            process,
            spec,
            str(run_dir),
            stdin=body.attach_stdin,
            user=body.user or record.config.user,
            groups=record.host.group_add or (),
            init_start_time=record.state.start_time,
            runtime=self._specs.runtime(record.host.runtime),
        )

    def _readable(self, found: Exec, shim: ShimClient) -> None:
        asyncio.get_running_loop().remove_reader(shim.fileno())
        task = asyncio.ensure_future(self._end(found, shim))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, found: Exec, shim: ShimClient) -> None:
        # Mostly it is there already, and a client waits for it.
        recorded = shim.exit_nowait()
        end = await asyncio.to_thread(shim.wait) if recorded is None else recorded
        shim.close()
        found.shim = None
        found.running = False
        found.exit_code = end.exit_code
        found.ended.set()
        slot = self._parts.store.get(found.container_id)
        if slot is not None:
            attributes = {"execID": found.id, "exitCode": str(end.exit_code)}
            self._parts.announce(slot.record, "exec_die", attributes)
        try:
            await asyncio.to_thread(self._remove_run_dir, found)
        except FileNotFoundError:
            pass  # the container's directory went as a whole
        except OSError as error:
            log.warning("run directory of exec %s could not be removed: %s", found.id, error)

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        found = self.get(exec_id)
        if found.shim is None:
            raise Conflict(f"exec {found.id} is not running")
        await asyncio.to_thread(found.shim.resize, height, width)

    async def kill(self, exec_id: str, number: int) -> None:
        """Signal a running exec (for health checks that take too long)."""
        found = self.get(exec_id)
        if found.shim is not None:
            with contextlib.suppress(Conflict):
                await asyncio.to_thread(found.shim.kill, number)

    async def inspect(self, exec_id: str) -> Json:
        """With the exit code of one whose process has ended, even when the news is still on its way.

        A client looks as soon as its stream ends, which may be a moment before the shim's record comes.
        """
        found = self.get(exec_id)
        if found.started and not found.running and found.exit_code is None:
            await found.settled.wait()
        if found.running and not alive(found.pid, found.start_time):
            await found.ended.wait()
        body = found.body
        command = words(body.cmd)
        return {
            "ID": found.id,
            "Running": found.running,
            "ExitCode": found.exit_code,
            "ProcessConfig": {
                "tty": body.tty,
                "entrypoint": command[0],
                "arguments": list(command[1:]),
                "privileged": body.privileged,
                **({"user": body.user} if body.user else {}),
            },
            "OpenStdin": body.attach_stdin,
            "OpenStderr": body.attach_stderr,
            "OpenStdout": body.attach_stdout,
            "CanRemove": False,
            "ContainerID": found.container_id,
            "DetachKeys": "",
            "Pid": found.pid,
        }

    def container_ended(self, container_id: str) -> None:
        """Execs that never ran can't run any more."""
        for key in [k for k, one in self._execs.items() if one.container_id == container_id]:
            if not self._execs[key].started:
                del self._execs[key]

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for found in self._execs.values():
            if found.shim is not None:
                loop.remove_reader(found.shim.fileno())
                found.shim.close()
        for task in tuple(self._tasks):
            task.cancel()


def alive(pid: int, started: int) -> bool:
    """Whether this very process still exists."""
    try:
        return start_time(pid) == started
    except OSError:
        return False


def exec_failure(error: SampanError) -> str:
    """What the client of an exec that could not be started reads, in Docker's words."""
    if isinstance(error, ExecFailed):
        return (
            "OCI runtime exec failed: exec failed: unable to start container process: "
            f"{error.message}: unknown"
        )
    return error.message


def _output_text(text: str, tty: bool) -> bytes:
    """On standard output, where Docker says it too."""
    data = text.encode()
    return data if tty else bytes((1, 0, 0, 0)) + len(data).to_bytes(4, "big") + data
