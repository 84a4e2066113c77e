"""`prune` of containers, images, networks, volumes, build cache, and of all of them."""

from __future__ import annotations

import sys

from sampan.cli import units
from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation, collect_filters
from sampan.client.api import ApiError, filters_query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.client.api import Client

    Pruner = Callable[[Client, dict[str, list[str]]], tuple[int, list[str]]]


def confirm(warning: str) -> bool:
    """Ask on the terminal; only "y" or "yes" goes on."""
    sys.stdout.write(f"{warning}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _containers(client: Client, filters: dict[str, list[str]]) -> tuple[int, list[str]]:
    answer = client.call("POST", "/containers/prune", {"filters": filters_query(filters)})
    return _result(answer, "Deleted Containers:", answer.get("ContainersDeleted"))


def _networks(client: Client, filters: dict[str, list[str]]) -> tuple[int, list[str]]:
    answer = client.call("POST", "/networks/prune", {"filters": filters_query(filters)})
    return _result(answer, "Deleted Networks:", answer.get("NetworksDeleted"))


def _volumes(client: Client, filters: dict[str, list[str]]) -> tuple[int, list[str]]:
    answer = client.call("POST", "/volumes/prune", {"filters": filters_query(filters)})
    return _result(answer, "Deleted Volumes:", answer.get("VolumesDeleted"))


def _images(client: Client, filters: dict[str, list[str]]) -> tuple[int, list[str]]:
    answer = client.call("POST", "/images/prune", {"filters": filters_query(filters)})
    lines = [
        f"untagged: {item['Untagged']}" if item.get("Untagged") else f"deleted: {item.get('Deleted', '')}"
        for item in answer.get("ImagesDeleted") or []
    ]
    return _result(answer, "Deleted Images:", lines)


def prune_cache(client: Client, filters: dict[str, list[str]], **query: Any) -> tuple[int, list[str]]:
    answer = client.call("POST", "/build/prune", {"filters": filters_query(filters), **query})
    return _result(answer, "Deleted build cache objects:", answer.get("CachesDeleted"))


def _result(answer: dict[str, Any], title: str, items: list[str] | None) -> tuple[int, list[str]]:
    return int(answer.get("SpaceReclaimed") or 0), [title, *items, ""] if items else []


def _single(warning: str, prune: Pruner, *, shows_space: bool = True) -> Callable[[Invocation], int]:
    def run(invocation: Invocation) -> int:
        if not invocation.flags["force"] and not confirm(warning):
            return 0
        reclaimed, lines = prune(invocation.client(), collect_filters(invocation.flags["filter"]))
        for line in lines:
            print(line)
        if shows_space:
            print(f"Total reclaimed space: {units.human_size(reclaimed)}")
        return 0

    return run


def _image_prune(invocation: Invocation) -> int:
    flags = invocation.flags
    filters = collect_filters(flags["filter"])
    filters["dangling"] = ["false" if flags["all"] else "true"]
    warning = "WARNING! This will remove all dangling images."
    if flags["all"]:
        warning = "WARNING! This will remove all images without at least one container associated to them."
    return _single(warning, lambda client, _: _images(client, filters))(invocation)


def _volume_prune(invocation: Invocation) -> int:
    flags = invocation.flags
    filters = collect_filters(flags["filter"])
    if flags["all"]:
        if "all" in filters:
            raise Failure("conflicting options: cannot specify both --all and --filter all=1")
        filters["all"] = ["true"]
    which = "all local" if flags["all"] else "anonymous local"
    warning = f"WARNING! This will remove {which} volumes not used by at least one container."
    return _single(warning, lambda client, _: _prune_volumes(client, filters))(invocation)


def _prune_volumes(client: Client, filters: dict[str, list[str]]) -> tuple[int, list[str]]:
    """Engines before API 1.42 know no filter `all`: there all volumes are meant anyway."""
    try:
        return _volumes(client, filters)
    except ApiError as error:
        if error.status != 400 or "all" not in filters:
            raise
        return _volumes(client, {name: values for name, values in filters.items() if name != "all"})


def _system_prune(invocation: Invocation) -> int:
    flags = invocation.flags
    filters = collect_filters(flags["filter"])
    if flags["volumes"] and "until" in filters:
        raise Failure('The "until" filter is not supported with "--volumes"')
    if not flags["force"] and not confirm(_system_warning(flags["all"], flags["volumes"], flags["filter"])):
        return 0
    client = invocation.client()
    common = {name: values for name, values in filters.items() if name in ("label", "label!", "until")}
    steps: list[Callable[[], tuple[int, list[str]]]] = [
        lambda: _containers(client, common),
        lambda: _networks(client, common),
        lambda: _images(client, {**common, "dangling": ["false" if flags["all"] else "true"]}),
        lambda: prune_cache(client, {k: v for k, v in common.items() if k == "until"}, all=flags["all"]),
    ]
    if flags["volumes"]:
        steps.insert(2, lambda: _volumes(client, common))
    total = 0
    for step in steps:
        reclaimed, lines = step()
        total += reclaimed
        for line in lines:
            print(line)
    print(f"Total reclaimed space: {units.human_size(total)}")
    return 0


def _system_warning(every: bool, volumes: bool, filters: list[tuple[str, str]]) -> str:
    items = ["all stopped containers", "all networks not used by at least one container"]
    if volumes:
        items.append("all anonymous volumes not used by at least one container")
    items.append(
        "all images without at least one container associated to them" if every else "all dangling images"
    )
    items.append("all build cache" if every else "unused build cache")
    text = "WARNING! This will remove:\n" + "".join(f"  - {item}\n" for item in items)
    if filters:
        text += "\n  Items to be pruned will be filtered with:\n"
        text += "".join(f"  - {name}={value}\n" for name, value in filters)
    return text


_FORCE = Flag("force", "f", "bool", "Do not ask first")
_FILTER = Flag("filter", "", "filter", "Remove only what meets these conditions")
CONTAINER_PRUNE = Command(
    _single("WARNING! This will remove all stopped containers.", _containers),
    "",
    (_FORCE, _FILTER),
    maximum=0,
)
NETWORK_PRUNE = Command(
    _single(
        "WARNING! This will remove all custom networks not used by at least one container.",
        _networks,
        shows_space=False,
    ),
    "",
    (_FORCE, _FILTER),
    maximum=0,
)
IMAGE_PRUNE = Command(
    _image_prune,
    "",
    (_FORCE, _FILTER, Flag("all", "a", "bool", "Remove all unused images, not only dangling ones")),
    maximum=0,
)
VOLUME_PRUNE = Command(
    _volume_prune,
    "",
    (_FORCE, _FILTER, Flag("all", "a", "bool", "Remove named volumes too")),
    maximum=0,
)
SYSTEM_PRUNE = Command(
    _system_prune,
    "",
    (
        _FORCE,
        _FILTER,
        Flag("all", "a", "bool", "Remove all unused images, not only dangling ones"),
        Flag("volumes", "", "bool", "Remove volumes too"),
    ),
    maximum=0,
)
