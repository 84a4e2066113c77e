"""The command line of `sampan-runtime`: what runc and crun share. `cli` is the entry point."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from sampan.errors import Conflict, Invalid, NotFound, SampanError, Unsupported
from sampan.linux.cgroups import CgroupLimits
from sampan.oci.spec import Capabilities, Process, Resources, encode_spec
from sampan.runtime import operations
from sampan.runtime.arguments import parser
from sampan.runtime.documents import timestamp
from sampan.runtime.failure import describe
from sampan.runtime.state import StateStore

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
    try:
        arguments = parser().parse_args(argv)
    except SampanError as error:
        sys.stderr.write(f"sampan-runtime: {error}\n")
        return 1
    if arguments.command in ("create", "run", "exec"):
        from sampan.runtime.execute import forget_inherited_signals

        forget_inherited_signals()
    context = Context(arguments)
    try:
        return _ACTIONS[arguments.command](context)
    except SampanError as error:
        context.log.error(error.message + (f" ({error.hint})" if error.hint else ""))
    except OSError as error:
        context.log.error(f"{arguments.command}: {describe(error)}")
    return _EXEC_FAILED if arguments.command == "exec" else 1


def _create(context: Context) -> int:
    from sampan.runtime import creation

    a = context.arguments
    container, _ = creation.create(
        context.store,
        a.id,
        Path(a.bundle),
        creation.Manner(a.console_socket or "", not a.no_new_keyring, *preserved_descriptors(a.preserve_fds)),
        now_ns=time.time_ns(),
        trace=context.log.debug,
    )
    _write_pid_file(a.pid_file, container.record.pid)
    return 0


def _run(context: Context) -> int:
    from sampan.runtime import creation, foreground

    a = context.arguments
    preserved = preserved_descriptors(a.preserve_fds)
    console = creation.Manner(
        a.console_socket or ("" if a.detach else None), not a.no_new_keyring, *preserved
    )
    container, master = creation.create(
        context.store, a.id, Path(a.bundle), console, now_ns=time.time_ns(), trace=context.log.debug
    )
    try:
        _write_pid_file(a.pid_file, container.record.pid)
        operations.start(container, context.log.error)
    except BaseException:
        operations.delete(context.store, container, context.log.error, force=True)
        raise
    if a.detach:
        return 0
    code = foreground.wait(container.record.pid, master)
    if not a.keep:
        operations.delete(context.store, container, context.log.error, force=True)
    return code


def _start(context: Context) -> int:
    operations.start(context.store.load(context.arguments.id), context.log.error)
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
    operations.delete(context.store, container, context.log.error, force=a.force)
    return 0


def _exec(context: Context) -> int:
    from sampan.runtime import creation, foreground

    a = context.arguments
    container = context.store.load(a.id)
    process = _exec_process(a, container.spec().process or Process("/"))
    preserved = preserved_descriptors(a.preserve_fds)
    console = creation.Manner(a.console_socket or ("" if a.detach else None), True, *preserved)
    place = creation.ExecPlace(a.user, a.cgroup)
    spawned = creation.execute(context.store, container, process, console, place)
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
        selinux_label=a.process_label or base.selinux_label,
    )


def _ps(context: Context) -> int:
    a = context.arguments
    group = context.store.load(a.id).cgroup()
    pids = group.pids() if group is not None else []
    if a.format == "json":
        _print_json(pids)
        return 0
    import subprocess

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
    from sampan.runtime.defaultspec import default_spec

    path = Path(context.arguments.bundle) / "config.json"
    content = msgspec.json.format(encode_spec(default_spec()), indent=4)
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError as error:
        raise Invalid(f"File {path.name} exists. Remove it first") from error
    return 0


def _features(context: Context) -> int:
    from sampan.runtime.features import features

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
        from sampan.runtime.limits import limits_of

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
            cpu_burst=a.cpu_burst,
            cpu_rt_period=a.cpu_rt_period,
            cpu_rt_runtime=a.cpu_rt_runtime,
            cpu_idle=a.cpu_idle,
            cpuset_cpus=a.cpuset_cpus,
            cpuset_mems=a.cpuset_mems,
            pids=a.pids_limit,
            blkio_weight=a.blkio_weight,
        )
    operations.update(context.store.load(a.id), limits)
    return 0


def _events(context: Context) -> int:
    """Until the container ends; its end is an event of the kernel's (a pidfd)."""
    from sampan.runtime.statistics import stats_event

    a = context.arguments
    container = context.store.load(a.id)
    group = container.cgroup()
    if group is None or container.status == "stopped":
        raise Conflict("container not running")
    descriptor = os.pidfd_open(container.record.pid)
    while True:
        event = stats_event(container.record.id, group.stats())
        sys.stdout.write(msgspec.json.encode(event).decode() + "\n")
        sys.stdout.flush()
        if a.stats or select.select([descriptor], [], [], a.interval)[0]:
            return 0


def _refuse(context: Context) -> int:
    raise Unsupported(f"{context.arguments.command} is not supported by sampan-runtime")


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
        directory, name = os.path.split(path)
        # The directory may be writable for others, who could have put a link at a name they know.
        temporary = os.path.join(directory, f".{name}.{os.urandom(8).hex()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o644), "w", encoding="ascii") as file:
            file.write(str(pid))
        os.replace(temporary, path)


def preserved_descriptors(count: int) -> tuple[int, tuple[str, ...]]:
    """How many descriptors from 3 on the program gets: those of socket activation (sd_listen_fds(3)), then `count`;
    and the environment that tells it of the former.

    Raises `Invalid` for one that the caller has not given us.
    """
    if count < 0:
        raise Invalid(f"--preserve-fds {count}: it can't be negative")
    listening = _listening_descriptors()
    total = listening + count
    for number in range(3, 3 + total):
        try:
            given = os.get_inheritable(number)
        except OSError:
            given = False
        # What we have opened ourselves meanwhile is close-on-exec.
        if not given:
            raise Invalid(f"unable to stat preserved-fd {number - 3} (of {total}): it is not open")
    return total, (f"LISTEN_FDS={listening}", "LISTEN_PID=1") if listening else ()


def _listening_descriptors() -> int:
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return 0
    text = os.environ.get("LISTEN_FDS", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0


_ACTIONS: Final[dict[str, Action]] = {
    "create": _create,
    "run": _run,
    "start": _start,
    "state": _state,
    "kill": _kill,
    "delete": _delete,
    "exec": _exec,
    "ps": _ps,
    "list": _list,
    "spec": _spec,
    "features": _features,
    "pause": _pause,
    "resume": _resume,
    "update": _update,
    "events": _events,
    "checkpoint": _refuse,
    "restore": _refuse,
}
