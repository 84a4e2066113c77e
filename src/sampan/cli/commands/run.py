"""`sampan run` and `sampan create`.

`run` needs few requests: create, attach (hijacked, on a connection of its own), wait (sent before the start, so
that no exit is missed), start. Plain requests share one connection.
"""

from __future__ import annotations

import os
import sys

from sampan.cli.create.body import build_body
from sampan.cli.create.flags import CREATE_FLAGS
from sampan.cli.failure import USAGE_STATUS, Exit, Failure
from sampan.cli.flags import Command, Flag, Invocation
from sampan.client.api import ApiError
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.client.api import Client
    from sampan.client.connection import Connection

_NOT_FOUND_WORDS = (
    "executable file not found",
    "no such file or directory",
    "system cannot find the file specified",
)
_PULL_WORDS = ("No such image", "does not match the specified platform")
_DENIED_WORDS = ("permission denied", "is a directory", "not a directory")
_NOT_FOUND_STATUS = 127
_DENIED_STATUS = 126
_PLAIN_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-/:@")


def _prepare(invocation: Invocation) -> dict[str, Any]:
    """The request's body. Raises `Failure` with what is wrong with the flags."""
    flags, image = invocation.flags, invocation.args[0]
    if not image or not _PLAIN_NAME.issuperset(image):
        from sampan.oci.reference import parse_reference

        try:
            parse_reference(image)
        except SampanError as error:
            raise Failure(error.message) from None
    for name in ("cpu-count", "cpu-percent", "io-maxbandwidth", "io-maxiops"):
        if flags.changed(name):
            words = "is only supported on a Docker daemon running on windows, but the Docker daemon is running on linux"
            print(f'"--{name}" {words}', file=sys.stderr)
            raise Exit(1)
    try:
        return build_body(flags, image, invocation.args[1:])
    except ValueError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(f"open {error.filename}: {(error.strerror or '').lower()}") from None


def _create(invocation: Invocation, body: dict[str, Any]) -> str:
    """Create the container, pulling the image when it is missing, and return its ID."""
    flags, image = invocation.flags, invocation.args[0]
    client = invocation.client()
    policy = flags["pull"]
    if policy not in ("always", "missing", "never", ""):
        raise Failure(f'invalid pull option: \'{policy}\': must be one of "always", "missing" or "never"')
    if flags["oom-kill-disable"] and not flags["memory"]:
        warning = (
            "Disabling the OOM killer on containers without setting a '-m/--memory' limit may be dangerous."
        )
        print(f"WARNING: {warning}", file=sys.stderr)
    endpoints = (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
    if any(endpoint.get("GwPriority") for endpoint in endpoints.values()):
        client.require("1.48", "gw-priority")
    cidfile = _claim_cidfile(flags["cidfile"])
    try:
        if policy == "always":
            _pull(invocation, image)
        query = {"name": flags["name"], "platform": flags["platform"]}
        try:
            answer = client.call("POST", "/containers/create", query, body)
        except ApiError as error:
            if (
                error.status != 404
                or policy == "never"
                or not any(words in error.message for words in _PULL_WORDS)
            ):
                raise
            print(f"Unable to find image '{_familiar(image)}' locally", file=sys.stderr)
            _pull(invocation, image)
            answer = client.call("POST", "/containers/create", query, body)
    except BaseException:
        if cidfile:
            os.unlink(cidfile)
        raise
    for warning in answer.get("Warnings") or ():
        print(f"WARNING: {warning}", file=sys.stderr)
    identity: str = answer["Id"]
    if cidfile:
        with open(cidfile, "w", encoding="ascii") as file:
            file.write(identity)
    return identity


def _claim_cidfile(path: str) -> str:
    if not path:
        return ""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except FileExistsError:
        raise Failure(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        ) from None
    except OSError as error:
        raise Failure(
            f"failed to create the container ID file: open {path}: {(error.strerror or '').lower()}"
        ) from None
    return path


def _familiar(image: str) -> str:
    from sampan.oci.reference import parse_reference

    return parse_reference(image).with_default_tag().familiar


def _pull(invocation: Invocation, image: str) -> None:
    from sampan.cli.commands.pull import pull_image

    flags = invocation.flags
    pull_image(invocation, image, platform=flags["platform"], quiet=flags["quiet"], out=sys.stderr)


def _create_command(invocation: Invocation) -> int:
    try:
        body = _prepare(invocation)
    except Failure as error:
        raise _reported("create", error, with_help=True) from None
    print(_create(invocation, body))
    return 0


def _reported(name: str, error: SampanError, *, with_help: bool) -> Failure:
    """The failure of a run as Docker words it: the program's name in front, a full stop, exit code 125."""
    from sampan.cli.main import describe

    text = describe(error).removesuffix(".") + "."
    if with_help:
        text += f"\nSee 'sampan {name} --help'."
    return Failure(f"sampan: {text}", USAGE_STATUS)


def _run(invocation: Invocation) -> int:
    flags = invocation.flags
    try:
        body = _prepare(invocation)
    except Failure as error:
        raise _reported("run", error, with_help=True) from None
    if flags["detach"]:
        _detach(body, flags["attach"])
    else:
        _check_terminal(body)
        if flags["detach-keys"]:
            from sampan.cli.terminal import detach_keys

            detach_keys(invocation, terminal=False)  # a mistake in them is to leave no container behind
    for server in flags["dns"]:
        if server.startswith("127.") or server == "::1":
            words = f"Localhost DNS setting (--dns={server}) may fail in containers."
            print(f"WARNING: {words}", file=sys.stderr)
    try:
        identity = _create(invocation, body)
    except SampanError as error:
        raise _reported("run", error, with_help=True) from None
    client = invocation.client()
    attached = any(body[f"Attach{name}"] for name in ("Stdin", "Stdout", "Stderr"))
    if not attached:
        _start(client, identity)
        print(identity)
        return 0
    return _run_attached(invocation, client, identity, body)


def _detach(body: dict[str, Any], attach: list[str]) -> None:
    if attach:
        raise Failure("Conflicting options: -a and -d")
    body.update(AttachStdin=False, AttachStdout=False, AttachStderr=False, StdinOnce=False)


def _check_terminal(body: dict[str, Any]) -> None:
    from sampan.cli.terminal import is_terminal, size

    if body["Tty"] and body["AttachStdin"] and not is_terminal(0):
        raise Failure("the input device is not a TTY")
    if body["Tty"]:
        body["HostConfig"]["ConsoleSize"] = list(size())


def _start(client: Client, identity: str) -> None:
    """Start it. Raises `Failure` with the exit code of what kept the command from running."""
    try:
        client.call("POST", f"/containers/{identity}/start")
    except SampanError as error:
        failure = _reported("run", error, with_help=False)
        failure.status = start_status(error.message)
        raise failure from None


def start_status(message: str) -> int:
    """127 for a command that is not there, 126 for one that may not run, 125 for anything else."""
    if any(words in message for words in _NOT_FOUND_WORDS):
        return _NOT_FOUND_STATUS
    if any(words in message for words in _DENIED_WORDS):
        return _DENIED_STATUS
    return USAGE_STATUS


def _run_attached(invocation: Invocation, client: Client, identity: str, body: dict[str, Any]) -> int:
    from sampan.cli.streams import Attachment, attached_signals, forwarder, resizer
    from sampan.cli.terminal import detach_keys, size

    flags = invocation.flags
    tty = body["Tty"]
    keys_text, keys = detach_keys(invocation, terminal=tty)
    query = {
        "stream": True,
        "stdin": body["AttachStdin"],
        "stdout": body["AttachStdout"],
        "stderr": body["AttachStderr"],
        "detachKeys": keys_text,
    }
    proxy = flags["sig-proxy"] and not tty
    with attached_signals(proxy=proxy, tty=tty) as signals:
        hijacked = client.hijack(f"/containers/{identity}/attach", query)
        condition = "removed" if flags["rm"] else "next-exit"
        waiting = client.begin("POST", f"/containers/{identity}/wait", {"condition": condition})
        resize = resizer(client, f"/containers/{identity}")
        attachment = Attachment(
            hijacked,
            tty=tty,
            stdin=body["AttachStdin"],
            detach_keys=keys,
            on_signal=forwarder(client, identity) if proxy else _leave,
            on_resize=resize if tty else None,
        )
        try:
            _start(client, identity)
        except Failure:
            hijacked.close()
            if flags["rm"]:
                _await_removal(client, waiting)
            raise
        if tty:
            resize(*size())
        if attachment.pump(signals) == "detached":
            return 0
        if not (body["AttachStdout"] or body["AttachStderr"]):
            print(identity)
        return exit_status(client, waiting, identity)


def _leave(number: int) -> None:
    raise Exit(128 + number)


def _await_removal(client: Client, waiting: Connection) -> None:
    try:
        client.settle(waiting)
    except (SampanError, OSError):
        return  # the start's own failure is what is reported


def exit_status(client: Client, waiting: Connection, identity: str) -> int:
    """The exit code out of the answer to a wait request.

    An attached container outlives its engine: when that ended meanwhile, its successor is asked.
    """
    try:
        answer = client.settle(waiting) or {}
    except OSError:
        client.close()
        try:
            answer = client.call("POST", f"/containers/{identity}/wait") or {}
        except SampanError as error:
            print(f"error waiting for container: {error}", file=sys.stderr)
            return USAGE_STATUS
    problem = (answer.get("Error") or {}).get("Message")
    if problem:
        print(f"error waiting for container: {problem}", file=sys.stderr)
        return USAGE_STATUS
    return int(answer.get("StatusCode", 0)) & 0xFF


_RUN_FLAGS = (
    *CREATE_FLAGS,
    Flag("detach", "d", "bool", "Run in the background and print the container's ID"),
    Flag("detach-keys", "", "string", "Keys that detach from the container"),
    Flag("sig-proxy", "", "bool", "Pass signals on to the process", default=True),
)
_USAGE = "IMAGE [COMMAND] [ARG...]"
RUN = Command(_run, _USAGE, _RUN_FLAGS, minimum=1, interspersed=False, aliases=("container run", "run"))
CREATE = Command(
    _create_command,
    _USAGE,
    CREATE_FLAGS,
    minimum=1,
    interspersed=False,
    aliases=("container create", "create"),
)
