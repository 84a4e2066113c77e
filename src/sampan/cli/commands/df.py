"""`sampan system df`."""

from __future__ import annotations

import sys

from sampan.cli import units
from sampan.cli.commands.images import image_record, split_tag
from sampan.cli.commands.ps import container_record
from sampan.cli.commands.volume import volume_record
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.listing import FORMAT_HELP, print_listing, render_rows
from sampan.cli.table import align
from sampan.cli.template_functions import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}


def _row(kind: str, total: int, active: int, size: int, reclaimable: int) -> Record:
    text = units.human_size(reclaimable)
    if size > 0 and kind != "Build Cache":
        text += f" ({reclaimable * 100 // size}%)"
    return Record(
        "diskUsageContext",
        {
            "Type": lambda: kind,
            "TotalCount": lambda: str(total),
            "Active": lambda: str(active),
            "Size": lambda: units.human_size(size),
            "Reclaimable": lambda: text,
        },
    )


def _summary(usage: dict[str, Any]) -> list[Record]:
    images = usage.get("Images") or []
    containers = usage.get("Containers") or []
    volumes = usage.get("Volumes") or []
    cache = usage.get("BuildCache") or []
    used = sum(
        (image.get("Size") or 0) - max(image.get("SharedSize") or 0, 0)
        for image in images
        if image.get("Containers")
    )
    total = usage.get("LayersSize") or 0
    running = [item for item in containers if item.get("State") in ("running", "paused", "restarting")]
    container_size = sum(item.get("SizeRw") or 0 for item in containers)
    idle_size = container_size - sum(item.get("SizeRw") or 0 for item in running)
    sizes = [(volume.get("UsageData") or {}) for volume in volumes]
    known = [item for item in sizes if item.get("Size", -1) != -1]
    cache_used = [item for item in cache if item.get("InUse")]
    cache_size = sum(item.get("Size") or 0 for item in cache if not item.get("Shared"))
    cache_free = sum(
        item.get("Size") or 0 for item in cache if not item.get("InUse") and not item.get("Shared")
    )
    return [
        _row(
            "Images",
            len(images),
            sum((image.get("Containers") or 0) > 0 for image in images),
            total,
            total - used,
        ),
        _row("Containers", len(containers), len(running), container_size, idle_size),
        _row(
            "Local Volumes",
            len(volumes),
            sum((item.get("RefCount") or 0) > 0 for item in sizes),
            sum(item["Size"] for item in known),
            sum(item["Size"] for item in known if not item.get("RefCount")),
        ),
        _row("Build Cache", len(cache), len(cache_used), cache_size, cache_free),
    ]


def _verbose(usage: dict[str, Any]) -> str:
    parts = ["Images space usage:\n\n", _images_table(usage.get("Images") or [])]
    parts += ["\nContainers space usage:\n\n", _containers_table(usage.get("Containers") or [])]
    parts += ["\nLocal Volumes space usage:\n\n", _volumes_table(usage.get("Volumes") or [])]
    cache = usage.get("BuildCache") or []
    size = sum(item.get("Size") or 0 for item in cache if not item.get("Shared"))
    parts += [f"\nBuild cache usage: {units.human_size(size)}\n\n", _cache_table(cache)]
    return "".join(parts)


def _table(header: list[str], rows: list[list[str]]) -> str:
    return align("\n".join("\t".join(row) for row in [header, *rows]) + "\n")


def _images_table(images: list[dict[str, Any]]) -> str:
    rows = []
    for image in images:
        # Docker shows the first name only.
        repository, tag = split_tag((image.get("RepoTags") or ["<none>:<none>"])[0])
        shared = max(image.get("SharedSize") or 0, 0)
        size = image.get("Size") or 0
        rows.append(
            [
                repository,
                tag,
                image.get("Id", "").removeprefix("sha256:")[:12],
                units.ago(image.get("Created") or 0),
                units.human_size(size),
                units.human_size(shared),
                units.human_size(size - shared),
                str(max(image.get("Containers") or 0, 0)),
            ]
        )
    titles = ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"]
    return _table(titles, rows)


def _containers_table(containers: list[dict[str, Any]]) -> str:
    rows = []
    for container in containers:
        record = container_record(container)
        fields = [record.get(name) for name in ("ID", "Image", "Command", "LocalVolumes")]
        size = units.human_size(container.get("SizeRw") or 0, 3)
        rows.append([*fields, size, *(record.get(name) for name in ("RunningFor", "Status", "Names"))])
    return _table(
        ["CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES"], rows
    )


def _volumes_table(volumes: list[dict[str, Any]]) -> str:
    records = [volume_record(volume) for volume in volumes]
    rows = [[record.get(name) for name in ("Name", "Links", "Size")] for record in records]
    return _table(["VOLUME NAME", "LINKS", "SIZE"], rows)


def _cache_table(cache: list[dict[str, Any]]) -> str:
    rows = []
    for item in cache:
        times = [_since(item.get("CreatedAt")), _since(item.get("LastUsedAt"))]
        rows.append(
            [
                item.get("ID", "")[:12] + ("*" if item.get("InUse") else ""),
                item.get("Type", ""),
                units.human_size(item.get("Size") or 0, 3),
                *times,
                str(item.get("UsageCount") or 0),
                "true" if item.get("Shared") else "false",
            ]
        )
    return _table(["CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED"], rows)


def _details(usage: dict[str, Any]) -> Record:
    """What a template of `--verbose` sees: lists of the things, with the fields that their own listings have."""
    images = [
        image_record(
            image, *split_tag((image.get("RepoTags") or ["<none>:<none>"])[0]), "", full=True
        ).values()
        for image in usage.get("Images") or ()
    ]
    containers = [container_record(item, full=True).values() for item in usage.get("Containers") or ()]
    volumes = [volume_record(volume).values() for volume in usage.get("Volumes") or ()]
    cache = [_cache_fields(item) for item in usage.get("BuildCache") or ()]
    return Record(
        "diskUsageContext",
        {
            "Images": lambda: images,
            "Containers": lambda: containers,
            "Volumes": lambda: volumes,
            "BuildCache": lambda: cache,
        },
    )


def _cache_fields(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "CacheType": item.get("Type", ""),
        "CreatedAt": item.get("CreatedAt") or "",
        "CreatedSince": _since(item.get("CreatedAt")),
        "Description": item.get("Description", ""),
        "ID": item.get("ID", ""),
        "InUse": "true" if item.get("InUse") else "false",
        "LastUsedAt": item.get("LastUsedAt") or "",
        "LastUsedSince": _since(item.get("LastUsedAt")),
        "Parent": item.get("Parent", ""),
        "Shared": "true" if item.get("Shared") else "false",
        "Size": units.human_size(item.get("Size") or 0, 3),
        "UsageCount": str(item.get("UsageCount") or 0),
    }


def _since(text: str | None) -> str:
    try:
        return units.ago(units.parse_rfc3339(text or "")[0])
    except ValueError:
        return ""


def _df(invocation: Invocation) -> int:
    flags = invocation.flags
    usage = invocation.client().call("GET", "/system/df")
    if flags["verbose"]:
        if flags["format"] in ("", "table"):
            sys.stdout.write(_verbose(usage))
        else:
            text = "{{json .}}" if flags["format"] == "json" else flags["format"]
            print(render_rows([_details(usage)], text)[0])
        return 0
    columns = ("Type", "TotalCount", "Active", "Size", "Reclaimable")
    print_listing(_summary(usage), flags["format"], columns, _HEADERS)
    return 0


DF = Command(
    _df,
    "",
    (
        Flag("format", "", "string", FORMAT_HELP),
        Flag("verbose", "v", "bool", "Show every single thing"),
    ),
    maximum=0,
)
