"""The arguments of `sampan-runtime`: what runc and crun share."""

from __future__ import annotations

import argparse
import re

from sampan import __version__
from sampan.errors import Invalid

DEFAULT_ROOT = "/run/sampan-runtime"
SPEC_VERSION = "1.2.0"

_SIZE = re.compile(r"(-?\d+)([kmgtp]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_POWERS = {letter: 1024**power for power, letter in enumerate(("", "k", "m", "g", "t", "p"))}


def seconds(text: str) -> float:
    """A duration such as 5s or 250ms. Raises `Invalid`."""
    found = _DURATION.fullmatch(text)
    if found is None or float(found[1]) <= 0:
        raise Invalid(f"invalid duration: {text!r}")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def size(text: str) -> int:
    """Bytes, with one of the units k, m, g, t, p if need be. Raises `Invalid`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise Invalid(f"invalid size: {text!r}")
    power: int = _POWERS[found[2].lower()]
    return int(found[1]) * power


class _Formatter(argparse.HelpFormatter):
    """Made for every argument that is added: it must not look for a terminal each time."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)


def parser() -> argparse.ArgumentParser:
    """Every command sets `command`."""
    parser = argparse.ArgumentParser(
        prog="sampan-runtime",
        description="Runs containers of the OCI runtime-spec.",
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    parser.add_argument("--root", default=DEFAULT_ROOT, help="directory of the containers' state")
    parser.add_argument("--log", default="", help="file for errors (and more with --debug)")
    parser.add_argument("--log-format", choices=("text", "json"), default="text")
    parser.add_argument("--debug", action="store_true", help="log the steps of making a container")
    parser.add_argument("--systemd-cgroup", action="store_true", help="accepted; groups are made directly")
    parser.add_argument("--rootless", default="auto", help="accepted and ignored")
    parser.add_argument("--criu", help=argparse.SUPPRESS)
    version = f"sampan-runtime version {__version__}\nspec: {SPEC_VERSION}"
    parser.add_argument("--version", "-v", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *, container: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=text, allow_abbrev=False, formatter_class=_Formatter
        )
        if container:
            command.add_argument("id", metavar="CONTAINER")
        return command

    _add_making(add("create", "create a container; its program waits for start"))
    run = add("run", "create and start a container")
    _add_making(run)
    run.add_argument("--detach", "-d", action="store_true")
    run.add_argument("--keep", action="store_true", help="do not delete the container after its exit")
    add("start", "start the program of a created container")
    add("state", "print the state of a container")
    kill = add("kill", "send a signal to a container's init")
    kill.add_argument("signal", nargs="?", default="SIGTERM")
    kill.add_argument("--all", "-a", action="store_true", help="to all of its processes")
    delete = add("delete", "delete what a container holds")
    delete.add_argument("--force", "-f", action="store_true", help="kill it first when it still runs")
    _add_exec(add("exec", "execute a further process in a container"))
    ps = add("ps", "list the processes of a container")
    ps.add_argument("--format", "-f", choices=("table", "json"), default="table")
    ps.add_argument("ps_options", nargs=argparse.REMAINDER)
    listing = add("list", "list containers", container=False)
    listing.add_argument("--format", "-f", choices=("table", "json"), default="table")
    listing.add_argument("--quiet", "-q", action="store_true")
    spec = add("spec", "write a configuration to start from", container=False)
    spec.add_argument("--bundle", "-b", default=".")
    add("features", "print what this runtime offers", container=False)
    add("pause", "suspend all processes of a container")
    add("resume", "resume all processes of a container")
    _add_update(add("update", "change the limits of a container"))
    events = add("events", "print a container's figures again and again, until it ends")
    events.add_argument("--interval", type=seconds, default=5.0, help="between two of them (5s)")
    events.add_argument("--stats", action="store_true", help="print them once")
    for name in ("checkpoint", "restore"):
        refused = add(name, "refused: not supported")
        refused.add_argument("rest", nargs=argparse.REMAINDER)
    return parser


def _add_making(command: argparse.ArgumentParser) -> None:
    command.add_argument("--bundle", "-b", default=".", help="directory with config.json")
    command.add_argument("--console-socket", help="socket that gets the terminal's master")
    command.add_argument("--pid-file")
    command.add_argument("--no-pivot", action="store_true", help=argparse.SUPPRESS)
    command.add_argument("--no-new-keyring", action="store_true", help="keep the session keyring")
    command.add_argument("--preserve-fds", type=int, default=0, help="pass on descriptors 3 to 2+N")
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
    command.add_argument("--process-label", help="SELinux label of the process")
    command.add_argument("--ignore-paused", action="store_true", help=argparse.SUPPRESS)
    command.add_argument("--cgroup", default="", help="a control group below the container's")
    command.add_argument("--preserve-fds", type=int, default=0, help="pass on descriptors 3 to 2+N")
    command.add_argument("args", nargs=argparse.REMAINDER, metavar="COMMAND")


def _add_update(command: argparse.ArgumentParser) -> None:
    command.add_argument("--resources", "-r", help="file with the resources as JSON, - for standard input")
    for flag in ("memory", "memory-swap", "memory-reservation", "kernel-memory", "kernel-memory-tcp"):
        # The kernel has no limit of its own for its memory any more (Linux 5.16): accepted, as in runc.
        command.add_argument(f"--{flag}", type=size, metavar="BYTES")
    for flag in (
        "cpu-share", "cpu-quota", "cpu-period", "cpu-burst", "cpu-rt-period", "cpu-rt-runtime", "cpu-idle",
        "pids-limit", "blkio-weight",
    ):  # fmt: skip
        command.add_argument(f"--{flag}", type=int)
    command.add_argument("--cpuset-cpus")
    command.add_argument("--cpuset-mems")
