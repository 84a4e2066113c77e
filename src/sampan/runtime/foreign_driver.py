"""The driver of another OCI runtime: a short-lived process between a shim and runc or crun; see `foreign`.

It has a mount namespace of its own, in which the container's root is mounted where the runtime can see it.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Sequence
from typing import Final, NoReturn

import msgspec

from sampan.errors import Internal, Invalid, SampanError, Unsupported
from sampan.linux import capabilities, libc, mount
from sampan.linux import namespaces as ns
from sampan.oci import spec as oci
from sampan.runtime import wire
from sampan.runtime.execute import quote, resolve_identity
from sampan.runtime.failure import NOT_EXECUTABLE, NOT_FOUND, ExecFailed, failure_of
from sampan.runtime.init import Setup
from sampan.runtime.messages import Console, Done, Forked, InitOrder, Ready, Start
from sampan.runtime.options import GIVEN_OPTION
from sampan.runtime.reaper import exit_code_of

_ORDERS: Final[wire.Codec[Start | Done]] = wire.Codec(InitOrder)
_NOWHERE = (0, 1, 2)
"""A shim's own standard streams: /dev/null."""
_MAX_LOG = 64 * 1024
_CONSOLE_SECONDS = 10
_UNIFIED = "/sys/fs/cgroup/unified"
_INITS = ("docker-init", "tini", "catatonit")
_INIT_PLACES = ("/usr/libexec/podman", "/usr/libexec/docker", "/usr/bin", "/usr/local/bin", "/usr/sbin")


class Program(msgspec.Struct, frozen=True):
    """The other runtime: its command, its state of this container, and a directory for what is exchanged with it."""

    command: tuple[str, ...]
    container_id: str
    state: str
    run_dir: str

    def words(self, action: str, *options: str) -> list[str]:
        log = ("--log", self.log, "--log-format", "json")
        return [*self.command, "--root", self.state, *log, action, *options, self.container_id]

    @property
    def log(self) -> str:
        return f"{self.run_dir}/runtime.log"

    @property
    def bundle(self) -> str:
        return f"{self.run_dir}/bundle"

    @property
    def pid_file(self) -> str:
        return f"{self.run_dir}/runtime.pid"

    def failure(self, code: int, executed: str = "") -> SampanError:
        """What it has logged last as an error. `executed`: the program that it was to execute."""
        return failure_from_log(_tail(self.log), executed) or Internal(
            f"{os.path.basename(self.command[0])} ended with exit code {code}"
        )


class Foreign(msgspec.Struct, frozen=True):
    """What another runtime is to make: a container by `spec`, complete with its system call filter, or `spec.process`
    as a further process in the one whose init is `target`."""

    program: Program
    spec: oci.Spec
    target: int = 0

    @property
    def executed(self) -> str:
        return (self.spec.process.args or ("",))[0] if self.spec.process is not None else ""


def call(command: Sequence[str], stdio: tuple[int, int, int] = _NOWHERE, *, own_mounts: bool = True) -> int:
    """Run a command to its end, with these standard streams and nothing else of ours; the exit code.

    `own_mounts`: in a mount namespace of its own (`enter_mounts`).
    """
    pid = os.fork()
    if pid == 0:
        try:
            if own_mounts:
                enter_mounts()
            os.umask(0o022)  # a shim's own keeps others out of everything: out of control groups too
            for target, source in enumerate(stdio):
                os.dup2(source, target, inheritable=True)
            os.execv(command[0], list(command))
        finally:
            os._exit(127)
    return exit_code_of(os.waitpid(pid, 0)[1])


def enter_mounts() -> None:
    """A mount namespace of the caller's own, in which what the host mounts is seen.

    An unused version 2 of control groups beside version 1 is covered: crun up to 1.8 refuses such hosts.
    """
    ns.unshare(ns.NEWNS)
    mount.set_root_propagation(mount.MS_SLAVE)
    try:
        with open(f"{_UNIFIED}/cgroup.subtree_control", encoding="ascii") as file:
            used = bool(file.read().strip())
    except FileNotFoundError:
        return
    if not used:
        libc.mount("sampan", _UNIFIED, "tmpfs", mount.MS_NOSUID | mount.MS_NODEV, "mode=700")


def failure_from_log(text: str, executed: str = "") -> SampanError | None:
    """From a log in runc's JSON lines; what it says of a program that can't be executed in runc's words. Pure."""
    message = ""
    for line in text.splitlines():
        try:
            entry = msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if isinstance(entry, dict) and entry.get("level") in ("error", "fatal") and entry.get("msg"):
            message = str(entry["msg"])
    message = re.sub(r"^((runc create|exec) failed: )?(unable to start container process: )?", "", message)
    named, said = f"exec: {quote(executed)}", message.lower()
    if "executable file" in said and "not found in $path" in said:
        return ExecFailed(f"{named}: executable file not found in $PATH", exit_code=NOT_FOUND)
    if re.search(r"exec.*no such file or directory$", said):
        return ExecFailed(f"{named}: stat {executed}: no such file or directory", exit_code=NOT_FOUND)
    if re.search(r"exec.*(permission denied|operation not permitted)$", said):
        return ExecFailed(f"{named}: permission denied", exit_code=NOT_EXECUTABLE)
    if re.search(r"exec.*(is a directory|exec format error)$", said):
        return ExecFailed(message, exit_code=NOT_EXECUTABLE)
    return Internal(message) if message else None


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MAX_LOG))
            return file.read(_MAX_LOG).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def drive(foreign: Foreign, setup: Setup, channel: socket.socket) -> NoReturn:
    """The driver's process. Failures go to the shim."""
    program = foreign.program
    try:
        enter_mounts()
        if foreign.target:
            _execute(foreign, setup, channel)
        else:
            _create(foreign, setup, channel)
        wire.send(channel, Ready())
        if isinstance(_ORDERS.receive(channel)[0], Start) and not foreign.target:
            code = call(program.words("start"), own_mounts=False)
            if code != 0:
                raise program.failure(code, foreign.executed)
    except BaseException as error:  # noqa: BLE001 - the border of the process: the shim reports it
        try:
            wire.send(channel, failure_of(error, "container runtime"))
        except SampanError:
            os._exit(2)
    os._exit(0)


def _create(foreign: Foreign, setup: Setup, channel: socket.socket) -> None:
    program = foreign.program
    root = setup.overlay.open() if setup.overlay is not None else setup.root
    if root < 0:
        raise Invalid("a container needs a root file system")
    os.makedirs(f"{program.bundle}/rootfs", mode=0o711, exist_ok=True)
    if os.path.isdir(program.state):
        # Its shim was killed, and nobody has told the runtime that this container is gone.
        call(program.words("delete", "--force"), own_mounts=False)
    if os.path.exists(program.log):
        os.unlink(program.log)  # of an earlier start: what it says is not about this one
    place = os.open(f"{program.bundle}/rootfs", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mount.attach(root, place, f"{program.bundle}/rootfs")
    spec = _with_given(foreign.spec, setup.given, f"{program.bundle}/given")
    with open(f"{program.bundle}/config.json", "wb") as file:
        file.write(oci.encode_spec(configuration(spec, setup, root, os.getpid())))
    _make_process(foreign, setup, channel, "create", "--bundle", program.bundle)


def _with_given(spec: oci.Spec, trees: tuple[int, ...], directory: str) -> oci.Spec:
    """The mounts that came with the request get places in our mount namespace, and the specification their paths."""
    mounts = []
    for one in spec.mounts:
        given = [option for option in one.options if option.startswith(f"{GIVEN_OPTION}=")]
        if not given:
            mounts.append(msgspec.structs.replace(one, options=_foreign_options(one)))
            continue
        number = int(given[0].partition("=")[2])
        place = f"{directory}/{number}"
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if stat.S_ISDIR(os.fstat(trees[number]).st_mode):
            os.makedirs(place, exist_ok=True)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600))
        target = os.open(place, os.O_PATH | os.O_CLOEXEC)
        mount.attach(trees[number], target, place)
        os.close(target)
        mounts.append(msgspec.structs.replace(one, source=place, options=_foreign_options(one)))
    return msgspec.structs.replace(spec, mounts=tuple(mounts))


def _foreign_options(one: oci.Mount) -> tuple[str, ...]:
    """Without those that only our own runtime knows, and without one that crun has for directories only."""
    useless = "rro" if one.source is not None and not os.path.isdir(one.source) else ""
    return tuple(option for option in one.options if not option.startswith("x-sampan-") and option != useless)


def _execute(foreign: Foreign, setup: Setup, channel: socket.socket) -> None:
    root = os.open(f"/proc/{foreign.target}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    path = f"{foreign.program.run_dir}/process.json"
    with open(path, "wb") as file:
        file.write(msgspec.json.encode(process_of(foreign.spec, setup, root)))
    _make_process(foreign, setup, channel, "exec", "--detach", "--process", path)


def _make_process(foreign: Foreign, setup: Setup, channel: socket.socket, action: str, *options: str) -> None:
    """Let the runtime make it; its pid and its terminal's master go to the shim."""
    program = foreign.program
    words = [*options, "--pid-file", program.pid_file]
    with socket.socket(socket.AF_UNIX) as consoles:
        terminal = foreign.spec.process is not None and foreign.spec.process.terminal
        if terminal:
            directory = os.open(program.run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            # By descriptor: run directories may be longer than a socket's address.
            path = f"/proc/{os.getpid()}/fd/{directory}/console.sock"
            consoles.bind(path)
            consoles.listen(1)
            words += ["--console-socket", path]
        stdio = setup.stdio or _NOWHERE
        code = call(program.words(action, *words), stdio, own_mounts=False)
        if code != 0:
            raise program.failure(code, foreign.executed)
        # The pipes end with the container's processes, not with us.
        wire.close_all(sorted({number for number in stdio if number > 2}))
        with open(program.pid_file, encoding="ascii") as file:
            wire.send(channel, Forked(int(file.read())))
        if terminal:
            wire.send(channel, Console(), (_received_console(consoles),))
            os.unlink(f"{program.run_dir}/console.sock")


def _received_console(listener: socket.socket) -> int:
    """The terminal's master, which the runtime has sent before it ended."""
    listener.settimeout(_CONSOLE_SECONDS)
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(_CONSOLE_SECONDS)
        _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
    if len(descriptors) != 1:
        raise Internal("the container's runtime did not send its terminal")
    return descriptors[0]


def process_of(spec: oci.Spec, setup: Setup, root: int) -> oci.Process:
    """The process with ids instead of names, and HOME. `root`: a descriptor of the container's root."""
    if spec.process is None:
        raise Invalid("a container needs a process")
    user = resolve_identity(root, spec.process, setup.user, setup.groups)
    environment = spec.process.env
    if not any(entry.startswith("HOME=") for entry in environment):
        environment = (*environment, f"HOME={user.home}")
    ids = msgspec.structs.replace(
        spec.process.user, uid=user.uid, gid=user.gid, additional_gids=user.additional_gids
    )
    return msgspec.structs.replace(
        spec.process, user=ids, env=environment, capabilities=attainable(spec.process.capabilities)
    )


def attainable(wanted: oci.Capabilities | None) -> oci.Capabilities | None:
    """What of the wanted capabilities this host has to give; to ask runc for others is an error."""
    if wanted is None:
        return None
    _, available, _ = capabilities.current()
    known = {name for number, name in enumerate(capabilities.NAMES) if available >> number & 1}
    sets = {
        field: tuple(name for name in getattr(wanted, field) if name in known)
        for field in oci.Capabilities.__struct_fields__
    }
    return oci.Capabilities(**sets)


def configuration(spec: oci.Spec, setup: Setup, root: int, pid: int) -> oci.Spec:
    """The configuration for another runtime, which looks nothing up: ids instead of names, namespaces by path.

    `root`: a descriptor of the root file system. `pid`: the process that holds the network namespace's descriptor.
    """
    wanted = process_of(spec, setup, root)
    args, mounts = wanted.args or (), spec.mounts
    if setup.reaping:
        args = ("/sbin/docker-init", "--", *args)
        mounts = (*mounts, oci.Mount("/sbin/docker-init", "bind", _init_program(), ("bind", "ro")))
    linux = spec.linux or oci.Linux()
    namespaces = linux.namespaces
    if setup.network >= 0:
        others = tuple(one for one in namespaces if one.type != "network")
        namespaces = (*others, oci.Namespace("network", f"/proc/{pid}/fd/{setup.network}"))
    return msgspec.structs.replace(
        spec,
        process=msgspec.structs.replace(wanted, args=args),
        root=oci.Root("rootfs", spec.root.readonly if spec.root is not None else False),
        mounts=mounts,
        linux=msgspec.structs.replace(linux, namespaces=namespaces),
    )


def _init_program() -> str:
    """A static init of the host's, as Docker takes it. Raises `Unsupported` when there is none."""
    for name in _INITS:
        for directory in _INIT_PLACES:
            if os.access(f"{directory}/{name}", os.X_OK):
                return f"{directory}/{name}"
    raise Unsupported(
        "--init with another runtime needs an init program on this host",
        hint=f"install one of {', '.join(_INITS)}",
    )
