"""`sampan history`."""

from __future__ import annotations

from sampan.cli import units
from sampan.cli.commands.ps import shorten
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.listing import FORMAT_HELP, print_listing
from sampan.cli.platform import platform_json
from sampan.cli.template_functions import Record
from sampan.client.api import quote_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}


def _row(item: dict[str, Any], *, full: bool, human: bool) -> Record:
    created = item.get("Created") or 0
    size = item.get("Size") or 0
    command = (item.get("CreatedBy") or "").replace("\t", " ")
    identity = item.get("Id") or ""
    stamp = units.local_time(created, "%Y-%m-%dT%H:%M:%S%z")
    stamp = stamp[:-5] + "Z" if stamp.endswith("+0000") else stamp[:-2] + ":" + stamp[-2:]

    def since() -> str:
        if created <= units.days_since_epoch(1, 1, 1) * 86400:
            return ""
        return units.ago(created) if human else stamp

    return Record(
        "historyContext",
        {
            "ID": lambda: identity if full else identity.removeprefix("sha256:")[:12],
            "CreatedAt": lambda: stamp,
            "CreatedSince": since,
            "CreatedBy": lambda: command if full else shorten(command, 45),
            "Size": lambda: units.human_size(size, 3) if human else str(size),
            "Comment": lambda: item.get("Comment") or "",
        },
    )


def _history(invocation: Invocation) -> int:
    flags = invocation.flags
    query = {"platform": platform_json(flags["platform"])}
    items = invocation.client().call("GET", f"/images/{quote_path(invocation.args[0])}/history", query) or []
    rows = [_row(item, full=flags["no-trunc"], human=flags["human"]) for item in items]
    if flags["quiet"] and flags["format"] in ("", "table"):
        for row in rows:
            print(row.get("ID"))
        return 0
    created = "CreatedSince" if flags["human"] else "CreatedAt"
    print_listing(rows, flags["format"], ("ID", created, "CreatedBy", "Size", "Comment"), _HEADERS)
    return 0


HISTORY = Command(
    _history,
    "IMAGE",
    (
        Flag("format", "", "string", FORMAT_HELP),
        Flag("human", "H", "bool", "Print sizes and times for people", default=True),
        Flag("no-trunc", "", "bool", "Shorten nothing"),
        Flag("platform", "", "string", "Show this platform of an image that has several"),
        Flag("quiet", "q", "bool", "Show only IDs"),
    ),
    minimum=1,
    maximum=1,
    aliases=("image history", "history"),
)
