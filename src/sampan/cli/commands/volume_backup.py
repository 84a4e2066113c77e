"""`sampan volume backup` and `restore`."""

from __future__ import annotations

import os
import sys

from sampan.cli import registry_auth, units
from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.listing import TEMPLATE_HELP, render_rows
from sampan.cli.progress import ProgressDisplay
from sampan.cli.template_functions import Record
from sampan.cli.volume_archive import (
    STDOUT_STREAM,
    BackupFile,
    Place,
    frames,
    in_order,
    is_ours,
    parse_place,
    upload,
)
from sampan.client.api import quote_path
from sampan.client.codec import dumps, loads
from sampan.oci.reference import parse_reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, BinaryIO

    from sampan.client.connection import Response

_BULK = 1 << 20
"""Bytes of an archive that are taken at a time."""
STILL_FLAGS = (
    Flag("changed", "", "string", "What to do when files change while they are read: 'fail' or 'warn'"),
    Flag("pause", "", "bool", "Pause the containers that use the volume while it is read"),
    Flag("stop", "", "bool", "Stop the containers that use the volume, and start them again afterwards"),
)
FORMAT_FLAG = Flag("format", "", "string", TEMPLATE_HELP)
QUIET_FLAG = Flag("quiet", "q", "bool", "Show no progress")


def still_query(flags: Any) -> dict[str, str]:
    """Raises `Failure` for flags that contradict each other."""
    if flags["pause"] and flags["stop"]:
        raise Failure("conflicting options: --pause and --stop")
    return {
        "users": "pause" if flags["pause"] else "stop" if flags["stop"] else "",
        "changed": flags["changed"],
    }


class Shown:
    """Progress on standard error, when that is a terminal; the result, and what to warn of."""

    def __init__(self, flags: Any) -> None:
        self._display = (
            ProgressDisplay(sys.stderr) if sys.stderr.isatty() and not flags.get("quiet") else None
        )
        self.result: dict[str, Any] = {}

    def take(self, message: dict[str, Any]) -> None:
        """Raises `Failure` for a message that reports an error."""
        if message.get("errorDetail") or message.get("error"):
            ProgressDisplay(sys.stderr).show(message)
        if "aux" in message:
            self.result = message["aux"]
        elif self._display is not None:
            self._display.show(message)

    def take_all(self, messages: Iterable[dict[str, Any]], *, bars: bool = True) -> dict[str, Any]:
        """`bars`: False when progress has been shown already."""
        for message in messages:
            if bars or not message.get("progressDetail"):
                self.take(message)
        if not self.result:
            raise Failure("the engine broke off before it had told how it ended")
        return self.result


def print_result(result: dict[str, Any], template: str, text: str, *, out: Any = None) -> None:
    out = out or sys.stdout
    if template == "json":
        out.write(dumps(result) + "\n")
    elif template:
        row = Record("result", {name: _giving(value) for name, value in result.items()})
        out.write(render_rows([row], template)[0] + "\n")
    elif text:
        out.write(text + "\n")
    out.flush()


def _giving(value: Any) -> Any:
    return lambda: value


def credentials_header(invocation: Invocation, reference: str) -> str:
    domain = parse_reference(reference).domain
    return registry_auth.find(invocation.options.config_directory, domain).header()


def registries_header(invocation: Invocation, domains: set[str]) -> dict[str, str]:
    """The credentials for several registries."""
    if not domains:
        return {}
    directory = invocation.options.config_directory
    known = {domain: registry_auth.find(directory, domain).as_json() for domain in sorted(domains)}
    return {"X-Registry-Config": registry_auth.encode_header(known)}


# Backup


def _backup(invocation: Invocation) -> int:
    flags = invocation.flags
    name, place = invocation.args[0], parse_place(invocation.args[1])
    if place.kind == "snapshot":
        place = Place("file", place.text)
    query: dict[str, Any] = still_query(flags)
    client = invocation.client()
    is_ours(client)
    headers: dict[str, str] = {}
    body = b""
    if flags["base"]:
        base = parse_place(flags["base"])
        if base.kind in ("file", "stream"):
            body = _manifest_of(base)
        else:
            query["base"] = base.query
        if base.kind == "registry":
            headers["X-Base-Registry-Auth"] = credentials_header(invocation, base.text)
    path = f"/volumes/{quote_path(name)}/backup"
    shown = Shown(flags)
    if place.kind == "registry":
        query["to"] = parse_reference(place.text).familiar
        headers["X-Registry-Auth"] = credentials_header(invocation, place.text)
        response = client.request("POST", path, query, body, headers)
        result = shown.take_all(client.messages(response))
        where = result.get("Reference", place.text)
    else:
        _check_output(place)
        response = client.request("POST", path, query, body, headers)
        result = shown.take_all(_received(response, place))
        where = place.text
    for changed in result.get("ChangedFiles") or []:
        print(f"WARNING: {changed!r} changed while it was read", file=sys.stderr)
    text = (
        f"{where}: backup {result['Id'][:12]} of volume {result['Volume']}, {_count(result['Files'], 'file')}, "
        f"{units.human_size(result['Size'])}"
    )
    if result.get("Base"):
        text += f", of which {units.human_size(result['StoredSize'])} are new"
    to_stdout = place.kind == "stream"
    print_result(result, flags["format"], text, out=sys.stderr if to_stdout else None)
    return 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _manifest_of(place: Place) -> bytes:
    if place.kind == "stream":
        raise Failure("the base of a backup has to be a file that can be read from its end")
    file = BackupFile(place.text)
    try:
        return file.manifest()
    finally:
        file.close()


def _check_output(place: Place) -> None:
    if place.kind == "stream":
        if os.isatty(1):
            raise Failure("cowardly refusing to write a backup to a terminal. Name a file or redirect")
        return
    directory = os.path.dirname(place.text) or "."
    if not os.path.isdir(directory):
        raise Failure(f'invalid output path: directory "{directory}" does not exist')
    if os.path.isdir(place.text):
        raise Failure(f'invalid output path: "{place.text}" must be a regular file')


def _received(response: Response, place: Place) -> Iterator[dict[str, Any]]:
    """Write the archive where it belongs; the messages that come along. A file appears when it is complete."""
    if place.kind == "stream":
        yield from _written(response, 1)
        return
    if os.path.exists(place.text) and not os.path.isfile(place.text):
        with open(place.text, "wb", buffering=0) as device:
            yield from _written(response, device.fileno())
        return
    from sampan.cli.replacing import Replacing

    with Replacing(place.text, 0o600) as descriptor:
        done = False
        for message in _written(response, descriptor):
            if message.get("error"):
                raise Failure(str(message["error"]))
            done = done or "aux" in message
            yield message
        if not done:
            raise Failure("the engine broke off before the backup was complete")
        os.fsync(descriptor)


def _written(response: Response, descriptor: int) -> Iterator[dict[str, Any]]:
    from sampan.cli.streams import write_all

    for stream, data in frames(response.chunks(_BULK)):
        if stream == STDOUT_STREAM:
            write_all(descriptor, data)
        else:
            yield loads(data)


# Restore


def _restore(invocation: Invocation) -> int:
    flags = invocation.flags
    name, source = invocation.args[0], parse_place(invocation.args[1])
    bases = [parse_place(text) for text in flags["base"]]
    client = invocation.client()
    is_ours(client)
    opened: list[BackupFile] = []
    try:
        for place in (*bases, source):
            if place.kind == "file":
                opened.append(BackupFile(place.text))
        result = _send(invocation, client, name, source, bases, opened)
    finally:
        for file in opened:
            file.close()
    if result.get("Changed"):
        print(
            f"WARNING: {_count(result['Changed'], 'file')} had changed while the backup was made",
            file=sys.stderr,
        )
    if result.get("LostAttributes"):
        print(
            f"WARNING: the file system has not taken {_count(result['LostAttributes'], 'attribute')}",
            file=sys.stderr,
        )
    print_result(result, flags["format"], name)
    return 0


def _send(
    invocation: Invocation,
    client: Any,
    name: str,
    source: Place,
    bases: list[Place],
    opened: list[BackupFile],
) -> dict[str, Any]:
    flags = invocation.flags
    if any(place.kind == "stream" for place in bases):
        raise Failure("only the last backup can come from standard input")
    last = opened[-1] if source.kind == "file" else None
    files = in_order(last, opened[: len(opened) - 1] if last else opened)
    elsewhere = [place for place in bases if place.kind != "file"]
    sending: list[tuple[BinaryIO, str]] = [(file.file, file.path) for file in files]
    if last is not None:
        sending.append((last.file, last.path))
    elif source.kind == "stream":
        if os.isatty(0):
            raise Failure("requested restore from stdin, but stdin is empty")
        sending.append((sys.stdin.buffer, "-"))
    query = {
        "source": [*(place.query for place in elsewhere), *("upload" for _ in files), source.query],
        "force": flags["force"],
        "devices": flags["devices"],
        "max-size": flags["max-size"] or None,
    }
    domains = {
        parse_reference(place.text).domain for place in (*elsewhere, source) if place.kind == "registry"
    }
    headers = {"Content-Type": "application/octet-stream", **registries_header(invocation, domains)}
    shown = Shown(flags)
    total = sum(file.size for file in opened)

    def sent(done: int) -> None:
        if total:
            detail = {"current": min(done, total), "total": total}
            shown.take({"id": name, "status": "Restoring", "progressDetail": detail})

    body = upload(sending, sent) if sending else b""
    path = f"/volumes/{quote_path(name)}/restore"
    response = client.request("POST", path, query, body, headers)
    return shown.take_all(client.messages(response), bars=not total)


BACKUP = Command(
    _backup,
    "VOLUME[@SNAPSHOT] FILE|-|REFERENCE",
    (
        Flag(
            "base",
            "",
            "string",
            "Leave out what this backup or snapshot has (FILE, REFERENCE or VOLUME@SNAPSHOT)",
        ),
        FORMAT_FLAG,
        QUIET_FLAG,
        *STILL_FLAGS,
    ),
    minimum=2,
    maximum=2,
)
RESTORE = Command(
    _restore,
    "VOLUME FILE|-|REFERENCE|VOLUME@SNAPSHOT",
    (
        Flag(
            "base",
            "",
            "list",
            "A backup that an incremental one stands on (FILE, REFERENCE or VOLUME@SNAPSHOT)",
        ),
        Flag("devices", "", "bool", "Make the backup's device nodes, too"),
        Flag("force", "f", "bool", "Replace what is in an existing volume"),
        FORMAT_FLAG,
        Flag("max-size", "", "bytes", "Refuse a backup whose files are larger than this together"),
        QUIET_FLAG,
    ),
    minimum=2,
    maximum=2,
)
