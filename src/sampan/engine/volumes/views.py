"""Volumes as the API shows and filters them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sampan.engine.filters import label_matches, parse_time
from sampan.engine.model import VolumeRecord, epoch_ns
from sampan.engine.name_filter import name_matches
from sampan.errors import Invalid

Json = dict[str, Any]
Filters = Mapping[str, Sequence[str]]

LIST_FILTERS = ("name", "driver", "label", "label!", "dangling", "scope")
PRUNE_FILTERS = ("label", "label!", "all", "until")
_NOWHERE = Path()
ANONYMOUS_LABEL = "com.docker.volume.anonymous"
"""Docker's mark of a volume that has no name given by a person."""


def volume_json(record: VolumeRecord, path: Path, scope: str) -> Json:
    return {
        "CreatedAt": record.created.partition(".")[0].removesuffix("Z") + "Z",
        "Driver": record.driver,
        "Labels": _labels_json(record),
        "Mountpoint": "" if path == _NOWHERE else str(path),
        "Name": record.name,
        "Options": _ordered(record.options),
        "Scope": scope,
    }


def _labels_json(record: VolumeRecord) -> dict[str, str] | None:
    if record.anonymous:
        return _ordered({ANONYMOUS_LABEL: "", **(record.labels or {})})
    return _ordered(record.labels)


def _ordered(values: dict[str, str] | None) -> dict[str, str] | None:
    """As Go writes maps."""
    return None if values is None else dict(sorted(values.items()))


def check_values(filters: Filters) -> None:
    """Raises `Invalid` for values that are none, whatever volumes there are."""
    for name in ("dangling", "all"):
        for value in filters.get(name, ()):
            if value.lower() not in ("true", "false", "1", "0"):
                raise Invalid(f"invalid filter '{name}={value}'")
    for value in filters.get("until", ()):
        parse_time(value)


def matches(record: VolumeRecord, filters: Filters, *, in_use: bool, scope: str) -> bool:
    """Whether a list with these filters, whose values have been checked, shows it."""
    names = filters.get("name", ())
    if names and not any(name_matches(name, record.name) for name in names):
        return False
    drivers = filters.get("driver", ())
    if drivers and record.driver not in drivers:
        return False
    scopes = filters.get("scope", ())
    if scopes and scope not in scopes:
        return False
    for value in filters.get("dangling", ()):
        if in_use == (value.lower() in ("true", "1")):
            return False
    return label_matches(record.labels or {}, filters)


def prunable(record: VolumeRecord, filters: Filters) -> bool:
    """Whether a prune with these filters is about it, be it used or not."""
    everything = any(value.lower() in ("1", "true") for value in filters.get("all", ()))
    if not (everything or record.anonymous):
        return False
    until = filters.get("until", ())
    if until and epoch_ns(record.created) > min(parse_time(text) for text in until):
        return False
    return label_matches(record.labels or {}, filters)
