"""Containers that another OCI runtime makes (runc, crun): the shim is ours, what it does to containers is theirs.

The shim's part of the protocol stays as it is. On the other end of its channel is, instead of a container's init, a
driver (`foreign_driver`): it mounts the root where the runtime can see it, has the container created, waits for
`Start`, has it started, and ends. The root's mount then belongs to the container's mount namespace alone: nothing
appears in the host's mount table, and all is gone when the container is. The shim is a subreaper: the container's
init, left behind by the runtime, is its child.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import Final

import msgspec

from sampan.errors import Conflict, Internal, SampanError, Unsupported
from sampan.linux import process
from sampan.oci import spec as oci
from sampan.runtime import spawn, wire
from sampan.runtime.failure import Failure, describe
from sampan.runtime.foreign_driver import Foreign, Program, call, drive
from sampan.runtime.init import Setup
from sampan.runtime.messages import (
    Console,
    CreateRequest,
    ExecRequest,
    Forked,
    InitReport,
    MakerHooksCall,
    Ready,
)
from sampan.runtime.shim import Job, Shim

_REPORTS: Final[wire.Codec[Ready | Console | MakerHooksCall | Forked | Failure]] = wire.Codec(InitReport)
_STATE = "runtime"


def foreign_job(job: Job, request: CreateRequest, seccomp: oci.Seccomp | None) -> Job:
    """The job of a container that `request.runtime` makes. Raises `Unsupported`."""
    spec = request.spec
    if request.idmapped or job.entry.user_namespace >= 0:
        raise Unsupported(
            "containers in a user namespace can't be made by another runtime", hint="--userns host"
        )
    if seccomp is not None:
        linux = msgspec.structs.replace(spec.linux or oci.Linux(), seccomp=seccomp)
        spec = msgspec.structs.replace(spec, linux=linux)
    program = Program(request.runtime, request.id, f"{request.run_dir}/{_STATE}", request.run_dir)
    # The runtime runs the hooks.
    return msgspec.structs.replace(job, foreign=Foreign(program, spec), hooks=None)


def foreign_exec_job(job: Job, request: ExecRequest) -> Job:
    """The job of a further process in a container that another runtime has made. Its run directory is in the
    container's."""
    state = f"{os.path.dirname(request.run_dir)}/{_STATE}"
    program = Program(request.runtime, request.container_id, state, request.run_dir)
    spec = msgspec.structs.replace(request.spec, process=request.process)
    return msgspec.structs.replace(job, foreign=Foreign(program, spec, request.init_pid))


class DrivenShim(Shim):
    """A shim whose process another runtime makes (`job.foreign`), by way of a driver."""

    _driver = 0

    def _make(self, setup: Setup, channel: socket.socket) -> spawn.Spawned:
        self._listen()
        process.set_subreaper()
        self._driver = os.fork()
        if self._driver == 0:
            self._channel.close()
            drive(self._job.foreign, setup, channel)
        channel.close()
        pid, console = 0, -1
        try:
            while True:
                report, descriptors = _REPORTS.receive(self._channel)
                match report:
                    case Forked():
                        pid = report.pid
                    case Console() if len(descriptors) == 1:
                        console = descriptors[0]
                    case Ready():
                        return spawn.Spawned(pid, console)
                    case Failure():
                        raise report.error()
                    case _:
                        raise Internal("the container's runtime was ended while it made the container")
        except BaseException:
            self._end_driver()
            if console >= 0:
                os.close(console)
            raise

    def _end_driver(self) -> None:
        """It holds the channel's other end: who reads from that waits for it."""
        if self._driver:
            os.kill(self._driver, signal.SIGKILL)
            self._reap_driver()

    def _reap_driver(self) -> None:
        if self._driver:
            os.waitpid(self._driver, 0)
            self._driver = 0

    def _process_ended(self, events: int) -> None:
        if not self._started:
            self._end_driver()
        super()._process_ended(events)

    def _from_init(self, events: int) -> None:
        super()._from_init(events)
        self._reap_driver()
        if self._failure is not None:
            # What could not be started is not left waiting.
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return


class DrivenExecShim(DrivenShim):
    """Of a further process. It runs as soon as it is made: its output waits in the pipes for who attaches."""

    def serve(self) -> None:
        if self._job.control >= 0:
            control = socket.socket(fileno=self._job.control)
            self._add_connection(control)
            number = control.fileno()
            while not self._started and number in self._connections:
                self._serve_connection(control)
        super().serve()


class ForeignShim(DrivenShim):
    """Of a container."""

    @property
    def _program(self) -> Program:
        foreign: Foreign = self._job.foreign
        return foreign.program

    def _kill(self, number: int) -> None:
        if not self._started or not 0 < number < signal.NSIG:
            super()._kill(number)
            return
        code = call([*self._program.words("kill"), str(number)])
        if code != 0:
            raise Conflict(f"the process could not be signalled: {self._program.failure(code).message}")

    def _leave_cgroup(self) -> int:
        """The runtime removes what it made, hooks and all; the OOM killer's deeds are read before."""
        kills = 0
        try:
            group = self._job.group.open() if self._job.group is not None else None
            kills = group.oom_kills() if group is not None and group.exists() else 0
            code = call(self._program.words("delete", "--force"))
            if code != 0:
                self._log_error = self._program.failure(code).message
            if group is not None and group.exists():
                group.kill_all()
                group.remove()
        except (SampanError, OSError) as error:
            self._log_error = describe(error)
        return kills
