"""`sampan build`: send the context, show what the engine says about the build."""

from __future__ import annotations

import os
import sys

from sampan.cli import registry_auth, units
from sampan.cli.build.asking import beyond_classic, require_sampan
from sampan.cli.build.attests import attests
from sampan.cli.build.ending import EndedBySignals
from sampan.cli.build.flags import FLAGS
from sampan.cli.build.in_place import request_in_place
from sampan.cli.build.modes import CLASSIC, mode_of
from sampan.cli.build.offers import Offering
from sampan.cli.build.refusals import refuse
from sampan.cli.build.result import Result, forget_old, write_iidfile, write_metadata
from sampan.cli.build_context import open_context
from sampan.cli.create import texts
from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Invocation
from sampan.cli.terminal import is_terminal
from sampan.client.codec import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from sampan.cli.build.calls import Call
    from sampan.cli.build.outputs import Outputs
    from sampan.cli.build_context import BuildContext
    from sampan.cli.flags import Values
    from sampan.client.api import Client


def _build_arguments(values: list[str], *, reproducible: bool = False) -> dict[str, str | None]:
    """NAME=value; NAME alone takes the value it has here, and none when it has none.

    SOURCE_DATE_EPOCH goes along when it is set, as buildx does it, and gives way to one that was given, be it empty;
    `--reproducible` sets it to 0 otherwise.
    """
    result: dict[str, str | None] = {}
    for text in values:
        name, equals, value = text.partition("=")
        result[name] = value if equals else os.environ.get(name)
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch and "SOURCE_DATE_EPOCH" not in result:
        result["SOURCE_DATE_EPOCH"] = epoch
    if reproducible and not result.get("SOURCE_DATE_EPOCH"):
        result["SOURCE_DATE_EPOCH"] = "0"
    return result


def _caches(flags: Values) -> tuple[str, str]:
    """Where caches come from and where they go, as JSON; "" for none."""
    if not (flags["cache-from"] or flags["cache-to"]):
        return "", ""
    from sampan.cli.build.caches import cache_sources, cache_targets

    sources, targets = cache_sources(flags), cache_targets(flags)
    return dumps(sources) if sources else "", dumps(targets) if targets else ""


def _contexts(values: list[str]) -> str:
    if not values:
        return ""
    from sampan.cli.build.named import named_contexts

    return dumps(named_contexts(values))


def _query(invocation: Invocation, context: BuildContext, mode: str) -> dict[str, Any]:
    flags = invocation.flags
    labels = texts.to_map(flags["label"])
    cache_from, cache_to = _caches(flags)
    arguments = _build_arguments(flags["build-arg"], reproducible=flags["reproducible"])
    config = registry_auth.load_config(registry_auth.config_path(invocation.options.config_directory))
    if "proxies" in config:
        from sampan.cli.build.proxies import with_proxies

        arguments = with_proxies(config, invocation.client().address.text, arguments)
    return {
        "t": flags["tag"],
        "dockerfile": context.dockerfile,
        "remote": context.remote,
        "dockerfilebody": bool(context.remote) and context.body is not None,
        "q": flags["quiet"] and mode == CLASSIC,
        "progress": "" if mode == CLASSIC else "rawjson",
        "nocache": flags["no-cache"],
        "attests": dumps(found) if (found := attests(flags)) else "",
        "explain": flags["explain"],
        "nocachefilter": ",".join(flags["no-cache-filter"]) or None,
        "hostca": ("1" if flags["host-ca"] else "0") if flags.changed("host-ca") else None,
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
        "entitlements": dumps(flags["allow"]) if flags["allow"] else "",
        "extrahosts": flags["add-host"],
        "securityopt": flags["security-opt"],
        "target": flags["target"],
        "platform": ",".join(flags["platform"]),
        "buildargs": dumps(arguments) if arguments else "",
        "labels": dumps(labels) if labels else "",
        "buildcontexts": _contexts(flags["build-context"]),
        "cachefrom": cache_from,
        "cacheto": cache_to,
        "ulimits": dumps(flags["ulimit"]) if flags["ulimit"] else "",
        "version": "1",
    }


def _build(invocation: Invocation) -> int:
    on_error = invocation.flags["on-error"]
    if not on_error:
        return _built(invocation)
    if on_error != "shell":
        raise Failure(f"invalid --on-error {on_error!r}: it is shell or nothing")
    if not (is_terminal(0) and is_terminal(1)):
        raise Failure("--on-error=shell needs a terminal", hint="`sampan build debug` works without one")
    from sampan.cli.build.failed import BuildFailed

    try:
        return _built(invocation)
    except BuildFailed as failed:
        if not failed.failure:
            raise
        from sampan.cli.build.shell import open_shell

        print(failed.message, file=sys.stderr)
        open_shell(invocation.client(), failed.failure, [])
        return failed.status


def _built(invocation: Invocation) -> int:
    flags = invocation.flags
    if flags["list-context"]:
        return _list_context(invocation.args[0], flags["file"], flags["format"])
    if flags["check"] or flags["call"]:
        from sampan.cli.build.calls import wanted_call

        if call := wanted_call(flags):
            return _answer(call, invocation)
    explained = _explained_as_json(flags)
    refuse(flags)
    outputs = _outputs(flags)
    out = sys.stderr if outputs is not None and outputs.to_stdout else sys.stdout
    context = open_context(invocation.args[0], flags["file"])
    forget_old(flags["iidfile"], flags["metadata-file"])
    headers = {"Content-Type": "application/x-tar"}
    logins = registry_auth.find_all(invocation.options.config_directory)
    headers["X-Registry-Config"] = registry_auth.encode_header(logins)
    mode = mode_of(flags["progress"], os.environ, quiet=flags["quiet"], terminal=is_terminal(2))
    client = invocation.client()
    if what := beyond_classic(flags):
        require_sampan(client, what)
    if context.remote and context.body is not None:
        require_sampan(client, "a Dockerfile for a context behind a URL")
    if (explained or flags["on-error"]) and mode == CLASSIC:
        mode = "plain"
    query = _query(invocation, context, mode)
    if outputs is not None:
        query["outputs"] = dumps(outputs.wire)
    offered = outputs.offers() if outputs is not None else {}
    with EndedBySignals(), Offering(client, flags, offered) as session:
        query["session"] = session
        shown = Shown(mode, out, flags["quiet"], flags["tag"], explained)
        result = _perform(client, query, headers, context, shown)
    write_iidfile(flags["iidfile"], result)
    if flags["metadata-file"]:
        write_metadata(flags["metadata-file"], result.metadata(flags["tag"]))
    return 0


class Shown:
    """How a build is shown: `mode` of `show`, `out` for what is no display, `names` of the image.

    `explained`: the reasons of `--explain` go to `out` as JSON, instead of the image's ID.
    """

    __slots__ = ("explained", "mode", "names", "out", "quiet")

    def __init__(self, mode: str, out: TextIO, quiet: bool, names: list[str], explained: bool) -> None:
        self.mode = mode
        self.out = out
        self.quiet = quiet or mode == "quiet"
        self.names = names
        self.explained = explained


def _perform(
    client: Client, query: dict[str, Any], headers: dict[str, str], context: BuildContext, shown: Shown
) -> Result:
    """Send the request and show the answer. Raises `Failure` when the build failed."""
    result = Result()
    response = request_in_place(client, context, query, headers)
    # What shows the build is loaded while the engine works on it already.
    from sampan.cli.build.classic import ClassicOutput, Sending
    from sampan.cli.build.show import Display, follow

    sending = Sending(shown.out, live=shown.mode == CLASSIC and not shown.quiet)
    with Display(shown.mode, os.environ) as display:
        counted = sending if context.body is not None and response is None else None
        classic = ClassicOutput(shown.out, counted, quiet=shown.quiet, begin=display.silence)
        if response is None:
            body = b"" if context.body is None else display.uploading(sending.pieces(context.body))
            response = client.request("POST", "/build", query, body, headers)
            display.uploaded()
        if shown.mode == CLASSIC:
            classic.start()
        try:
            follow(response, display, result.remember, classic)
        finally:  # also of a build that failed
            if shown.explained:
                from sampan.cli.build.explain import as_json

                print(dumps(as_json(display.steps, result.id)), file=shown.out)
        client.release(response)
    if shown.quiet:
        if not result.id and classic.last.startswith("sha256:"):
            result.id = classic.last
        if result.id and not shown.explained:
            print(result.id, file=shown.out)
    display.summary(result.id, shown.names)
    return result


def _explained_as_json(flags: Values) -> bool:
    if not (flags["format"] or flags["explain"]):
        return False
    from sampan.cli.build.explain import wants_json

    return wants_json(flags)


def _outputs(flags: Values) -> Outputs | None:
    """None: an image in the engine's store, as every engine does it."""
    if not (flags["output"] or flags["push"] or flags["annotation"]):
        return None
    from sampan.cli.build.outputs import parse_outputs

    return parse_outputs(flags)


def _answer(call: Call, invocation: Invocation) -> int:
    from sampan.cli.build import calls

    flags = invocation.flags
    sent = calls.question(invocation.args[0], flags["file"])
    arguments = _build_arguments(flags["build-arg"])
    query = {
        "call": call.name,
        "remote": sent.remote or None,
        "dockerfilebody": sent.alone or None,
        "dockerfile": sent.name,
        "target": flags["target"] or None,
        "platform": ",".join(flags["platform"]) or None,
        "buildargs": dumps(arguments) if arguments else None,
        "buildcontexts": _contexts(flags["build-context"]) or None,
    }
    logins = registry_auth.find_all(invocation.options.config_directory)
    headers = {"Content-Type": "application/x-tar", "X-Registry-Config": registry_auth.encode_header(logins)}
    return calls.ask(invocation.client(), call, sent, query, headers)


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
        print(f"{units.human_size(sent.size):>9}  {_on_a_line(sent.path)}")
    print(f"{units.human_size(listing.total):>9}  in all, {len(listing.sent)} files")
    if listing.left_out:
        print("\nLeft out:")
    for out in listing.left_out:
        print(harmless(f"  {_on_a_line(out.path)}  by {out.file}:{out.line}: {out.pattern}"))
    return 0


def _on_a_line(path: str) -> str:
    from sampan.cli.table import harmless

    return harmless(path).replace("\n", "?")


BUILD = Command(
    _build,
    "PATH | URL | -",
    FLAGS,
    minimum=1,
    maximum=1,
    aliases=("image build", "build", "builder build", "buildx build"),
)
