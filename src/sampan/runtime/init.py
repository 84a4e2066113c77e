"""A container's init, from the fork to its execve: performs the plan's steps.

Runs in a process of its own, which is the container's PID 1. After `Pivot` nothing of the host can be opened any
more, modules to import included: everything is imported at the top (`hooks` by whoever plans some).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec

from sampan.errors import Denied, Internal, Invalid, Unsupported
from sampan.linux import libc, mount, namespaces, paths, process, terminal
from sampan.oci.spec import Process
from sampan.runtime import mounting, reaper, wire
from sampan.runtime import steps as s
from sampan.runtime.cgroupmount import mount_cgroups
from sampan.runtime.execute import (
    SeccompProgram,
    enter_identity,
    environment_of,
    execute,
    find_program,
    lock_down,
    resolve_identity,
)
from sampan.runtime.failure import NOT_FOUND, ExecFailed, Failure, describe, failure_of
from sampan.runtime.messages import Console, Done, Forked, InitOrder, MakerHooksCall, Ready, Start
from sampan.runtime.overlay import Overlay
from sampan.runtime.rlimits import set_early
from sampan.runtime.trees import take_trees

_ORDERS: Final[wire.Codec[Start | Done]] = wire.Codec(InitOrder)
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


class Setup(msgspec.Struct, frozen=True):
    """All that an init needs to know. Descriptors are -1 when there is none.

    `plan` gives the steps; it is called here, so that what planning leaves in memory is gone with the execve.
    `root`: the root file system's detached mount; when `overlay` is given it is opened by the process itself.
    `stdio`: what becomes descriptors 0 to 2, None with a terminal. `listener`: a listening socket on which to
    wait for `Start`, when the maker will be gone by then. `state`: the runtime-spec's state (its status left
    open) for hooks. `early_lookup`: a missing program is reported before `Ready`. `reaping`: stay PID 1 as a
    reaping init. `given`: detached mounts that came with the request.
    `user_namespace`: the container's, as long as it is not entered; `trees` were taken before that, and
    `in_user_namespace` says that it is. `preserved`: how many of the maker's descriptors from 3 on the program gets.
    `pid_namespace`: of another container, entered by the plan's `EnterPidNamespace`.
    `notify`: a socket connected to the agent that gets the filter's listener, with `listener_metadata`.
    """

    plan: Callable[[], tuple[s.Step, ...]]
    process: Process
    user: str | None = None
    groups: tuple[str, ...] = ()
    root: int = -1
    overlay: Overlay | None = None
    network: int = -1
    host_mounts: int = -1
    user_namespace: int = -1
    pid_namespace: int = -1
    in_user_namespace: bool = False
    trees: tuple[int, ...] = ()
    given: tuple[int, ...] = ()
    stdio: tuple[int, int, int] | None = None
    listener: int = -1
    seccomp: SeccompProgram | None = None
    start_hooks: tuple[Any, ...] = ()
    state: dict[str, Any] = {}
    early_lookup: bool = False
    reaping: bool = False
    preserved: int = 0
    notify: int = -1
    listener_metadata: str = ""


class Scene:
    """What the steps work on, while they do."""

    def __init__(self, setup: Setup, channel: socket.socket) -> None:
        self.setup = setup
        self.channel = channel
        self.root = setup.root
        self.masks: mounting.Masks | None = None
        self.trees = setup.trees
        self.slave = -1
        self._proc = -1

    def report(self, message: msgspec.Struct, descriptors: tuple[int, ...] = ()) -> None:
        wire.send(self.channel, message, descriptors)

    def ask(self, message: msgspec.Struct) -> None:
        """Report, and wait for the maker's `Done`. The maker's death is ours."""
        wire.send(self.channel, message)
        self.receive()

    def receive(self) -> Start | Done:
        order, _ = _ORDERS.receive(self.channel)
        if order is None:
            os._exit(1)
        return order

    def procfs(self) -> int:
        """A procfs that nobody has mounted anything over: what is written to it reaches the kernel."""
        if self._proc < 0:
            self._proc = mount.make_filesystem("proc", source="proc")
            if process.filesystem_type(self._proc) != process.PROC_SUPER_MAGIC:
                raise Internal("procfs is not procfs")
        return self._proc

    def close_proc(self) -> None:
        if self._proc >= 0:
            os.close(self._proc)
            self._proc = -1

    def write_proc(self, path: str, value: str) -> None:
        resolve = paths.RESOLVE_BENEATH | paths.RESOLVE_NO_XDEV | paths.RESOLVE_NO_MAGICLINKS
        descriptor = paths.openat2(self.procfs(), path, os.O_WRONLY | os.O_CLOEXEC, 0, resolve)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)


def run(setup: Setup, channel: socket.socket) -> NoReturn:
    """Perform the plan, wait for `Start` and become the program. Failures go to the maker as `Failure`."""
    scene = Scene(setup, channel)
    doing = "container init"
    try:
        if setup.state or setup.notify >= 0:
            # Still the host's procfs: hooks want the process id that the host knows.
            setup.state["pid"] = int(os.readlink("/proc/self"))
        os.umask(0)
        os.setsid()
        process.set_dumpable(False)
        doing = "plan"
        for step in setup.plan():
            doing = step.describe()
            perform(scene, step)
        doing = "standard streams"
        _connect_stdio(scene)
        doing = "user"
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        identity = resolve_identity(root, setup.process, setup.user, setup.groups)
        environment = environment_of(setup.process, identity)
        if setup.early_lookup:
            os.chdir(setup.process.cwd)
            find_program((setup.process.args or ("",))[0], environment.get("PATH", ""))
        scene.report(Ready())
        doing = "start"
        _wait_for_start(scene)
        if setup.start_hooks:
            from sampan.runtime.hooks import run_hooks

            run_hooks(setup.start_hooks, setup.state, "created")
        if setup.reaping:
            reaper.split(
                scene.channel,
                setup.process.terminal,
                lambda: lock_down(setup.process, setup.seccomp, enter_identity(setup.process, identity)),
            )
        doing = "execve"
        process.close_on_exec_above(3 + setup.preserved)
        hand_over = _listener_handover(setup) if setup.notify >= 0 else None
        execute(setup.process, identity, setup.seccomp, environment, hand_over)
        raise Internal("execve returned")
    except BaseException as error:  # noqa: BLE001 - the border of the process: whatever it is, the maker reports it
        _fail(scene, failure_of(error, doing))


def _listener_handover(setup: Setup) -> Callable[[int], object]:
    """config-linux.md, "seccompState": all is made ready before the filter is loaded, then it takes one sendmsg(2)."""
    agent = socket.socket(fileno=setup.notify)
    message = msgspec.json.encode(
        {
            "ociVersion": setup.state.get("ociVersion", ""),
            "fds": ["seccompFd"],
            "pid": setup.state["pid"],
            "metadata": setup.listener_metadata,
            "state": setup.state,
        }
    )
    return lambda listener: socket.send_fds(agent, [message], [listener])


def _fail(scene: Scene, failure: Failure) -> NoReturn:
    try:
        scene.report(failure)
    except (OSError, Internal, Invalid):
        sys.stderr.write(f"sampan: {failure.message}\n")
        sys.stderr.flush()
    os._exit(failure.exit_code or 1)


def _wait_for_start(scene: Scene) -> None:
    if scene.setup.listener < 0:
        told = scene.receive()
        if isinstance(told, Start) and told.pid and scene.setup.notify >= 0:
            # A further process has entered the container's procfs already.
            scene.setup.state["pid"] = told.pid
        return
    # The maker is gone by then: whoever starts the container connects, and gets the failure, if there is one.
    scene.channel.close()
    with socket.socket(fileno=scene.setup.listener) as listener:
        while True:
            scene.channel, _ = listener.accept()
            order, _ = _ORDERS.receive(scene.channel)
            if isinstance(order, Start):
                return
            scene.channel.close()


def _connect_stdio(scene: Scene) -> None:
    if scene.slave >= 0:
        stdio = (scene.slave,) * 3
    elif scene.setup.stdio is not None:
        stdio = scene.setup.stdio
    else:
        raise Internal("no standard streams were given")
    for target, source in enumerate(stdio):
        os.dup2(source, target, inheritable=True)
    for source in set(stdio):
        if source > 2:
            os.close(source)
    if scene.slave >= 0:
        terminal.make_controlling(0)


def _join(scene: Scene, step: s.JoinNamespaces) -> None:
    opened = []
    for flag, path in step.namespaces:
        try:
            opened.append((namespaces.open_namespace(path), flag, path))
        except OSError as error:
            raise Invalid(f"namespace path {path}: {describe(error)}") from error
    for descriptor, flag, path in opened:
        try:
            namespaces.join(descriptor, flag, path)
        except libc.SystemCallError as error:
            raise Invalid(f"namespace path {path} can't be joined: {error}") from error
        os.close(descriptor)


def _new_namespaces(scene: Scene, step: s.NewNamespaces) -> None:
    if scene.setup.network >= 0:
        namespaces.join(scene.setup.network, namespaces.NEWNET, "the given network namespace")
        os.close(scene.setup.network)
    namespaces.unshare(step.flags)


def _loopback_up(scene: Scene, step: s.LoopbackUp) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack_from("h", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def _take_trees(scene: Scene, step: s.TakeTrees) -> None:
    setup = scene.setup
    scene.trees = tuple(take_trees(step, setup.host_mounts, setup.user_namespace, setup.given))


def _attach_root(scene: Scene, step: s.AttachRoot) -> None:
    # On top of "/": that place needs no permission, also not for the root of a user namespace. Who has "/" as
    # root directory already, as we have, does not see what is on top of it, and pivot_root takes it from there.
    place = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount.attach(scene.root, place, "/")
    finally:
        os.close(place)


def _mount_filesystem(scene: Scene, step: s.MountFilesystem) -> None:
    try:
        mounting.mount_filesystem(scene.root, step)
    except OSError as error:
        words = f"error mounting {step.source or step.kind!r} to rootfs at {step.target!r}"
        raise Internal(f"{words}: {describe(error)}") from error


def _bind_mount(scene: Scene, step: s.BindMount) -> None:
    try:
        mounting.bind_mount(scene.root, step, scene.trees[step.tree] if step.tree >= 0 else -1)
    except OSError as error:
        words = f"error mounting {step.source!r} to rootfs at {step.target!r}"
        raise Internal(f"{words}: {describe(error)}") from error


def _open_console(scene: Scene, step: s.OpenConsole) -> None:
    # A container is still being made (its root is a descriptor), or entered (its root is ours).
    root = scene.root if scene.root >= 0 else os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    ptmx = paths.open_in_root(root, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    terminal.master_of(ptmx)
    scene.slave = terminal.slave_of(ptmx)
    if step.height or step.width:
        terminal.set_size(ptmx, step.height, step.width)
    scene.report(Console(), (ptmx,))
    os.close(ptmx)


def _pivot(scene: Scene, step: s.Pivot) -> None:
    if scene.setup.host_mounts >= 0:
        os.close(scene.setup.host_mounts)
    mounting.pivot(scene.root)


def _enter_pid_namespace(scene: Scene, step: s.EnterPidNamespace) -> None:
    namespaces.join(scene.setup.pid_namespace, namespaces.NEWPID, "the given pid namespace")
    os.close(scene.setup.pid_namespace)
    scene.close_proc()
    fork_again(scene.channel)
    os.setsid()


def fork_again(channel: socket.socket) -> None:
    """Returns in the child, which is in the pid namespace that was entered; the maker is told of it."""
    pid = os.fork()
    if pid:
        wire.send(channel, Forked(pid))
        os._exit(0)


def _sysctl(scene: Scene, step: s.WriteSysctl) -> None:
    # A name with a slash before its first dot is written with slashes as separators (sysctl.d(5)).
    head = step.name.split(".", 1)[0]
    path = step.name if "/" in head else step.name.replace(".", "\0").replace("/", ".").replace("\0", "/")
    try:
        scene.write_proc(f"sys/{path}", step.value)
    except OSError as error:
        raise Invalid(f"sysctl {step.name} can't be set to {step.value!r}: {describe(error)}") from error


def _readonly(scene: Scene, step: s.ReadonlyPath) -> None:
    _keep_procfs(scene)
    mounting.readonly_path(scene.root, step.path)


def _keep_procfs(scene: Scene) -> None:
    """In a user namespace a procfs can be mounted only as long as all of one can be seen."""
    if scene.setup.in_user_namespace:
        scene.procfs()


def _mask(scene: Scene, step: s.MaskPath) -> None:
    _keep_procfs(scene)
    if scene.masks is None:
        scene.masks = mounting.Masks(scene.root)
    scene.masks.cover(step.path)


def _root_propagation(scene: Scene, step: s.RootPropagation) -> None:
    one = step.propagation
    mount.set_attributes(scene.root, propagation=one.flag, recursive=one.recursive)


def _oom_score(scene: Scene, step: s.SetOomScoreAdjustment) -> None:
    if not -1000 <= step.value <= 1000:
        raise Invalid(f"invalid oomScoreAdj {step.value}: it is between -1000 and 1000")
    try:
        scene.write_proc("self/oom_score_adj", str(step.value))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise Denied(
                f"oom_score_adj can't be set to {step.value}: operation not permitted",
                hint="a value below that of the daemon takes CAP_SYS_RESOURCE",
            ) from error
        raise


def _apparmor(scene: Scene, step: s.SetApparmorProfile) -> None:
    value = f"exec {step.profile}"
    try:
        try:
            scene.write_proc("self/attr/apparmor/exec", value)
        except FileNotFoundError:
            scene.write_proc("self/attr/exec", value)
    except OSError as error:
        raise Unsupported(
            f"unable to apply apparmor profile {step.profile!r}: {describe(error)}",
            hint="is AppArmor enabled on this host, and the profile loaded?",
        ) from error


def _selinux(scene: Scene, step: s.SetSelinuxLabel) -> None:
    try:
        scene.write_proc("self/attr/exec", step.label)
        scene.write_proc("self/attr/keycreate", step.label)
    except OSError as error:
        raise Unsupported(
            f"unable to set the SELinux label {step.label!r}: {describe(error)}",
            hint="is SELinux enabled on this host, and the label known to its policy?",
        ) from error


def _root_readonly(scene: Scene, step: s.ReadonlyRoot) -> None:
    mount.set_attributes(scene.root, mount.ATTR_RDONLY)


def _make_working_directory(scene: Scene, step: s.MakeWorkingDirectory) -> None:
    try:
        os.close(paths.mkdirs_in_root(scene.root, step.path))
    except OSError as error:
        # Also for a path through /proc/self/fd, which could lead out (CVE-2024-21626).
        words = os.strerror(error.errno or 0).lower()
        raise ExecFailed(
            f"mkdir {step.path} (the working directory): {words}", exit_code=NOT_FOUND
        ) from error


def _container_hooks(scene: Scene, step: s.ContainerHooks) -> None:
    from sampan.runtime.hooks import run_hooks

    run_hooks(step.hooks, scene.setup.state, step.status)


def perform(scene: Scene, step: s.Step) -> None:
    _PERFORM[type(step)](scene, step)


_PERFORM: Final[dict[type[s.Step], Callable[[Scene, Any], object]]] = {
    s.JoinNamespaces: _join,
    s.NewNamespaces: _new_namespaces,
    s.LoopbackUp: _loopback_up,
    s.SetMountPropagation: lambda scene, step: mount.set_root_propagation(step.flag),
    s.TakeTrees: _take_trees,
    s.AttachRoot: _attach_root,
    s.MountFilesystem: _mount_filesystem,
    s.BindMount: _bind_mount,
    s.Remount: lambda scene, step: mounting.remount(scene.root, step),
    s.MountCgroups: lambda scene, step: mount_cgroups(scene.root, step),
    s.MakeDevice: lambda scene, step: mounting.make_device(scene.root, step),
    s.MakeLink: lambda scene, step: mounting.make_link(scene.root, step),
    s.OpenConsole: _open_console,
    s.BindConsole: lambda scene, step: mounting.bind_console(scene.root, scene.slave),
    s.MakerHooks: lambda scene, step: scene.ask(MakerHooksCall()),
    s.ContainerHooks: _container_hooks,
    s.MakeWorkingDirectory: _make_working_directory,
    s.Pivot: _pivot,
    s.EnterPidNamespace: _enter_pid_namespace,
    s.SetHostname: lambda scene, step: socket.sethostname(step.name),
    s.SetDomainname: lambda scene, step: libc.setdomainname(step.name),
    s.WriteSysctl: _sysctl,
    s.ReadonlyPath: _readonly,
    s.MaskPath: _mask,
    s.ReadonlyRoot: _root_readonly,
    s.RootPropagation: _root_propagation,
    s.SetRlimit: lambda scene, step: set_early(step.resource, step.soft, step.hard),
    s.SetOomScoreAdjustment: _oom_score,
    s.SetApparmorProfile: _apparmor,
    s.SetSelinuxLabel: _selinux,
    s.SetIoPriority: lambda scene, step: process.set_io_priority(step.kind, step.priority),
    s.SetPersonality: lambda scene, step: process.set_personality(step.persona),
    s.JoinKeyring: lambda scene, step: process.join_session_keyring(step.name),
}
