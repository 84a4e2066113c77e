"""`sampan volume clone`, `snapshot`, `diff` and `rename`."""

from __future__ import annotations

import os
import sys

from sampan.cli import units
from sampan.cli.commands.lifecycle import for_each
from sampan.cli.commands.volume_backup import (
    FORMAT_FLAG,
    QUIET_FLAG,
    STILL_FLAGS,
    Shown,
    print_result,
    registries_header,
    still_query,
)
from sampan.cli.failure import Failure, UsageError, no_such
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.listing import FORMAT_HELP, print_listing, render_rows
from sampan.cli.table import harmless
from sampan.cli.template_functions import Record
from sampan.cli.volume_archive import BackupFile, is_ours, parse_place
from sampan.client.api import ApiError, quote_path
from sampan.oci.reference import parse_reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEADERS = {"Name": "SNAPSHOT", "Created": "CREATED", "Size": "SIZE", "Kind": "KIND"}


def _clone(invocation: Invocation) -> int:
    source, name = invocation.args
    client = invocation.client()
    is_ours(client)
    query = {**still_query(invocation.flags), "name": name}
    response = client.request("POST", f"/volumes/{quote_path(source)}/clone", query, b"")
    result = Shown(invocation.flags).take_all(client.messages(response))
    print_result(result, invocation.flags["format"], name)
    return 0


def _rename(invocation: Invocation) -> int:
    name, new = invocation.args
    client = invocation.client()
    is_ours(client)
    try:
        client.call("POST", f"/volumes/{quote_path(name)}/rename", {"name": new})
    except ApiError as error:
        raise no_such("volume", name, error) from None
    return 0


# Snapshots


def _snapshot(invocation: Invocation) -> int:
    first, *rest = invocation.args
    is_ours(invocation.client())
    if first == "ls":
        return _list(invocation, rest)
    if first == "rm":
        return _remove(invocation, rest)
    if len(rest) > 1:
        raise UsageError('"sampan volume snapshot" requires at most 2 arguments.', 1)
    return _make(invocation, first, rest[0] if rest else "")


def _make(invocation: Invocation, volume: str, tag: str) -> int:
    flags = invocation.flags
    client = invocation.client()
    query = {**still_query(flags), "tag": tag, "keep": flags["keep"]}
    response = client.request("POST", f"/volumes/{quote_path(volume)}/snapshots", query, b"")
    result = Shown(flags).take_all(client.messages(response))
    for removed in result.get("Removed") or []:
        print(f"removed {removed}", file=sys.stderr)
    print_result(result, flags["format"], result["Name"])
    return 0


def _list(invocation: Invocation, args: list[str]) -> int:
    if len(args) > 1:
        raise UsageError('"sampan volume snapshot ls" requires at most 1 argument.', 1)
    query = {"volume": args[0] if args else ""}
    found = invocation.client().call("GET", "/volume-snapshots", query)
    if invocation.flags["quiet"] and not invocation.flags["format"]:
        for one in found:
            print(one["Name"])
        return 0
    rows = [_record(one) for one in found]
    print_listing(rows, invocation.flags["format"], ("Name", "Created", "Size", "Kind"), _HEADERS)
    return 0


def _record(one: dict[str, Any]) -> Record:
    def created() -> str:
        return units.ago(units.parse_rfc3339(one["Created"])[0])

    return Record(
        "snapshotContext",
        {
            "Name": lambda: one["Name"],
            "Volume": lambda: one["Volume"],
            "Tag": lambda: one["Tag"],
            "Created": created,
            "CreatedAt": lambda: one["Created"],
            "Size": lambda: units.human_size(one["Size"]),
            "Kind": lambda: "automatic" if one["Automatic"] else "named",
            "Changed": lambda: one["Changed"],
        },
    )


def _remove(invocation: Invocation, names: list[str]) -> int:
    if not names:
        raise UsageError('"sampan volume snapshot rm" requires at least 1 argument.', 1)
    client = invocation.client()

    def remove(name: str) -> None:
        client.call("DELETE", f"/volume-snapshots/{quote_path(name)}")

    return for_each(names, remove)


# Differences


def _diff(invocation: Invocation) -> int:
    from sampan.client.codec import StreamDecoder

    flags = invocation.flags
    client = invocation.client()
    is_ours(client)
    query: dict[str, Any] = {}
    manifests: list[bytes] = []
    domains: set[str] = set()
    for side, text in zip(("first", "second"), invocation.args, strict=True):
        place = parse_place(text, volumes=True)
        if place.kind == "file":
            file = BackupFile(place.text)
            manifests.append(file.manifest())
            file.close()
            query[side] = "upload"
        elif place.kind == "stream":
            raise Failure("a backup has to be a file that can be read from its end to be compared")
        elif place.kind == "registry":
            query[side] = place.query
            domains.add(parse_reference(place.text).domain)
        else:
            query[side] = place.text
    if len(manifests) == 2:
        query["first-size"] = len(manifests[0])
    headers = registries_header(invocation, domains)
    try:
        response = client.request("POST", "/volume-differences", query, b"".join(manifests), headers)
    except ApiError as error:
        mistaken = [text for text in invocation.args if _may_be_file(text)]
        if error.status != 404 or not mistaken:
            raise
        raise Failure(error.message, hint=f"a file is written ./{mistaken[0]}") from error
    decoder = StreamDecoder()
    differs = False
    for data in response.chunks():
        for difference in decoder.feed(data):
            differs = True
            _print_difference(difference, flags["format"])
    return 1 if differs and flags["exit-code"] else 0


def _may_be_file(text: str) -> bool:
    return parse_place(text, volumes=True).kind == "volume" and os.path.isfile(text)


def _print_difference(difference: dict[str, Any], template: str) -> None:
    if not template:
        fields = difference.get("Fields") or []
        changed = f" ({', '.join(fields)})" if fields else ""
        # Names are whatever a container has made them.
        print(harmless(f"{difference['Kind']} {difference['Path']}{changed}".replace("\n", "\\n")))
        return
    from sampan.client.codec import dumps

    if template == "json":
        print(dumps(difference))
        return
    row = Record(
        "differenceContext",
        {
            "Kind": lambda: difference["Kind"],
            "Path": lambda: difference["Path"],
            "Fields": lambda: difference.get("Fields") or [],
            "Size": lambda: difference.get("Size") or 0,
        },
    )
    print(render_rows([row], template)[0])


CLONE = Command(
    _clone, "VOLUME[@SNAPSHOT] NEW", (FORMAT_FLAG, QUIET_FLAG, *STILL_FLAGS), minimum=2, maximum=2
)
RENAME = Command(_rename, "VOLUME NEW", (), minimum=2, maximum=2)
SNAPSHOT = Command(
    _snapshot,
    "VOLUME [NAME]\nls [VOLUME]\nrm VOLUME@SNAPSHOT [VOLUME@SNAPSHOT...]",
    (
        Flag("format", "", "string", FORMAT_HELP),
        Flag(
            "keep",
            "",
            "string",
            "Remove older snapshots without a name: keep so many ('5'), or those of this age ('7d')",
        ),
        Flag("quiet", "q", "bool", "Show no progress; only names in a list"),
        *STILL_FLAGS,
    ),
    minimum=1,
)
DIFF = Command(
    _diff,
    "FIRST SECOND",
    (
        Flag("exit-code", "", "bool", "End with 1 when there is a difference"),
        Flag("format", "", "string", "Print each difference in this form: 'json' or a Go template"),
    ),
    minimum=2,
    maximum=2,
    notes="Each is a VOLUME, a VOLUME@SNAPSHOT or a backup (./FILE or REFERENCE).",
)
