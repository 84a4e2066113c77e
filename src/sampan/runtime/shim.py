"""The shim: one per container and per exec. Makes the process, owns its streams, reaps it and records its end.

It depends on nobody: the launcher and the daemon may die, and the next daemon finds it by `<run_dir>/shim.sock`,
or what it left in `<run_dir>/exit.json`.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NoReturn

import msgspec

from sampan.errors import Conflict, Internal, Invalid, SampanError
from sampan.linux import namespaces as ns
from sampan.linux import process
from sampan.linux.cgroups import CgroupHost, CgroupLimits
from sampan.oci.spec import Hooks, Linux
from sampan.runtime import spawn, wire
from sampan.runtime.documents import hook_state, timestamp
from sampan.runtime.execute import SeccompProgram
from sampan.runtime.failure import ExecFailed, Failure, describe, failure_of
from sampan.runtime.init import Setup
from sampan.runtime.limits import group_path, limits_of
from sampan.runtime.logsink import LogFactory
from sampan.runtime.loop import READ, Loop
from sampan.runtime.messages import (
    EXIT_FILE,
    INIT_ANNOTATION,
    SHIM_SOCKET,
    Attach,
    Created,
    CreateRequest,
    Done,
    ExecRequest,
    ExitRecord,
    Kill,
    LogTarget,
    Resize,
    ShimCall,
    Start,
    Subscribe,
)
from sampan.runtime.overlay import Overlay
from sampan.runtime.plan import (
    enters_pid_late,
    namespaces_of,
    plan_container,
    plan_exec,
    validate_process,
)
from sampan.runtime.reaper import exit_code_of
from sampan.runtime.streams import Streams

_CALLS: Final[wire.Codec[Subscribe | Start | Attach | Resize | Kill]] = wire.Codec(ShimCall)
_INIT_REPORTS: Final[wire.Codec[Failure]] = wire.Codec(Failure)

LINGER = 600.0
"""Seconds without progress after which a client that does not take the last output is dropped."""

_ENDS_BEFORE_START = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})


class Job(msgspec.Struct, frozen=True):
    """What a shim is to make. Descriptors are -1 when there is none.

    `control`: a connection of the engine, whose calls wait there already.
    `removes_group`: the control group ends with the process (a container's does, an exec's is the container's).
    """

    run_dir: str
    entry: spawn.Entry
    setup: Setup
    terminal: bool
    log: LogTarget | None
    stdin: bool
    stdin_once: bool
    group: spawn.Group | None
    removes_group: bool
    kills_group: bool
    hooks: Hooks | None
    state: dict[str, Any]
    control: int = -1
    foreign: Any = None
    """What another runtime is to make (`foreign_driver.Foreign`)."""


class Given(msgspec.Struct, frozen=True):
    """What the launcher gives to the shim of a container: descriptors (-1: none), and the compiled filter.

    The root file system is `overlay`, or the detached mount `root`. `trees`: detached mounts that
    came with the request.
    """

    root: int
    overlay: Overlay | None
    host_mounts: int
    stdio: tuple[int, int, int] | None
    network: int
    filter_program: SeccompProgram | None
    cgroup_host: CgroupHost | None
    user_namespace: int = -1
    trees: tuple[int, ...] = ()


def container_job(request: CreateRequest, given: Given) -> Job:
    """Raises `Invalid` for a specification that can't be a container."""
    spec = request.spec
    if spec.process is None or (spec.root is None and request.root is None):
        raise Invalid("a container needs a process and a root file system")
    linux, hooks = spec.linux or Linux(), spec.hooks
    namespaces = namespaces_of(spec)
    state = hook_state(spec, request.id, request.run_dir) if hooks is not None else {}
    setup = Setup(
        plan=partial(plan_container, spec, request.id, network_given=given.network >= 0),
        process=spec.process,
        user=request.user,
        groups=request.groups,
        root=given.root,
        overlay=given.overlay,
        network=given.network,
        host_mounts=given.host_mounts,
        given=given.trees,
        stdio=given.stdio,
        seccomp=given.filter_program,
        start_hooks=hooks.start_container if hooks is not None else (),
        state=state,
        reaping=(spec.annotations or {}).get(INIT_ANNOTATION) == "true",
    )
    return Job(
        run_dir=request.run_dir,
        entry=spawn.Entry(
            namespaces,
            linux.uid_mappings,
            linux.gid_mappings,
            user_namespace=given.user_namespace,
            idmapped=request.idmapped,
            late_pid=enters_pid_late(spec),
        ),
        setup=setup,
        terminal=spec.process.terminal,
        log=request.log,
        stdin=request.stdin,
        stdin_once=request.stdin_once,
        group=_group(linux, partial(limits_of, linux.resources), given.cgroup_host),
        removes_group=True,
        kills_group=namespaces.get(ns.NEWPID, "host") is not None,
        hooks=hooks,
        state=state,
    )


def exec_job(
    request: ExecRequest,
    filter_program: SeccompProgram | None,
    stdio: tuple[int, int, int] | None,
    cgroup_host: CgroupHost | None,
    control: int = -1,
    ours: dict[int, ns.Identity] | None = None,
) -> Job:
    """`ours`: the launcher's namespaces. Raises `Invalid`, and `Conflict` when the container has ended."""
    validate_process(request.process)
    target, flags = spawn.open_target(request.init_pid, request.init_start_time, ours)
    linux = request.spec.linux or Linux()
    setup = Setup(
        plan=partial(plan_exec, request.process, request.container_id),
        process=request.process,
        user=request.user,
        groups=request.groups,
        stdio=stdio,
        seccomp=filter_program,
    )
    return Job(
        run_dir=request.run_dir,
        entry=spawn.Entry(
            uid_mappings=linux.uid_mappings,
            gid_mappings=linux.gid_mappings,
            target=target,
            target_flags=flags,
        ),
        setup=setup,
        terminal=request.process.terminal,
        log=None,
        stdin=request.stdin,
        stdin_once=request.stdin_once,
        group=_group(linux, None, cgroup_host),
        removes_group=False,
        kills_group=False,
        hooks=None,
        state={},
        control=control,
    )


def _group(
    linux: Linux, limits: Callable[[], CgroupLimits] | None, host: CgroupHost | None
) -> spawn.Group | None:
    path = group_path(linux.cgroups_path)
    return None if path is None else spawn.Group(path, limits, host)


def detach_process() -> None:
    """Leave the launcher's session, signal settings and standard streams behind."""
    gc.disable()  # what the launcher has loaded is frozen; the little that a shim makes is freed by its counts
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.umask(0o077)
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    # As prctl would, but without touching what ctypes needs: that stays shared with the launcher.
    name = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(name, b"sampan-shim")
    os.close(name)


class Shim:
    def __init__(self, job: Job, log_factory: LogFactory) -> None:
        self._job = job
        self._log_factory = log_factory
        self._loop = Loop()
        self._directory = os.open(job.run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._streams: Streams
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connections: dict[int, socket.socket] = {}
        self._subscribers: list[socket.socket] = []
        self._starter: socket.socket | None = None
        self._channel: socket.socket
        self._pid = 0
        self._pidfd = -1
        self._started = False
        self._exit: ExitRecord | None = None
        self._failure: Failure | None = None
        self._log_error = ""

    def create(self) -> Created:
        """Make the process; nothing is left of it when this raises."""
        try:
            self._spawn()
        except BaseException:
            self._leave_cgroup()
            self._unlisten()
            raise
        return Created(self._pid, os.getpid(), process.start_time(self._pid))

    def serve(self) -> None:
        """Until the process has ended and all has been said to all."""
        self._loop.watch(self._listener.fileno(), READ, self._accept)
        self._loop.watch(self._channel.fileno(), READ, self._from_init)
        self._loop.watch(self._pidfd, READ, self._process_ended)
        while self._exit is None:
            self._loop.run_once()
        while self._streams.busy:
            self._streams.linger(LINGER)

    def close(self) -> None:
        """After `serve`, when the end of the shim's process does not do it."""
        for connection in self._connections.values():
            connection.close()
        os.close(self._directory)
        os.close(self._pidfd)
        self._loop.close()

    # Making the process.

    def _listen(self) -> None:
        # By descriptor: run directories may be longer than a socket's address.
        path = f"/proc/self/fd/{self._directory}/{SHIM_SOCKET}"
        try:
            os.unlink(SHIM_SOCKET, dir_fd=self._directory)
        except FileNotFoundError:
            pass
        self._listener.bind(path)
        self._listener.listen(64)
        self._listener.setblocking(False)

    def _make_ready(self) -> None:
        """What does not need the process, while that sets itself up: the socket, and the calls that wait already.

        A start among them waits for the process then.
        """
        self._listen()
        if self._job.control >= 0:
            self._add_connection(socket.socket(fileno=self._job.control))
            # A client that is attached has to know whether there is a terminal: with one, when that has come.
            while not self._job.terminal and not self._started and self._loop.run_once(0):
                pass

    def _unlisten(self) -> None:
        self._listener.close()
        try:
            os.unlink(SHIM_SOCKET, dir_fd=self._directory)
        except FileNotFoundError:
            pass

    def _spawn(self) -> None:
        job = self._job
        sink = self._log_factory(job.log) if job.log is not None else None
        self._streams = Streams(self._loop, sink, self._log_failed)
        setup = job.setup
        theirs: tuple[int, ...] = ()
        if job.terminal:
            setup = msgspec.structs.replace(setup, stdio=None)
        elif setup.stdio is None:
            theirs = self._make_pipes()
            setup = msgspec.structs.replace(setup, stdio=theirs)
        self._channel, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        spawned = self._make(setup, channel)
        self._pid = spawned.pid
        wire.close_all(sorted(set(theirs or job.setup.stdio or ())))
        for descriptor in (
            setup.root,
            setup.network,
            setup.host_mounts,
            job.entry.target,
            job.entry.user_namespace,
            *setup.given,
        ):
            if descriptor >= 0:
                os.close(descriptor)
        if spawned.console >= 0:
            self._streams.set_terminal(spawned.console, job.stdin)
        self._pidfd = os.pidfd_open(self._pid)

    def _make(self, setup: Setup, channel: socket.socket) -> spawn.Spawned:
        """The process, waiting. `channel` is its end of ours, and closed here."""
        job = self._job
        return spawn.spawn(
            job.entry, setup, self._channel, channel, job.group, self._maker_hooks, self._make_ready
        )

    def _make_pipes(self) -> tuple[int, int, int]:
        output, output_theirs = os.pipe2(os.O_CLOEXEC)
        errors, errors_theirs = os.pipe2(os.O_CLOEXEC)
        self._streams.add_output(output, 1)
        self._streams.add_output(errors, 2)
        if self._job.stdin:
            input_theirs, typed = os.pipe2(os.O_CLOEXEC)
            self._streams.set_input(typed, self._job.stdin_once)
        else:
            input_theirs = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        return input_theirs, output_theirs, errors_theirs

    def _maker_hooks(self, pid: int) -> None:
        hooks = self._job.hooks
        if hooks is not None:
            from sampan.runtime.hooks import run_hooks

            state = {**self._job.state, "pid": pid}
            run_hooks((*hooks.prestart, *hooks.create_runtime), state, "creating")

    def _log_failed(self, error: OSError) -> None:
        # Without a number it is not the system's, and says all of it.
        text = describe(error)
        self._log_error = f"the log can't be written: {text}" if error.errno else text

    # Calls of the engine.

    def _accept(self, events: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        self._add_connection(connection)

    def _add_connection(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._connections[connection.fileno()] = connection
        self._loop.watch(connection.fileno(), READ, lambda _: self._serve_connection(connection))

    def _serve_connection(self, connection: socket.socket) -> None:
        descriptors: list[int] = []
        try:
            call, descriptors = _CALLS.receive(connection)
            if call is None:
                self._drop(connection)
                return
            if self._handle(call, descriptors, connection):
                self._answer(connection, Done())
        except SampanError as error:
            self._answer(connection, failure_of(error))
        except OSError as error:
            self._answer(connection, failure_of(error, "shim"))
        finally:
            wire.close_all(descriptors)

    def _handle(self, call: msgspec.Struct, descriptors: list[int], connection: socket.socket) -> bool:
        """True when the call is done; a start is answered later. Descriptors that are kept leave the list."""
        match call:
            case Subscribe():
                self._subscribers.append(self._socket_of(descriptors))
            case Attach():
                if self._job.setup.stdio is not None:
                    raise Invalid("the process has streams of its own and can't be attached to")
                self._streams.attach(self._socket_of(descriptors), call.preread, call.options)
            case Resize():
                self._streams.resize(call.height, call.width)
            case Kill():
                self._kill(call.signal)
            case Start():
                self._start(connection)
                return False
            case _:
                raise Internal(f"unknown call {type(call).__name__}")
        return True

    def _socket_of(self, descriptors: list[int]) -> socket.socket:
        if len(descriptors) != 1:
            raise Invalid("a descriptor is needed")
        return socket.socket(fileno=descriptors.pop())

    def _answer(self, connection: socket.socket, answer: msgspec.Struct) -> None:
        try:
            wire.send(connection, answer)
        except (SampanError, OSError):
            self._drop(connection)  # its owner has gone away meanwhile

    def _drop(self, connection: socket.socket) -> None:
        if self._connections.pop(connection.fileno(), None) is not None:
            self._loop.forget(connection.fileno())
            connection.close()

    def _start(self, connection: socket.socket) -> None:
        if self._started:
            raise Conflict("the process has been started already")
        self._started = True
        self._starter = connection
        wire.send(self._channel, Start())

    def _kill(self, number: int) -> None:
        if not self._started and number in _ENDS_BEFORE_START:
            number = signal.SIGKILL  # nothing in there could react to it yet
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError as error:
            raise Conflict("the process has ended") from error
        except (OSError, ValueError) as error:
            raise Invalid(f"invalid signal: {number}") from error

    # What the process does.

    def _from_init(self, events: int) -> None:
        """The channel ends with a successful execve, or brings what went wrong."""
        try:
            report, _ = _INIT_REPORTS.receive(self._channel)
        except (SampanError, ConnectionError):
            report = None
        self._loop.forget(self._channel.fileno())
        self._channel.close()
        self._failure = report
        # A failure is answered when all is cleaned up, so that the next try finds nothing in its way.
        if report is None and self._starter is not None:
            self._streams.started()
            self._poststart()
            self._answer(self._starter, Done())
            self._starter = None

    def _poststart(self) -> None:
        """A failing hook is a warning here (runtime.md, "Lifecycle"); the exit record tells it."""
        hooks = self._job.hooks
        if hooks is not None and hooks.poststart:
            from sampan.runtime.hooks import run_hooks

            try:
                run_hooks(hooks.poststart, {**self._job.state, "pid": self._pid}, "running")
            except SampanError as error:
                self._log_error = error.message

    def _process_ended(self, events: int) -> None:
        _, status = os.waitpid(self._pid, 0)
        ended = time.time_ns()
        self._loop.forget(self._pidfd)
        if self._channel.fileno() >= 0:
            self._from_init(READ)
        kills = self._leave_cgroup()
        failure = self._failure
        self._streams.drain(failed=failure is not None)
        code = exit_code_of(status)
        if failure is not None:
            code = failure.exit_code or ExecFailed("").exit_code
        error = failure.message if failure else self._log_error
        self._exit = ExitRecord(code, timestamp(ended), kills > 0, error, kills)
        self._record(self._exit)
        if self._starter is not None and failure is not None:
            self._answer(self._starter, failure)
        self._run_poststop()

    def _leave_cgroup(self) -> int:
        """How often the OOM killer was there; the group is removed, with whoever is left in it."""
        if self._job.group is None or not self._job.removes_group:
            return 0
        try:
            cgroup = self._job.group.open()
            kills = cgroup.oom_kills()
            if self._job.kills_group:
                cgroup.kill_all()
            cgroup.remove()
        except (SampanError, OSError) as error:
            self._log_error = describe(error)
            return 0
        return kills

    def _record(self, record: ExitRecord) -> None:
        """On disk first, whole or not at all; then to those who wait for it."""
        temporary = f".{EXIT_FILE}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            descriptor = os.open(temporary, flags, 0o600, dir_fd=self._directory)
            try:
                os.write(descriptor, msgspec.json.encode(record))
            finally:
                os.close(descriptor)
            os.rename(temporary, EXIT_FILE, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        finally:
            # Before anybody hears of it: who starts the container again then has a new shim listen under this name.
            self._loop.forget(self._listener.fileno())
            self._unlisten()
            for subscriber in self._subscribers:
                try:
                    wire.send(subscriber, record)
                except (SampanError, OSError):
                    continue  # that engine is gone; the next one reads the file
                finally:
                    subscriber.close()

    def _run_poststop(self) -> None:
        hooks = self._job.hooks
        if hooks is not None and hooks.poststop:
            from sampan.runtime.hooks import run_hooks

            try:
                run_hooks(hooks.poststop, {**self._job.state, "pid": 0}, "stopped")
            except SampanError:
                return  # runtime.md: to be logged as a warning; the record is out already


def run_shim(
    job: Job,
    answer: socket.socket,
    log_factory: LogFactory,
    keep: Sequence[int],
    make: Callable[[Job, LogFactory], Shim] = Shim,
) -> NoReturn:
    """The forked process: make the container, answer, serve, end. `keep`: descriptors that the job names."""
    code = 1
    try:
        detach_process()
        process.close_except({answer.fileno(), *keep})
        shim = make(job, log_factory)
        created = shim.create()
        try:
            wire.send(answer, created)
        except SampanError:
            pass  # the engine has died meanwhile: the next one finds the container
        answer.close()
        shim.serve()
        code = 0
    except BaseException as error:  # noqa: BLE001 - the border of the process
        _report(answer, error)
    finally:
        os._exit(code)


def _report(answer: socket.socket, error: BaseException) -> None:
    try:
        wire.send(answer, failure_of(error, "container shim"))
    except (SampanError, OSError):
        return
