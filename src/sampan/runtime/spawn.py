"""Forking a container's init into its pid and user namespaces, and attending to it until it is ready.

Used by the shim and by `sampan-runtime`. The maker itself never changes its namespaces.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Final, NoReturn

import msgspec

from sampan.errors import Conflict, Internal, Invalid, SampanError, Unsupported
from sampan.linux import namespaces as ns
from sampan.linux import process
from sampan.linux.cgroups import Cgroup, CgroupHost, CgroupLimits, detect
from sampan.oci.spec import IdMapping, TimeOffset
from sampan.runtime import init, wire
from sampan.runtime.failure import Failure, describe, failure_of
from sampan.runtime.messages import (
    Console,
    Done,
    Forked,
    InitReport,
    MakerHooksCall,
    Ready,
)
from sampan.runtime.outside import prepare
from sampan.runtime.plan import Namespaces
from sampan.runtime.usernamespace import host_id, make_user_namespace

_REPORTS: Final[wire.Codec[Ready | Console | MakerHooksCall | Forked | Failure]] = wire.Codec(InitReport)


class Entry(msgspec.Struct, frozen=True):
    """How the first process gets where it belongs.

    `namespaces`: those of the specification (pid and user are handled here). `target`: a pidfd of a running
    container's init whose namespaces `target_flags` are entered instead. The mappings are those of the user
    namespace, which `user_namespace` is when it was made before; `idmapped`: the root's layers are shown through
    it. `late_pid`: the pid namespace is entered by the plan.
    """

    namespaces: Namespaces = {}
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    target: int = -1
    target_flags: int = 0
    user_namespace: int = -1
    idmapped: bool = False
    late_pid: bool = False
    time_offsets: dict[str, TimeOffset] | None = None


class Group(msgspec.Struct, frozen=True):
    """The control group at `path` that the process enters; it makes it before, with `limits` unless they are None.

    The process itself does that, not its maker: what the work leaves in memory is gone with its execve.
    `host`: what `detect` found before, if it did.
    """

    path: str
    limits: Callable[[], CgroupLimits] | None
    host: CgroupHost | None = None

    def open(self) -> Cgroup:
        """Raises `Unsupported` when this host has no control groups."""
        return (self.host or detect()).group(self.path)


class Spawned(msgspec.Struct, frozen=True):
    """An init that is ready and waits. `console`: the terminal's master, or -1."""

    pid: int
    console: int


def open_target(pid: int, start_time: int, ours: dict[int, ns.Identity] | None = None) -> tuple[int, int]:
    """A pidfd of a container's init and the CLONE_NEW* flags of those namespaces that are not ours.

    `ours`: as of `namespaces.own`, if known.

    Raises `Conflict` when it has ended, also when its number went to another process meanwhile.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        raise Conflict("the container is not running") from error
    try:
        # The pidfd is held: from here on the number can't be given away unnoticed.
        if start_time and process.start_time(pid) != start_time:
            raise Conflict("the container is not running")
        flags = ns.different(pid, ours or ns.own())
        if process.state(pid) in "ZX":
            raise Conflict("the container is not running")
    except (OSError, Conflict) as error:
        os.close(descriptor)
        if isinstance(error, Conflict):
            raise
        raise Conflict("the container is not running") from error
    return descriptor, flags


def spawn(
    entry: Entry,
    setup: init.Setup,
    channel: socket.socket,
    theirs: socket.socket,
    group: Group | None,
    maker_hooks: Callable[[int], None],
    meanwhile: Callable[[], None] | None = None,
) -> Spawned:
    """Fork the init, and serve it until it is ready. It is dead when this raises what it met.

    `channel` and `theirs` are a socket pair; `theirs` is closed here. `maker_hooks` gets the init's pid. `meanwhile`:
    what the maker has to do anyway, while the init sets itself up.
    """
    pid = _fork(entry, setup, channel, theirs, group)
    theirs.close()
    console = -1
    first = pid
    forks, ready = _is_staged(entry), False
    try:
        if meanwhile is not None:
            meanwhile()
        while forks or not ready:
            report, descriptors = _REPORTS.receive(channel)
            match report:
                case Ready():
                    ready = True
                case Console() if len(descriptors) == 1:
                    console = descriptors[0]
                case MakerHooksCall():
                    maker_hooks(pid)
                    wire.send(channel, Done())
                case Forked():
                    # It comes from the first process, and may come after the second one's first words.
                    pid, forks = report.pid, False
                case Failure():
                    raise report.error()
                case _:
                    raise Internal("the container's init ended while it was being set up")
    except BaseException:
        _reap_first(first, pid)
        _end(pid)
        if console >= 0:
            os.close(console)
        raise
    # Only now: its end takes a moment, in which the second one has gone on.
    _reap_first(first, pid)
    return Spawned(pid, console)


def _reap_first(first: int, pid: int) -> None:
    """The process that forked `pid`, if there was one, has ended; from then on `pid` is our child."""
    if pid != first:
        os.waitpid(first, 0)


def _end(pid: int) -> None:
    try:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def _fork(
    entry: Entry, setup: init.Setup, channel: socket.socket, theirs: socket.socket, group: Group | None
) -> int:
    """A child in the right pid namespace; the caller's own children are born where they were before."""
    staged = _is_staged(entry)
    if staged:
        process.set_subreaper()
    changes_pid = not staged and ns.NEWPID in entry.namespaces
    changes_time = not staged and ns.NEWTIME in entry.namespaces
    own = ns.open_namespace("/proc/self/ns/pid") if changes_pid else -1
    own_time = ns.open_namespace("/proc/self/ns/time") if changes_time and ns.has_time() else -1
    try:
        # Within the "try": a failure in the middle must not leave the maker half elsewhere.
        if changes_pid:
            _enter_pid_namespace(entry)
        if changes_time:
            _enter_time_namespace(entry)
        pid = os.fork()
        if pid == 0:
            channel.close()
            _child(entry, setup, theirs, group)
        return pid
    finally:
        if changes_pid:
            ns.join(own, ns.NEWPID, "the runtime's own pid namespace")
            os.close(own)
        if own_time >= 0:
            ns.join(own_time, ns.NEWTIME, "the runtime's own time namespace")
            os.close(own_time)


def _is_staged(entry: Entry) -> bool:
    """A second child is forked, when the first one has entered the other namespaces.

    Of another container's pid namespace too: from the fork on its processes see ours, and one with CAP_SYS_PTRACE
    could get through /proc/<pid>/root to wherever we still are.
    """
    return ns.NEWUSER in entry.namespaces or entry.late_pid or bool(entry.target_flags & ns.NEWPID)


def _enter_pid_namespace(entry: Entry) -> None:
    """For the caller's next child."""
    path = entry.namespaces[ns.NEWPID]
    if path is None:
        ns.unshare(ns.NEWPID)
        return
    _join_path(ns.NEWPID, path)


def _enter_time_namespace(entry: Entry) -> None:
    """For the caller's next child: time_namespaces(7). The offsets are written before it has one."""
    if not ns.has_time():
        raise Unsupported("time namespaces are not supported by this kernel")
    path = entry.namespaces[ns.NEWTIME]
    if path is not None:
        _join_path(ns.NEWTIME, path)
        return
    ns.unshare(ns.NEWTIME)
    for clock, offset in (entry.time_offsets or {}).items():
        if clock not in ("monotonic", "boottime"):
            raise Invalid(f"unknown clock {clock!r} in timeOffsets")
        try:
            with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
                file.write(f"{clock} {offset.secs} {offset.nanosecs}\n")
        except OSError as error:
            raise Invalid(f"time offset of {clock} is refused: {describe(error)}") from error


def _join_path(flag: int, path: str) -> None:
    descriptor = _open_path(flag, path)
    try:
        ns.join(descriptor, flag, path)
    except OSError as error:
        raise _not_joined(flag, path, error) from error
    finally:
        os.close(descriptor)


def _open_path(flag: int, path: str) -> int:
    """Raises `Invalid`."""
    try:
        return ns.open_namespace(path)
    except OSError as error:
        raise _not_joined(flag, path, error) from error


def _not_joined(flag: int, path: str, error: OSError) -> Invalid:
    return Invalid(f"{ns.FILES[flag]} namespace path {path} can't be joined: {describe(error)}")


def _child(entry: Entry, setup: init.Setup, channel: socket.socket, group: Group | None) -> NoReturn:
    staged = ns.NEWUSER in entry.namespaces
    try:
        process.set_dumpable(False)
        os.umask(0o022)  # control groups may be looked at by everybody, as the kernel has it
        if group is not None:
            cgroup = group.open()
            if group.limits is not None:
                cgroup.create(group.limits())
            cgroup.enter()
        if staged or entry.target_flags & ns.NEWUSER:
            setup = _prepare_outside(entry, setup, channel)
        elif setup.overlay is not None:
            setup = msgspec.structs.replace(setup, root=setup.overlay.open())
        if entry.late_pid:
            setup = msgspec.structs.replace(
                setup, pid_namespace=_open_path(ns.NEWPID, entry.namespaces[ns.NEWPID] or "")
            )
            if ns.NEWTIME in entry.namespaces:
                _enter_time_namespace(entry)
        process.close_except(_needed(entry, setup, channel))
        if staged:
            _enter_user_namespace(entry, setup, channel)
        if entry.target >= 0:
            ns.join(entry.target, entry.target_flags, "the container's namespaces")
            os.close(entry.target)
            if entry.target_flags & ns.NEWUSER:
                _become_root()
            if entry.target_flags & ns.NEWPID:
                init.fork_again(channel)
    except BaseException as error:  # noqa: BLE001 - the border of the process: the maker reports it
        _report_failure(channel, error)
    init.run(setup, channel)


def _report_failure(channel: socket.socket, error: BaseException) -> NoReturn:
    try:
        wire.send(channel, failure_of(error, "container init"))
    except SampanError:
        os._exit(2)
    os._exit(1)


def _prepare_outside(entry: Entry, setup: init.Setup, channel: socket.socket) -> init.Setup:
    """For a user namespace: its descriptor (unless a running container's is entered), and what comes before it."""
    user_namespace = entry.user_namespace
    if entry.target < 0 and user_namespace < 0:
        path = entry.namespaces[ns.NEWUSER]
        if path is None:
            user_namespace, _ = make_user_namespace(entry.uid_mappings, entry.gid_mappings)
        else:
            user_namespace = ns.open_namespace(path)
    owner = None
    if entry.uid_mappings and entry.gid_mappings:
        owner = host_id(entry.uid_mappings, 0), host_id(entry.gid_mappings, 0)
    return prepare(setup, channel, user_namespace, owner, idmapped=entry.idmapped)


def _needed(entry: Entry, setup: init.Setup, channel: socket.socket) -> set[int]:
    numbers = (
        setup.root,
        setup.network,
        setup.host_mounts,
        setup.listener,
        setup.user_namespace,
        setup.pid_namespace,
        entry.target,
        channel.fileno(),
        *setup.trees,
        *setup.given,
        setup.notify,
        *(setup.stdio or ()),
        *range(3, 3 + setup.preserved),
    )
    return {number for number in numbers if number > 2}


def _enter_user_namespace(entry: Entry, setup: init.Setup, channel: socket.socket) -> None:
    """Then a second child is forked, whose pid namespace belongs to it. Returns in that child."""
    ns.join(
        setup.user_namespace, ns.NEWUSER, entry.namespaces[ns.NEWUSER] or "the container's user namespace"
    )
    os.close(setup.user_namespace)
    _become_root()
    if ns.NEWPID in entry.namespaces:
        _enter_pid_namespace(entry)
    if ns.NEWTIME in entry.namespaces:
        _enter_time_namespace(entry)
    init.fork_again(channel)


def _become_root() -> None:
    """In a user namespace that was just entered."""
    process.set_dumpable(False)
    os.setresgid(0, 0, 0)
    os.setgroups(())
    os.setresuid(0, 0, 0)
    process.set_dumpable(False)  # the change of ids made us dumpable
