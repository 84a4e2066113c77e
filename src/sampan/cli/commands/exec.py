"""`sampan exec`."""

from __future__ import annotations

from sampan.cli.create import texts
from sampan.cli.failure import Failure, no_such
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.terminal import detach_keys
from sampan.client.api import ApiError, quote_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.client.api import Client


def _body(invocation: Invocation) -> dict[str, Any]:
    flags = invocation.flags
    try:
        variables = texts.read_environment(flags["env-file"], flags["env"])
    except ValueError as error:
        raise Failure(f"poorly formatted environment: {error}") from None
    except OSError as error:
        raise Failure(f"open {error.filename}: {(error.strerror or '').lower()}") from None
    body: dict[str, Any] = {
        "User": flags["user"],
        "Privileged": flags["privileged"],
        "Tty": flags["tty"],
        "AttachStdin": flags["interactive"] and not flags["detach"],
        "AttachStderr": not flags["detach"],
        "AttachStdout": not flags["detach"],
        "Detach": flags["detach"],
        "DetachKeys": detach_keys(invocation, terminal=flags["tty"])[0],
        "Env": variables or None,
        "WorkingDir": flags["workdir"],
        "Cmd": invocation.args[1:],
    }
    return body


def _exec(invocation: Invocation) -> int:
    flags, name = invocation.flags, invocation.args[0]
    client = invocation.client()
    body = _body(invocation)
    if flags["tty"] and not flags["detach"] and flags["interactive"]:
        from sampan.cli.terminal import is_terminal

        if not is_terminal(0):
            raise Failure("the input device is not a TTY")
    if flags["tty"] and not flags["detach"]:
        _add_console_size(body)
    try:
        answer = client.call("POST", f"/containers/{quote_path(name)}/exec", None, body)
    except ApiError as error:
        raise no_such("container", name, error) from None
    identity = answer.get("Id")
    if not identity:
        raise Failure("exec ID empty")
    if flags["detach"]:
        client.call("POST", f"/exec/{identity}/start", None, {"Detach": True, "Tty": flags["tty"]})
        return 0
    return _attached(invocation, client, identity)


def _add_console_size(body: dict[str, Any]) -> None:
    from sampan.cli.terminal import size

    rows, columns = size()
    if rows and columns:
        body["ConsoleSize"] = [rows, columns]


def _attached(invocation: Invocation, client: Client, identity: str) -> int:
    flags = invocation.flags
    tty = flags["tty"]
    body: dict[str, Any] = {"Detach": False, "Tty": tty}
    if tty:
        _add_console_size(body)
    hijacked = client.hijack(f"/exec/{identity}/start", None, body)
    # Imported while the engine makes the process.
    from sampan.cli.streams import Attachment, attached_signals, resizer
    from sampan.cli.terminal import size

    with attached_signals(proxy=False, tty=tty) as signals:
        resize = resizer(client, f"/exec/{identity}")
        if tty:
            resize(*size())
        attachment = Attachment(
            hijacked,
            tty=tty,
            stdin=flags["interactive"],
            detach_keys=detach_keys(invocation, terminal=tty)[1],
            on_resize=resize if tty else None,
        )
        if attachment.pump(signals) == "detached":
            raise Failure("read escape sequence")
    result = client.call("GET", f"/exec/{identity}/json")
    return int(result.get("ExitCode") or 0) & 0xFF


EXEC = Command(
    _exec,
    "CONTAINER COMMAND [ARG...]",
    (
        Flag("detach", "d", "bool", "Run the command in the background"),
        Flag("detach-keys", "", "string", "Keys that detach from the command"),
        Flag("env", "e", "list", "Set environment variables", check=texts.environment),
        Flag("env-file", "", "list", "Read environment variables from a file"),
        Flag("interactive", "i", "bool", "Keep STDIN open even if not attached"),
        Flag("privileged", "", "bool", "Give the command all privileges"),
        Flag("tty", "t", "bool", "Allocate a pseudo-TTY"),
        Flag("user", "u", "string", "User (and group) to run as: <name|uid>[:<group|gid>]"),
        Flag("workdir", "w", "string", "Working directory inside the container"),
    ),
    minimum=2,
    interspersed=False,
    aliases=("container exec", "exec"),
)
