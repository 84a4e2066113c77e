"""`build --call`: asks the engine about a Dockerfile and prints the answer as BuildKit does."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from sampan.cli.build.asking import require_sampan
from sampan.cli.build_context import (
    ignore_file,
    is_remote,
    open_context,
    relative_dockerfile,
    remote_dockerfile,
    stdin_dockerfile,
)
from sampan.cli.failure import Failure
from sampan.cli.tarball import END, file_entry
from sampan.client.codec import loads, pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sampan.cli.flags import Values
    from sampan.client.api import Client

_TRUTH = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
_FORMATS = {
    "check": ("", "json", "sarif"),
    "lint": ("", "json", "sarif"),
    "outline": ("", "json"),
    "targets": ("", "json"),
}
_MAX_DOCKERFILE = 8 << 20


@dataclass(frozen=True)
class Call:
    name: str
    format: str = ""
    ignore_status: bool = False
    """End with 0 whatever was found."""


def wanted_call(flags: Values) -> Call | None:
    """What --call, --check and --format ask for; None: an ordinary build. Raises `Failure`."""
    call = parse_call(flags["call"])
    if flags["check"]:
        call = replace(call, name="check")
    if flags["format"] and call.name != "build":
        call = replace(call, format=flags["format"])
    if call.name == "build":
        return None
    if call.name not in _FORMATS:
        raise Failure(f"unknown call {call.name!r}", hint="one of build, " + ", ".join(_FORMATS))
    if call.format not in _FORMATS[call.name]:
        known = " or ".join(form for form in _FORMATS[call.name] if form)
        raise Failure(
            f"unknown format {call.format!r} of --call {call.name}", hint=f"{known}, or none for text"
        )
    return call


def parse_call(text: str) -> Call:
    """`NAME[,format=FORMAT][,ignorestatus=BOOL]`; errors in buildx's words."""
    call = Call("")
    for field in text.split(",") if text else ():
        key, equals, value = field.partition("=")
        if not equals and call.name:
            raise Failure(f"invalid print value: {text}")
        if not equals:
            call = replace(call, name=field)
        elif key == "format":
            call = replace(call, format=value)
        elif key == "ignorestatus" and value.lower() in _TRUTH:
            call = replace(call, ignore_status=_TRUTH[value.lower()])
        elif key == "ignorestatus":
            raise Failure(f"invalid ignorestatus print value: {value}")
        else:
            raise Failure(f"invalid print field: {field}")
    return replace(call, name=call.name or "build")


@dataclass(frozen=True)
class Question:
    """What is sent: `name` is the Dockerfile in it, `shown` what people call it."""

    body: Iterator[bytes]
    name: str
    shown: str
    remote: str = ""
    """A URL that the engine fetches."""
    alone: bool = False
    """The body is the Dockerfile itself."""


def question(place: str, dockerfile: str) -> Question:
    """The Dockerfile and the ignore file of a context alone; an archive on stdin as it is. Raises `Failure`."""
    if place == "-":
        context = open_context(place, dockerfile)
        name = context.dockerfile or "Dockerfile"
        return Question(context.body or iter(()), name, name)
    if not os.path.isdir(place):
        if is_remote(place):
            name, given = remote_dockerfile(dockerfile)
            name = name or "Dockerfile"
            return Question(iter(() if given is None else (given,)), name, name, place, given is not None)
        raise Failure(f'unable to prepare context: path "{place}" not found')
    root = os.path.realpath(place)
    found = ""
    if dockerfile == "-":
        name, shown, text = "Dockerfile", "Dockerfile", stdin_dockerfile()
    else:
        found = relative_dockerfile(root, dockerfile)
        path = os.path.join(root, found)
        with open(path, "rb") as file:
            text = file.read(_MAX_DOCKERFILE + 1)
        name = os.path.basename(found) if found.startswith("../") else found
        shown = path if os.path.isabs(dockerfile or place) else os.path.relpath(path)
    ignore, patterns = ignore_file(root, found)
    entries = [file_entry(name, text)]
    if ignore:
        # One beside a Dockerfile outside of the context goes along as that does.
        entries.append(file_entry(ignore if name == found else os.path.basename(ignore), patterns))
    return Question(iter([*entries, END]), name, shown)


def ask(client: Client, call: Call, sent: Question, query: dict[str, Any], headers: dict[str, str]) -> int:
    """Send the question, print the answer; the exit code. Raises `Failure` for a Dockerfile that can't be built."""
    require_sampan(client, "--check" if call.name == "check" else f"--call {call.name}")
    response = client.request("POST", "/build", query, sent.body, headers)
    result: dict[str, Any] = loads(client.finish(response))
    if call.name in ("check", "lint"):
        return _checked(call, result, sent.shown)
    from sampan.cli.build.outline import outline_text, targets_text

    if call.format:
        print(pretty(result, "  "))
    else:
        print(outline_text(result) if call.name == "outline" else targets_text(result), end="")
    return 0


def _checked(call: Call, result: dict[str, Any], shown: str) -> int:
    from sampan import __version__
    from sampan.cli.build import checks

    if call.format == "json":
        print(pretty(result, "  "))
    elif call.format == "sarif":
        place = os.path.relpath(shown) if os.path.isabs(shown) else shown
        print(pretty(checks.as_sarif(result, place, __version__), "  "))
    elif result["warnings"]:
        print(checks.summary(result))
        print(checks.as_text(result, shown))
    mistake = checks.mistake(result, shown)
    if mistake:
        raise Failure(mistake)
    if not result["warnings"] and not call.format:
        print(checks.summary(result))
    return 1 if result["warnings"] and not call.ignore_status else 0
