"""Making containers, and processes in them, for `sampan-runtime`: no shim; init is a child of the caller.

Kept apart from `operations`, which need a fraction of what this imports.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from sampan.errors import Conflict, Invalid, NotFound, Unavailable
from sampan.linux import process
from sampan.linux.cgroups import detect
from sampan.linux.cgroups.model import check_path
from sampan.oci.spec import Linux, Process, Spec, parse_spec
from sampan.runtime import spawn, wire
from sampan.runtime.documents import hook_state, timestamp
from sampan.runtime.failure import Failure, describe
from sampan.runtime.filters import FilterCache, Listener, without_listener
from sampan.runtime.init import Setup
from sampan.runtime.limits import limits_of
from sampan.runtime.messages import INIT_ANNOTATION, Start
from sampan.runtime.operations import Trace
from sampan.runtime.overlay import open_directory_root
from sampan.runtime.plan import enters_pid_late, namespaces_of, plan_container, plan_exec, validate_process
from sampan.runtime.refusals import refuse_unsupported, refuse_unsupported_process
from sampan.runtime.state import START_SOCKET, Record, StateStore, StoredContainer, cgroup_path_of
from sampan.runtime.steps import JoinKeyring

_FAILURES: Final[wire.Codec[Failure]] = wire.Codec(Failure)
_FILTERS_DIRECTORY = ".seccomp"


class Manner(msgspec.Struct, frozen=True):
    """How a container is to be made. `console_socket`: where a terminal's master is sent to; None: the caller keeps it;
    empty: there is nowhere to send it. `preserved`: how many of the caller's descriptors from 3 on the program gets.
    """

    console_socket: str | None
    new_keyring: bool = True
    preserved: int = 0
    environment: tuple[str, ...] = ()

    def process(self, wanted: Process) -> Process:
        """`wanted` with what this manner adds to its environment."""
        return msgspec.structs.replace(wanted, env=wanted.env + self.environment)


class ExecPlace(msgspec.Struct, frozen=True):
    """Who and where a further process is: `user` looked up in the container, `cgroup` below the container's."""

    user: str | None = None
    cgroup: str = ""


def load_bundle(bundle: Path) -> tuple[Spec, bytes]:
    """Raises `NotFound` and `Invalid`."""
    path = bundle / "config.json"
    try:
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"JSON specification file {path} not found") from error
    return parse_spec(raw), raw


def create(
    store: StateStore, container_id: str, bundle: Path, console: Manner, *, now_ns: int, trace: Trace
) -> tuple[StoredContainer, int]:
    """Make a container up to its waiting init; with the terminal's master when the caller keeps it (else -1).

    Nothing is left of it when this raises.
    """
    bundle = bundle.resolve()
    spec, raw = load_bundle(bundle)
    if spec.process is None or spec.root is None:
        raise Invalid("a container needs a process and a root file system")
    if spec.process.terminal and console.console_socket == "":
        raise Invalid("cannot allocate tty if runc will detach without setting console socket")
    refuse_unsupported(spec)
    directory = store.reserve(container_id)
    try:
        cgroup = detect().group(cgroup_path_of(spec, container_id))
        if cgroup.exists() and cgroup.pids():
            raise Conflict(f"container's cgroup {cgroup.path} is not empty")
        limits = limits_of(spec.linux.resources if spec.linux else None)
        try:
            setup, entry = _container_setup(store, spec, container_id, bundle, directory, console, trace)
            spawned = _spawn(entry, setup, spawn.Group(cgroup.path, lambda: limits), spec, console)
        except BaseException:
            cgroup.remove()
            raise
        record = Record(
            spec.oci_version,
            container_id,
            spawned.pid,
            process.start_time(spawned.pid),
            str(bundle),
            timestamp(now_ns),
            cgroup.path,
        )
        store.save(directory, record, raw)
    except BaseException:
        store.remove(directory)
        raise
    return StoredContainer(directory, record), spawned.console


def _container_setup(
    store: StateStore,
    spec: Spec,
    container_id: str,
    bundle: Path,
    directory: Path,
    manner: Manner,
    trace: Trace,
) -> tuple[Setup, spawn.Entry]:
    linux, hooks = spec.linux or Linux(), spec.hooks
    if spec.root is None or spec.process is None:
        raise Invalid("a container needs a process and a root file system")
    steps = plan_container(spec, container_id)
    if not manner.new_keyring:
        steps = tuple(step for step in steps if not isinstance(step, JoinKeyring))
    for step in steps:
        trace(step.describe())
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{descriptor}/{START_SOCKET}")
        listener.listen(4)
    finally:
        os.close(descriptor)
    root = (bundle / spec.root.path).resolve()
    if not root.is_dir():
        raise NotFound(f"invalid rootfs: {root} does not exist")
    profile, agent = without_listener(linux.seccomp)
    notify = _connect_agent(agent)
    if hooks is not None:
        importlib.import_module("sampan.runtime.hooks")  # in the container's root it could not be found
    setup = Setup(
        plan=lambda: steps,
        process=manner.process(spec.process),
        root=open_directory_root(str(root)),
        stdio=None if spec.process.terminal else (0, 1, 2),
        listener=listener.detach(),
        seccomp=FilterCache(store.root / _FILTERS_DIRECTORY).get(profile),
        start_hooks=hooks.start_container if hooks else (),
        state=hook_state(spec, container_id, str(bundle)) if hooks or agent else {},
        early_lookup=True,
        reaping=(spec.annotations or {}).get(INIT_ANNOTATION) == "true",
        preserved=manner.preserved,
        notify=notify,
        listener_metadata=agent.metadata if agent else "",
    )
    if agent is not None and setup.reaping:
        raise Invalid(f"a seccomp listenerPath and the annotation {INIT_ANNOTATION} exclude each other")
    namespaces = namespaces_of(spec)
    return setup, spawn.Entry(
        namespaces,
        linux.uid_mappings,
        linux.gid_mappings,
        late_pid=enters_pid_late(spec),
        time_offsets=linux.time_offsets,
    )


def _connect_agent(agent: Listener | None) -> int:
    """A socket connected to the agent of a seccomp filter, or -1. Raises `Unavailable`."""
    if agent is None:
        return -1
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(agent.path)
    except OSError as error:
        sock.close()
        raise Unavailable(f"seccomp agent {agent.path}: {describe(error)}") from error
    return sock.detach()


def _spawn(
    entry: spawn.Entry, setup: Setup, group: spawn.Group, spec: Spec, console: Manner
) -> spawn.Spawned:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    hooks_began = False

    def maker_hooks(pid: int) -> None:
        nonlocal hooks_began
        hooks_began = True
        if spec.hooks is not None:
            from sampan.runtime.hooks import run_hooks

            run_hooks(
                (*spec.hooks.prestart, *spec.hooks.create_runtime), {**setup.state, "pid": pid}, "creating"
            )

    with ours:
        try:
            spawned = spawn.spawn(entry, setup, ours, theirs, group, maker_hooks)
        except BaseException:
            # runtime.md, "Lifecycle": after a failing hook all is undone, and the poststop hooks are told.
            if hooks_began and spec.hooks is not None:
                from sampan.runtime.hooks import run_hooks_leniently

                run_hooks_leniently(spec.hooks.poststop, {**setup.state, "pid": 0}, "stopped")
            raise
    for descriptor in (setup.listener, setup.root, setup.notify):
        if descriptor >= 0:
            os.close(descriptor)
    if spawned.console >= 0 and console.console_socket:
        try:
            _send_console(console.console_socket, spawned.console)
        except OSError as error:
            os.kill(spawned.pid, signal.SIGKILL)
            raise Invalid(f"console socket {console.console_socket}: {error}") from error
        finally:
            os.close(spawned.console)
        return spawn.Spawned(spawned.pid, -1)
    return spawned


def _send_console(path: str, master: int) -> None:
    """The master's descriptor with its name as data: what users of a console socket expect."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)
        socket.send_fds(sock, [b"/dev/ptmx"], [master])


def execute(
    store: StateStore,
    container: StoredContainer,
    request: Process,
    console: Manner,
    place: ExecPlace,
) -> spawn.Spawned:
    """A further process, started. Raises `Conflict` when the container does not run, `ExecFailed`."""
    validate_process(request)
    refuse_unsupported_process(request)
    status = container.status
    if status != "running":
        raise Conflict(f"cannot exec in a {status} container")
    if request.terminal and console.console_socket == "":
        raise Invalid("cannot allocate tty if runc will detach without setting console socket")
    spec = container.spec()
    target, flags = spawn.open_target(container.record.pid, container.record.start_time)
    profile, agent = without_listener(spec.linux.seccomp if spec.linux else None)
    setup = Setup(
        plan=partial(plan_exec, request, container.record.id),
        process=console.process(request),
        user=place.user,
        stdio=None if request.terminal else (0, 1, 2),
        seccomp=FilterCache(store.root / _FILTERS_DIRECTORY).get(profile),
        state=hook_state(spec, container.record.id, container.record.bundle) if agent else {},
        preserved=console.preserved,
        notify=_connect_agent(agent),
        listener_metadata=agent.metadata if agent else "",
    )
    group = _exec_group(container.record.cgroup, place.cgroup)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        linux = spec.linux or Linux()
        entry = spawn.Entry(
            uid_mappings=linux.uid_mappings,
            gid_mappings=linux.gid_mappings,
            target=target,
            target_flags=flags,
        )
        spawned = spawn.spawn(entry, setup, ours, theirs, group, lambda pid: None)
        os.close(target)
        wire.send(ours, Start(spawned.pid))
        failure, _ = _FAILURES.receive(ours)
    if failure is not None:
        os.waitpid(spawned.pid, 0)
        raise failure.error()
    if spawned.console >= 0 and console.console_socket:
        _send_console(console.console_socket, spawned.console)
        os.close(spawned.console)
        return spawn.Spawned(spawned.pid, -1)
    return spawned


def _exec_group(of_container: str | None, below: str) -> spawn.Group | None:
    """The container's group, or the existing one `below` it. Raises `Invalid`, `NotFound`."""
    if of_container is None:
        return None
    if not below:
        return spawn.Group(of_container, None)
    path = check_path(f"{of_container}/{below.strip('/')}")
    if not detect().group(path).exists():
        raise NotFound(f"the container has no control group {below!r}")
    return spawn.Group(path, None)
