"""`sampan build`: send the context, show what the engine says about the build."""

from __future__ import annotations

import os

from sampan.cli import registry_auth, units
from sampan.cli.build.classic import ClassicOutput, Sending
from sampan.cli.build.flags import FLAGS
from sampan.cli.build.refusals import refuse
from sampan.cli.build.result import Result, forget_old, write_iidfile, write_metadata
from sampan.cli.build.show import CLASSIC, Display, follow, mode_of
from sampan.cli.build_context import open_context
from sampan.cli.create import texts
from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Invocation
from sampan.cli.terminal import is_terminal
from sampan.client.codec import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _build_arguments(values: list[str]) -> dict[str, str | None]:
    """NAME=value; NAME alone takes the value it has here, and none when it has none."""
    result: dict[str, str | None] = {}
    for text in values:
        name, equals, value = text.partition("=")
        result[name] = value if equals else os.environ.get(name)
    return result


def _caches(values: list[str]) -> list[str]:
    """IMAGE,IMAGE are several; the commas of type=…,ref=… belong to it."""
    return [part for text in values for part in ([text] if "=" in text else text.split(","))]


def _query(invocation: Invocation, dockerfile: str, remote: str, mode: str) -> dict[str, Any]:
    flags = invocation.flags
    labels = texts.to_map(flags["label"])
    arguments = _build_arguments(flags["build-arg"])
    return {
        "t": flags["tag"],
        "dockerfile": dockerfile,
        "remote": remote,
        "q": flags["quiet"] and mode == CLASSIC,
        "progress": "" if mode == CLASSIC else "rawjson",
        "nocache": flags["no-cache"],
        "nocachefilter": ",".join(flags["no-cache-filter"]) or None,
        "hostca": flags["host-ca"] or None,
        "pull": flags["pull"],
        "rm": "1" if flags["rm"] else "0",
        "forcerm": flags["force-rm"],
        "memory": flags["memory"] or None,
        "memswap": flags["memory-swap"] or None,
        "shmsize": flags["shm-size"] or None,
        "cpushares": flags["cpu-shares"] or None,
        "cpuperiod": flags["cpu-period"] or None,
        "cpuquota": flags["cpu-quota"] or None,
        "cpusetcpus": flags["cpuset-cpus"],
        "cpusetmems": flags["cpuset-mems"],
        "cgroupparent": flags["cgroup-parent"],
        "networkmode": flags["network"],
        "extrahosts": flags["add-host"],
        "securityopt": flags["security-opt"],
        "target": flags["target"],
        "platform": ",".join(flags["platform"]),
        "buildargs": dumps(arguments) if arguments else "",
        "labels": dumps(labels) if labels else "",
        "cachefrom": dumps(_caches(flags["cache-from"])) if flags["cache-from"] else "",
        "cacheto": dumps(flags["cache-to"]) if flags["cache-to"] else "",
        "ulimits": dumps(flags["ulimit"]) if flags["ulimit"] else "",
        "version": "1",
    }


def _build(invocation: Invocation) -> int:
    flags = invocation.flags
    if flags["format"] and not flags["list-context"]:
        raise Failure("--format is for --list-context")
    if flags["list-context"]:
        return _list_context(invocation.args[0], flags["file"], flags["format"])
    refuse(flags)
    context = open_context(invocation.args[0], flags["file"])
    forget_old(flags["iidfile"], flags["metadata-file"])
    headers = {"Content-Type": "application/x-tar"}
    logins = registry_auth.find_all(invocation.options.config_directory)
    headers["X-Registry-Config"] = registry_auth.encode_header(logins)
    mode = mode_of(flags["progress"], os.environ, quiet=flags["quiet"], terminal=is_terminal(2))
    quiet = mode == "quiet" or flags["quiet"]
    client = invocation.client()
    query = _query(invocation, context.dockerfile, context.remote, mode)
    result = Result()
    sending = Sending(live=mode == CLASSIC and not quiet)
    with Display(mode, os.environ) as display:
        classic = ClassicOutput(sending if context.body else None, quiet=quiet, begin=display.silence)
        body = b"" if context.body is None else display.uploading(sending.pieces(context.body))
        response = client.request("POST", "/build", query, body, headers)
        display.uploaded()
        if mode == CLASSIC:
            classic.start()
        follow(response, display, result.remember, classic)
        client.release(response)
    if quiet:
        if not result.id and classic.last.startswith("sha256:"):
            result.id = classic.last
        print(result.id)
    display.summary(result.id, flags["tag"])
    write_iidfile(flags["iidfile"], result.id)
    write_metadata(flags["metadata-file"], result.metadata(flags["tag"]))
    return 0


def _list_context(place: str, dockerfile: str, form: str) -> int:
    from sampan.cli.list_context import list_context
    from sampan.cli.table import harmless

    if form not in ("", "json"):
        raise Failure(f"unknown format {form!r} of --list-context: it is json or nothing")
    listing = list_context(place, dockerfile)
    if form:
        print(dumps(listing.as_json()))
        return 0
    for sent in listing.sent:
        print(harmless(f"{units.human_size(sent.size):>9}  {sent.path}"))
    print(f"{units.human_size(listing.total):>9}  in all, {len(listing.sent)} files")
    if listing.left_out:
        print("\nLeft out:")
    for out in listing.left_out:
        print(harmless(f"  {out.path}  by {out.file}:{out.line}: {out.pattern}"))
    return 0


BUILD = Command(
    _build,
    "PATH | URL | -",
    FLAGS,
    minimum=1,
    maximum=1,
    aliases=("image build", "build", "builder build", "buildx build"),
)
