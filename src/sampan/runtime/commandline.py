"""The command line of `sampan-runtime`: what runc and crun share. `cli` is the entry point."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from sampan import __version__
from sampan.errors import Invalid, NotFound, SampanError
from sampan.linux.cgroups import CgroupLimits
from sampan.oci.spec import Capabilities, Process, Resources, encode_spec
from sampan.runtime import foreground, operations
from sampan.runtime.defaultspec import default_spec
from sampan.runtime.execute import forget_inherited_signals
from sampan.runtime.failure import describe
from sampan.runtime.features import features
from sampan.runtime.limits import limits_of
from sampan.runtime.operations import Manner
from sampan.runtime.shim import timestamp
from sampan.runtime.state import StateStore

DEFAULT_ROOT = "/run/sampan-runtime"
_EXEC_FAILED = 255


class Log:
    """`--log`, in runc's two formats; without a file errors go to standard error only."""

    def __init__(self, path: str, form: str, debug: bool) -> None:
        self._path = path
        self._form = form
        self._debug = debug

    def debug(self, message: str) -> None:
        if self._debug:
            self._write("debug", message)

    def error(self, message: str) -> None:
        self._write("error", message)
        if self._path:
            sys.stderr.write(f"{message}\n")

    def _write(self, level: str, message: str) -> None:
        now = timestamp(time.time_ns())
        if self._form == "json":
            line = msgspec.json.encode({"level": level, "msg": message, "time": now}).decode()
        elif self._path:
            line = f"time={msgspec.json.encode(now).decode()} level={level} msg={msgspec.json.encode(message).decode()}"
        else:
            line = f"sampan-runtime: {message}"
        if not self._path:
            sys.stderr.write(f"{line}\n")
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")


class Context:
    """The command line's values, and what every command needs."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.store = StateStore(Path(arguments.root).absolute())
        self.log = Log(arguments.log, arguments.log_format, arguments.debug)


Action = Callable[[Context], int]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.command in ("create", "run", "exec"):
        forget_inherited_signals()
    context = Context(arguments)
    try:
        action: Action = arguments.action
        return action(context)
    except SampanError as error:
        context.log.error(error.message + (f" ({error.hint})" if error.hint else ""))
    except OSError as error:
        context.log.error(f"{arguments.command}: {describe(error)}")
    return _EXEC_FAILED if arguments.command == "exec" else 1


def _create(context: Context) -> int:
    a = context.arguments
    _refuse_preserved(a.preserve_fds)
    container, _ = operations.create(
        context.store,
        a.id,
        Path(a.bundle),
        Manner(a.console_socket or "", not a.no_new_keyring),
        now_ns=time.time_ns(),
        trace=context.log.debug,
    )
    _write_pid_file(a.pid_file, container.record.pid)
    return 0


def _run(context: Context) -> int:
    a = context.arguments
    _refuse_preserved(a.preserve_fds)
    console = Manner(a.console_socket or ("" if a.detach else None), not a.no_new_keyring)
    container, master = operations.create(
        context.store, a.id, Path(a.bundle), console, now_ns=time.time_ns(), trace=context.log.debug
    )
    try:
        _write_pid_file(a.pid_file, container.record.pid)
        operations.start(container)
    except BaseException:
        operations.delete(context.store, container, force=True)
        raise
    if a.detach:
        return 0
    code = foreground.wait(container.record.pid, master)
    if not a.keep:
        operations.delete(context.store, container, force=True)
    return code


def _start(context: Context) -> int:
    operations.start(context.store.load(context.arguments.id))
    return 0


def _state(context: Context) -> int:
    _print_json(context.store.load(context.arguments.id).document())
    return 0


def _kill(context: Context) -> int:
    a = context.arguments
    operations.kill(context.store.load(a.id), signal_number(a.signal), everything=a.all)
    return 0


def _delete(context: Context) -> int:
    a = context.arguments
    try:
        container = context.store.load(a.id)
    except NotFound:
        if a.force:
            return 0
        raise
    operations.delete(context.store, container, force=a.force)
    return 0


def _exec(context: Context) -> int:
    a = context.arguments
    _refuse_preserved(a.preserve_fds)
    container = context.store.load(a.id)
    process = _exec_process(a, container.spec().process or Process("/"))
    console = Manner(a.console_socket or ("" if a.detach else None))
    spawned = operations.execute(context.store, container, process, console, a.user)
    _write_pid_file(a.pid_file, spawned.pid)
    return 0 if a.detach else foreground.wait(spawned.pid, spawned.console)


def _exec_process(a: argparse.Namespace, base: Process) -> Process:
    """From a file (`--process`), or the container's own process with what the flags change."""
    if a.process:
        try:
            return msgspec.json.decode(Path(a.process).read_bytes(), type=Process)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Invalid(f"malformed process file {a.process}: {error}") from error
    capabilities = base.capabilities or Capabilities()
    if a.cap:
        more = tuple(a.cap)
        capabilities = Capabilities(
            bounding=capabilities.bounding + more,
            effective=capabilities.effective + more,
            inheritable=capabilities.inheritable,
            permitted=capabilities.permitted + more,
            ambient=capabilities.ambient,
        )
    user = base.user
    if a.additional_gids:
        user = msgspec.structs.replace(user, additional_gids=tuple(a.additional_gids))
    return msgspec.structs.replace(
        base,
        args=tuple(a.args),
        cwd=a.cwd or base.cwd,
        env=base.env + tuple(a.env or ()),
        terminal=a.tty,
        user=user,
        capabilities=capabilities,
        no_new_privileges=a.no_new_privs or base.no_new_privileges,
        apparmor_profile=a.apparmor or base.apparmor_profile,
    )


def _ps(context: Context) -> int:
    a = context.arguments
    group = context.store.load(a.id).cgroup()
    pids = group.pids() if group is not None else []
    if a.format == "json":
        _print_json(pids)
        return 0
    listing = subprocess.run(
        ["ps", *(a.ps_options or ("-ef",))], stdout=subprocess.PIPE, text=True, check=False
    ).stdout.splitlines()
    if not listing:
        raise Invalid("ps printed nothing")
    titles = listing[0].split()
    if "PID" not in titles:
        raise Invalid("the options of ps must print the column PID")
    column = titles.index("PID")
    wanted = {str(pid) for pid in pids}
    rows = [line for line in listing[1:] if len(line.split()) > column and line.split()[column] in wanted]
    sys.stdout.write("".join(f"{line}\n" for line in (listing[0], *rows)))
    return 0


def _list(context: Context) -> int:
    a = context.arguments
    documents = [container.document() for container in context.store.containers()]
    if a.quiet:
        sys.stdout.write("".join(f"{document['id']}\n" for document in documents))
    elif a.format == "json":
        _print_json(documents)
    else:
        row = "{:<12}{:<12}{:<12}{:<40}{}\n".format
        sys.stdout.write(row("ID", "PID", "STATUS", "BUNDLE", "CREATED"))
        for d in documents:
            sys.stdout.write(row(d["id"] + " ", str(d["pid"]), d["status"], d["bundle"] + " ", d["created"]))
    return 0


def _spec(context: Context) -> int:
    path = Path(context.arguments.bundle) / "config.json"
    content = msgspec.json.format(encode_spec(default_spec()), indent=4)
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError as error:
        raise Invalid(f"File {path.name} exists. Remove it first") from error
    return 0


def _features(context: Context) -> int:
    _print_json(features())
    return 0


def _pause(context: Context) -> int:
    operations.pause(context.store.load(context.arguments.id), True)
    return 0


def _resume(context: Context) -> int:
    operations.pause(context.store.load(context.arguments.id), False)
    return 0


def _update(context: Context) -> int:
    a = context.arguments
    if a.resources:
        raw = sys.stdin.buffer.read() if a.resources == "-" else Path(a.resources).read_bytes()
        try:
            limits = limits_of(msgspec.json.decode(raw, type=Resources))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Invalid(f"malformed resources: {error}") from error
    else:
        limits = CgroupLimits(
            memory=a.memory,
            memory_swap=a.memory_swap,
            memory_reservation=a.memory_reservation,
            cpu_shares=a.cpu_share,
            cpu_quota=a.cpu_quota,
            cpu_period=a.cpu_period,
            cpuset_cpus=a.cpuset_cpus,
            cpuset_mems=a.cpuset_mems,
            pids=a.pids_limit,
            blkio_weight=a.blkio_weight,
        )
    operations.update(context.store.load(a.id), limits)
    return 0


def signal_number(text: str) -> int:
    """A number, or a name with or without SIG. Raises `Invalid`."""
    if text.isascii() and text.isdigit():
        number = int(text)
    else:
        name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
        number = int(getattr(signal.Signals, name, 0))
    if not 0 < number < signal.NSIG:
        raise Invalid(f"unknown signal {text!r}")
    return number


def _print_json(value: object) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def _write_pid_file(path: str | None, pid: int) -> None:
    if path:
        temporary = f"{path}.tmp"
        with open(temporary, "w", encoding="ascii") as file:
            file.write(str(pid))
        os.replace(temporary, path)


def _refuse_preserved(count: int) -> None:
    if count:
        raise Invalid("--preserve-fds is not supported: no descriptor of the caller gets into a container")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sampan-runtime", description="Runs containers of the OCI runtime-spec."
    )
    parser.add_argument("--root", default=DEFAULT_ROOT, help="directory of the containers' state")
    parser.add_argument("--log", default="", help="file for errors (and more with --debug)")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--debug", action="store_true", help="log the steps of making a container")
    parser.add_argument("--systemd-cgroup", action="store_true", help="accepted; groups are made directly")
    parser.add_argument("--rootless", default="auto", help="accepted and ignored")
    version = f"sampan-runtime version {__version__}\nspec: 1.0.2"
    parser.add_argument("--version", "-v", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, action: Action, text: str, *, container: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(action=action)
        if container:
            command.add_argument("id", metavar="CONTAINER")
        return command

    _add_making(add("create", _create, "create a container; its program waits for start"))
    run = add("run", _run, "create and start a container")
    _add_making(run)
    run.add_argument("--detach", "-d", action="store_true")
    run.add_argument("--keep", action="store_true", help="do not delete the container after its exit")
    add("start", _start, "start the program of a created container")
    add("state", _state, "print the state of a container")
    kill = add("kill", _kill, "send a signal to a container's init")
    kill.add_argument("signal", nargs="?", default="SIGTERM")
    kill.add_argument("--all", "-a", action="store_true", help="to all of its processes")
    delete = add("delete", _delete, "delete what a container holds")
    delete.add_argument("--force", "-f", action="store_true", help="kill it first when it still runs")
    _add_exec(add("exec", _exec, "execute a further process in a container"))
    ps = add("ps", _ps, "list the processes of a container")
    ps.add_argument("--format", "-f", choices=("table", "json"), default="table")
    ps.add_argument("ps_options", nargs=argparse.REMAINDER)
    listing = add("list", _list, "list containers", container=False)
    listing.add_argument("--format", "-f", choices=("table", "json"), default="table")
    listing.add_argument("--quiet", "-q", action="store_true")
    spec = add("spec", _spec, "write a configuration to start from", container=False)
    spec.add_argument("--bundle", "-b", default=".")
    add("features", _features, "print what this runtime offers", container=False)
    add("pause", _pause, "suspend all processes of a container")
    add("resume", _resume, "resume all processes of a container")
    _add_update(add("update", _update, "change the limits of a container"))
    return parser


def _add_making(command: argparse.ArgumentParser) -> None:
    command.add_argument("--bundle", "-b", default=".", help="directory with config.json")
    command.add_argument("--console-socket", help="socket that gets the terminal's master")
    command.add_argument("--pid-file")
    command.add_argument("--no-pivot", action="store_true", help=argparse.SUPPRESS)
    command.add_argument("--no-new-keyring", action="store_true", help="keep the session keyring")
    command.add_argument("--preserve-fds", type=int, default=0, help="only 0 is possible")
    command.add_argument("--no-subreaper", action="store_true", help=argparse.SUPPRESS)


def _add_exec(command: argparse.ArgumentParser) -> None:
    command.add_argument("--console-socket")
    command.add_argument("--cwd")
    command.add_argument("--env", "-e", action="append")
    command.add_argument("--tty", "-t", action="store_true")
    command.add_argument("--user", "-u")
    command.add_argument("--additional-gids", "-g", type=int, action="append")
    command.add_argument("--process", "-p", help="file with the process as JSON")
    command.add_argument("--detach", "-d", action="store_true")
    command.add_argument("--pid-file")
    command.add_argument("--apparmor")
    command.add_argument("--no-new-privs", action="store_true")
    command.add_argument("--cap", "-c", action="append")
    command.add_argument("--preserve-fds", type=int, default=0)
    command.add_argument("args", nargs=argparse.REMAINDER, metavar="COMMAND")


def _add_update(command: argparse.ArgumentParser) -> None:
    command.add_argument("--resources", "-r", help="file with the resources as JSON, - for standard input")
    for flag in ("memory", "memory-swap", "memory-reservation", "cpu-share", "cpu-quota", "cpu-period"):
        command.add_argument(f"--{flag}", type=int)
    command.add_argument("--pids-limit", type=int)
    command.add_argument("--blkio-weight", type=int)
    command.add_argument("--cpuset-cpus")
    command.add_argument("--cpuset-mems")
