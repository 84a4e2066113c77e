"""`sampan builder prune` and `sampan builder du`: the build cache made smaller, and explained."""

from __future__ import annotations

import os
import sys
import time

from sampan.cli import units
from sampan.cli.commands.prune import DRY_RUN, prune_cache, trial_of
from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation, collect_filters
from sampan.cli.listing import FORMAT_HELP, print_listing
from sampan.cli.table import align
from sampan.cli.template_functions import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_COLUMNS = ("ID", "Reclaimable", "Size", "LastAccessed")
_HEADERS = {"ID": "ID", "Reclaimable": "RECLAIMABLE", "Size": "SIZE", "LastAccessed": "LAST ACCESSED"}
_SPACES = ("keep-storage", "reserved-space", "max-used-space", "min-free-space")


def _prune(invocation: Invocation) -> int:
    flags = invocation.flags
    which = "all" if flags["all"] else "all dangling"
    trial = trial_of(invocation)
    if not flags["force"] and not trial.dry:
        question = f"WARNING! This will remove {which} build cache. Are you sure you want to continue? [y/N] "
        sys.stdout.write(question)
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 0
    query = {"all": flags["all"], **{name: flags[name] or None for name in _SPACES}}
    reclaimed, lines = prune_cache(invocation.client(), collect_filters(flags["filter"]), trial, **query)
    for line in lines:
        print(line)
    print(trial.total(reclaimed))
    return 0


def _du(invocation: Invocation) -> int:
    flags = invocation.flags
    usage = invocation.client().call("GET", "/system/df", {"type": "build-cache"})
    filters = collect_filters(flags["filter"])
    entries = [item for item in usage.get("BuildCache") or [] if _meets(item, filters)]
    if flags["format"]:
        print_listing([_record(item) for item in entries], flags["format"], _COLUMNS, _HEADERS)
        return 0
    if flags["verbose"]:
        sys.stdout.write("".join(_described(item) for item in entries))
    else:
        print_listing([_record(item) for item in entries], "", _COLUMNS, _HEADERS)
    sys.stdout.write(_summary(entries))
    return 0


def _meets(item: dict[str, Any], filters: dict[str, list[str]]) -> bool:
    """Raises `Failure` for a filter that doesn't exist."""
    for name, values in filters.items():
        wanted = values[0] if values else ""
        if name == "id":
            met = wanted in item.get("ID", "")
        elif name in ("type", "description"):
            met = item.get(name.capitalize()) == wanted
        elif name in ("inuse", "shared", "private"):
            held = item.get("InUse") if name == "inuse" else item.get("Shared")
            met = bool(held) != (name == "private")
            met = met != (wanted.lower() in ("0", "false"))
        elif name in ("until", "unused-for"):
            age = time.time() - units.parse_rfc3339(item.get("LastUsedAt") or "")[0]
            met = age >= units.parse_duration(wanted) / 1e9
        else:
            raise Failure(f"invalid filter '{name}'")
        if not met:
            return False
    return True


def _record(item: dict[str, Any]) -> Record:
    return Record(
        "buildCacheContext",
        {
            "ID": lambda: item.get("ID", "") + ("*" if item.get("Shared") else ""),
            "Reclaimable": lambda: "false" if item.get("InUse") else "true",
            "Size": lambda: units.human_size(item.get("Size") or 0),
            "LastAccessed": lambda: _since(item.get("LastUsedAt")),
            "Type": lambda: item.get("Type", ""),
            "Description": lambda: item.get("Description", ""),
            "InUse": lambda: "true" if item.get("InUse") else "false",
            "Shared": lambda: "true" if item.get("Shared") else "false",
            "CreatedAt": lambda: item.get("CreatedAt", ""),
            "LastUsedAt": lambda: item.get("LastUsedAt") or "",
            "UsageCount": lambda: str(item.get("UsageCount") or 0),
        },
    )


def _described(item: dict[str, Any]) -> str:
    lines = [
        ("ID", item.get("ID", "")),
        ("Created at", item.get("CreatedAt", "")),
        ("Mutable", "true" if item.get("Type") == "exec.cachemount" else "false"),
        ("Reclaimable", "false" if item.get("InUse") else "true"),
        ("Shared", "true" if item.get("Shared") else "false"),
        ("Size", units.human_size(item.get("Size") or 0)),
        ("Description", item.get("Description", "")),
        ("Usage count", str(item.get("UsageCount") or 0)),
        ("Last used", _since(item.get("LastUsedAt"))),
        ("Type", item.get("Type", "")),
    ]
    return align("\n".join(f"{name}:\t{value}" for name, value in lines) + "\n") + "\n"


def _summary(entries: list[dict[str, Any]]) -> str:
    """Bytes that images have too are not the cache's: removing it would not free them."""
    shared = sum(item.get("Size") or 0 for item in entries if item.get("Shared"))
    private = sum(item.get("Size") or 0 for item in entries if not item.get("Shared"))
    free = sum(item.get("Size") or 0 for item in entries if not item.get("Shared") and not item.get("InUse"))
    rows = [("Reclaimable", free), ("Total", shared + private)]
    if shared:
        rows = [("Shared", shared), ("Private", private), *rows]
    return align("\n".join(f"{name}:\t{units.human_size(size)}" for name, size in rows) + "\n")


def _since(text: str | None) -> str:
    try:
        return units.ago(units.parse_rfc3339(text or "")[0])
    except ValueError:
        return ""


def _export_mount(invocation: Invocation) -> int:
    from sampan.cli.commands.archive import write_out

    output = invocation.flags["output"]
    if not output and os.isatty(1):
        raise Failure("cowardly refusing to write an archive to a terminal. Use the -o flag or redirect")
    query = {"id": invocation.args[0]}
    write_out(invocation.client().request("GET", "/build/cache-mount", query), output)
    return 0


def _import_mount(invocation: Invocation) -> int:
    from sampan.cli.commands.archive import read_all

    place = invocation.args[1]
    try:
        source = sys.stdin.buffer if place == "-" else open(place, "rb")  # noqa: SIM115
    except OSError as error:
        raise Failure(f"open {place}: {(error.strerror or '').lower()}") from None
    with source:
        headers = {"Content-Type": "application/x-tar"}
        query = {"id": invocation.args[0]}
        invocation.client().request("POST", "/build/cache-mount", query, read_all(source), headers)
    return 0


BUILDER_PRUNE = Command(
    _prune,
    "",
    (
        Flag("all", "a", "bool", "Remove all build cache, also what images share and internal records"),
        DRY_RUN,
        Flag("filter", "", "filter", "Remove only what meets these conditions"),
        Flag("force", "f", "bool", "Do not ask first"),
        Flag("keep-storage", "", "bytes", "Keep this much of the cache"),
        Flag("max-used-space", "", "bytes", "Let the cache have at most this much"),
        Flag("min-free-space", "", "bytes", "Free as much as it takes for the disk to have this much left"),
        Flag("reserved-space", "", "bytes", "Keep this much of the cache"),
    ),
    maximum=0,
)
BUILDER_DU = Command(
    _du,
    "",
    (
        Flag("filter", "", "filter", "Show only what meets these conditions"),
        Flag("format", "", "string", FORMAT_HELP),
        Flag("verbose", "", "bool", "Show everything about every entry"),
    ),
    maximum=0,
)
EXPORT_MOUNT = Command(
    _export_mount,
    "ID",
    (Flag("output", "o", "string", "Write to a file instead of STDOUT"),),
    minimum=1,
    maximum=1,
)
IMPORT_MOUNT = Command(_import_mount, "ID FILE|-", (), minimum=2, maximum=2)
