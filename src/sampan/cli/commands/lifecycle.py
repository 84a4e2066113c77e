"""Commands that do one thing to each container named: stop, restart, kill, pause, unpause, rm, wait, rename."""

from __future__ import annotations

import sys

from sampan.cli.failure import Exit, Failure, no_such
from sampan.cli.flags import Command, Flag, Invocation
from sampan.client.api import ApiError, quote_path
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def for_each(names: list[str], action: Callable[[str], Any], *, show: bool = True) -> int:
    """Do `action` to each name and print the name; failures are reported together at the end, exit code 1."""
    from sampan.cli.main import describe

    failures = []
    for name in names:
        try:
            action(name)
        except SampanError as error:
            failures.append(describe(error))
            continue
        if show:
            print(name, flush=True)
    if failures:
        sys.stdout.flush()
        print("\n".join(failures), file=sys.stderr)
        raise Exit(1)
    return 0


def _path(name: str, action: str) -> str:
    return f"/containers/{quote_path(name)}/{action}"


def _poster(action: str) -> Callable[[Invocation], int]:
    def run(invocation: Invocation) -> int:
        client = invocation.client()
        flags = invocation.flags
        query: dict[str, str | bool | int | list[str] | None] = {"signal": flags.get("signal", "")}
        for spelling in ("time", "timeout"):
            if flags.changed(spelling):
                query["t"] = str(flags[spelling])
        return for_each(invocation.args, lambda name: client.call("POST", _path(name, action), query))

    return run


def _rm(invocation: Invocation) -> int:
    client = invocation.client()
    flags = invocation.flags
    query = {"v": flags["volumes"], "force": flags["force"], "link": flags["link"]}

    def remove(name: str) -> None:
        cleaned = name.strip("/")
        if not cleaned:
            raise Failure("Container name cannot be empty")
        try:
            client.call("DELETE", f"/containers/{quote_path(cleaned)}", query)
        except ApiError as error:
            problem = error if flags["link"] else no_such("container", cleaned, error)
            if error.status != 404 or not flags["force"]:
                raise problem from None
            # What is to be forced away is away already.
            print(problem, file=sys.stderr)
            return
        print(name, flush=True)

    return for_each(invocation.args, remove, show=False)


def _wait(invocation: Invocation) -> int:
    client = invocation.client()

    def wait(name: str) -> None:
        answer = client.call("POST", _path(name, "wait"))
        error = answer.get("Error")
        if error and error.get("Message"):
            raise Failure(error["Message"])
        print(answer["StatusCode"], flush=True)

    return for_each(invocation.args, wait, show=False)


def _rename(invocation: Invocation) -> int:
    old, new = (name.strip() for name in invocation.args)
    if not old or not new:
        raise Failure("Error: Neither old nor new names may be empty")
    try:
        invocation.client().call("POST", _path(old, "rename"), {"name": new})
    except ApiError as error:
        print(f"Error response from daemon: {error.message}", file=sys.stderr)
        raise Failure(f"Error: failed to rename container named {old}") from None
    return 0


_MANY = "CONTAINER [CONTAINER...]"
_SIGNAL = Flag("signal", "s", "string", "Signal to send to the container")
_TIMEOUT = (
    Flag("time", "", "int", "Seconds to wait before killing the container", hidden=True),
    Flag("timeout", "t", "int", "Seconds to wait before killing the container"),
)


def _named(name: str) -> tuple[str, str]:
    return f"container {name}", name


STOP = Command(_poster("stop"), _MANY, (_SIGNAL, *_TIMEOUT), minimum=1, aliases=_named("stop"))
RESTART = Command(_poster("restart"), _MANY, (_SIGNAL, *_TIMEOUT), minimum=1, aliases=_named("restart"))
KILL = Command(_poster("kill"), _MANY, (_SIGNAL,), minimum=1, aliases=_named("kill"))
PAUSE = Command(_poster("pause"), _MANY, minimum=1, aliases=_named("pause"))
UNPAUSE = Command(_poster("unpause"), _MANY, minimum=1, aliases=_named("unpause"))
WAIT = Command(_wait, _MANY, minimum=1, aliases=_named("wait"))
RENAME = Command(_rename, "CONTAINER NEW_NAME", minimum=2, maximum=2, aliases=_named("rename"))
RM = Command(
    _rm,
    _MANY,
    (
        Flag("force", "f", "bool", "Kill running containers first"),
        Flag("link", "l", "bool", "Remove the link of this name instead"),
        Flag("volumes", "v", "bool", "Remove the container's anonymous volumes too"),
    ),
    minimum=1,
    aliases=("container rm", "container remove", "rm"),
)
