"""`prune` of containers, images, networks, volumes, build cache, and of all of them."""

from __future__ import annotations

import sys

from sampan.cli import units
from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation, collect_filters
from sampan.client.api import ApiError, filters_query, version_tuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.client.api import Client

    Pruner = Callable[[Client, dict[str, list[str]], "Trial"], tuple[int, list[str]]]


class Trial:
    """Whether a prune is to be done, or only told (`dry`). `containers`: what would be gone by then, by id."""

    __slots__ = ("containers", "dry")

    def __init__(self, dry: bool = False) -> None:
        self.dry = dry
        self.containers: list[str] = []

    @property
    def query(self) -> dict[str, Any]:
        return {"dry-run": True} if self.dry else {}

    @property
    def body(self) -> dict[str, Any] | None:
        return {"Without": self.containers} if self.containers else None

    @property
    def verb(self) -> str:
        return "Would delete" if self.dry else "Deleted"

    def total(self, reclaimed: int) -> str:
        words = "Total space that would be reclaimed" if self.dry else "Total reclaimed space"
        return f"{words}: {units.human_size(reclaimed)}"


def trial_of(invocation: Invocation) -> Trial:
    """By --dry-run. Raises `Failure` for an engine that would remove things all the same."""
    dry = bool(invocation.flags["dry-run"])
    if dry and not invocation.client().is_sampan():
        raise Failure(
            "this engine has no --dry-run: it would remove everything at once",
            hint="only sampan's engine has it",
        )
    return Trial(dry)


def confirm(warning: str) -> bool:
    """Ask on the terminal; only "y" or "yes" goes on."""
    sys.stdout.write(f"{warning}\nAre you sure you want to continue? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _containers(client: Client, filters: dict[str, list[str]], trial: Trial) -> tuple[int, list[str]]:
    answer = client.call("POST", "/containers/prune", _query(filters, trial))
    if trial.dry:
        trial.containers += answer.get("ContainersDeleted") or []
    return _result(answer, f"{trial.verb} Containers:", answer.get("ContainersDeleted"))


def _networks(client: Client, filters: dict[str, list[str]], trial: Trial) -> tuple[int, list[str]]:
    answer = client.call("POST", "/networks/prune", _query(filters, trial), trial.body)
    return _result(answer, f"{trial.verb} Networks:", answer.get("NetworksDeleted"))


def _volumes(client: Client, filters: dict[str, list[str]], trial: Trial) -> tuple[int, list[str]]:
    answer = client.call("POST", "/volumes/prune", _query(filters, trial), trial.body)
    return _result(answer, f"{trial.verb} Volumes:", answer.get("VolumesDeleted"))


def _images(client: Client, filters: dict[str, list[str]], trial: Trial) -> tuple[int, list[str]]:
    answer = client.call("POST", "/images/prune", _query(filters, trial), trial.body)
    lines = [
        f"untagged: {item['Untagged']}" if item.get("Untagged") else f"deleted: {item.get('Deleted', '')}"
        for item in answer.get("ImagesDeleted") or []
    ]
    return _result(answer, f"{trial.verb} Images:", lines)


def prune_cache(
    client: Client, filters: dict[str, list[str]], trial: Trial, **query: Any
) -> tuple[int, list[str]]:
    query = {"filters": filters_query(filters), **query, **trial.query}
    answer = client.call("POST", "/build/prune", query)
    return _result(answer, f"{trial.verb} build cache objects:", answer.get("CachesDeleted"))


def _query(filters: dict[str, list[str]], trial: Trial) -> dict[str, Any]:
    return {"filters": filters_query(filters), **trial.query}


def _result(answer: dict[str, Any], title: str, items: list[str] | None) -> tuple[int, list[str]]:
    return int(answer.get("SpaceReclaimed") or 0), [title, *items, ""] if items else []


def _single(warning: str, prune: Pruner, *, shows_space: bool = True) -> Callable[[Invocation], int]:
    def run(invocation: Invocation) -> int:
        trial = trial_of(invocation)
        if not invocation.flags["force"] and not trial.dry and not confirm(warning):
            return 0
        reclaimed, lines = prune(invocation.client(), collect_filters(invocation.flags["filter"]), trial)
        for line in lines:
            print(line)
        if shows_space:
            print(trial.total(reclaimed))
        return 0

    return run


def _image_prune(invocation: Invocation) -> int:
    flags = invocation.flags
    filters = collect_filters(flags["filter"])
    filters["dangling"] = ["false" if flags["all"] else "true"]
    warning = "WARNING! This will remove all dangling images."
    if flags["all"]:
        warning = "WARNING! This will remove all images without at least one container associated to them."
    return _single(warning, lambda client, _, trial: _images(client, filters, trial))(invocation)


def _volume_prune(invocation: Invocation) -> int:
    flags = invocation.flags
    filters = collect_filters(flags["filter"])
    if flags["all"]:
        if "all" in filters:
            raise Failure("conflicting options: cannot specify both --all and --filter all=1")
        filters["all"] = ["true"]
    which = "all local" if flags["all"] else "anonymous local"
    warning = f"WARNING! This will remove {which} volumes not used by at least one container."
    return _single(warning, lambda client, _, trial: _prune_volumes(client, filters, trial))(invocation)


def _prune_volumes(client: Client, filters: dict[str, list[str]], trial: Trial) -> tuple[int, list[str]]:
    """Engines before API 1.42 know no filter `all`: there all volumes are meant anyway."""
    try:
        return _volumes(client, filters, trial)
    except ApiError as error:
        modern = client.is_sampan() or version_tuple(client.version) >= (1, 42)
        if modern or error.status != 400 or "all" not in filters:
            raise
        return _volumes(client, {name: values for name, values in filters.items() if name != "all"}, trial)


def _system_prune(invocation: Invocation) -> int:
    flags = invocation.flags
    filters = collect_filters(flags["filter"])
    if flags["volumes"] and "until" in filters:
        raise Failure('The "until" filter is not supported with "--volumes"')
    trial = trial_of(invocation)
    warning = _system_warning(flags["all"], flags["volumes"], flags["filter"])
    if not flags["force"] and not trial.dry and not confirm(warning):
        return 0
    client = invocation.client()
    # Containers come first: their prune refuses a filter that is none before anything is removed.
    steps: list[Callable[[], tuple[int, list[str]]]] = [
        lambda: _containers(client, filters, trial),
        lambda: _networks(client, filters, trial),
        lambda: _images(client, {**filters, "dangling": ["false" if flags["all"] else "true"]}, trial),
        lambda: prune_cache(
            client, {k: v for k, v in filters.items() if k == "until"}, trial, all=flags["all"]
        ),
    ]
    if flags["volumes"]:
        steps.insert(2, lambda: _volumes(client, filters, trial))
    total = 0
    for step in steps:
        reclaimed, lines = step()
        total += reclaimed
        for line in lines:
            print(line)
    print(trial.total(total))
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
DRY_RUN = Flag("dry-run", "", "bool", "Remove nothing, say what would be removed")
_FILTER = Flag("filter", "", "filter", "Remove only what meets these conditions")
CONTAINER_PRUNE = Command(
    _single("WARNING! This will remove all stopped containers.", _containers),
    "",
    (DRY_RUN, _FORCE, _FILTER),
    maximum=0,
)
NETWORK_PRUNE = Command(
    _single(
        "WARNING! This will remove all custom networks not used by at least one container.",
        _networks,
        shows_space=False,
    ),
    "",
    (DRY_RUN, _FORCE, _FILTER),
    maximum=0,
)
IMAGE_PRUNE = Command(
    _image_prune,
    "",
    (DRY_RUN, _FORCE, _FILTER, Flag("all", "a", "bool", "Remove all unused images, not only dangling ones")),
    maximum=0,
)
VOLUME_PRUNE = Command(
    _volume_prune,
    "",
    (DRY_RUN, _FORCE, _FILTER, Flag("all", "a", "bool", "Remove named volumes too")),
    maximum=0,
)
SYSTEM_PRUNE = Command(
    _system_prune,
    "",
    (
        DRY_RUN,
        _FORCE,
        _FILTER,
        Flag("all", "a", "bool", "Remove all unused images, not only dangling ones"),
        Flag("volumes", "", "bool", "Remove volumes too"),
    ),
    maximum=0,
)
