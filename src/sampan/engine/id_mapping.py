"""Mounts with mapped ids (`--mount …,idmap`): files that others own on the disk are the container's. Pure.

    idmap                           the container's ids are on the disk (with a user namespace), or: who owns the
                                    source is the container's user, and the other way round (without one)
    idmap=uids=1000-0-1;gids=…      FROM-TO-COUNT, several joined by #: ids on the disk, and in the container

What is on the disk does not change (mount_setattr(2), MOUNT_ATTR_IDMAP).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from sampan.engine.userns import MAX_RANGES
from sampan.errors import Invalid
from sampan.oci.spec import IdMapping

BY_OWNER = "idmap"
"""The value of an id map that says no numbers."""
_ALL = 0xFFFFFFFF
"""Number of ids; the last 32-bit number is none."""


def parse_id_map(text: str) -> str:
    """`idmap`, `idmap=` or `uids=…;gids=…` in the form that a record has. Raises `Invalid`."""
    value = text.removeprefix("idmap=")
    if value in ("", BY_OWNER):
        return BY_OWNER
    id_mappings(value)
    return value


def id_mappings(text: str) -> tuple[tuple[IdMapping, ...], tuple[IdMapping, ...]]:
    """(uids, gids) of `uids=…;gids=…`; one that is not said is as the other. Raises `Invalid`."""
    found: dict[str, tuple[IdMapping, ...]] = {}
    for part in text.split(";"):
        kind, _, ranges = part.partition("=")
        if kind not in ("uids", "gids") or kind in found:
            raise _bad(text)
        found[kind] = tuple(_range(one, text) for one in ranges.split("#"))
        _check_overlaps(found[kind], text)
    uids = found.get("uids") or found["gids"]
    return uids, found.get("gids") or uids


def _range(text: str, whole: str) -> IdMapping:
    numbers = text.split("-")
    if len(numbers) != 3 or not all(one.isascii() and one.isdecimal() and len(one) < 11 for one in numbers):
        raise _bad(whole)
    on_disk, shown, count = map(int, numbers)
    if not count or on_disk + count > _ALL or shown + count > _ALL:
        raise _bad(whole)
    # In the OCI's terms (config.md): from the source's ids ("container") to the mount's ("host").
    return IdMapping(on_disk, shown, count)


def _check_overlaps(ranges: Sequence[IdMapping], text: str) -> None:
    if len(ranges) > MAX_RANGES:
        raise _bad(text)
    for starts in (
        sorted((one.container_id, one.size) for one in ranges),
        sorted((one.host_id, one.size) for one in ranges),
    ):
        if any(first + size > second for (first, size), (second, _) in itertools.pairwise(starts)):
            raise _bad(text)


def _bad(text: str) -> Invalid:
    return Invalid(
        f"invalid idmap {text!r}",
        hint="uids=FROM-TO-COUNT;gids=FROM-TO-COUNT (ids on the disk, ids in the container), several joined by #",
    )


def exchange(one: int, other: int) -> tuple[IdMapping, ...]:
    """Every id is itself, but these two are each other."""
    if one == other:
        return (IdMapping(0, 0, _ALL),)
    low, high = sorted((one, other))
    parts = (
        IdMapping(0, 0, low),
        IdMapping(low, high, 1),
        IdMapping(low + 1, low + 1, high - low - 1),
        IdMapping(high, low, 1),
        IdMapping(high + 1, high + 1, _ALL - high - 1),
    )
    return tuple(part for part in parts if part.size)


def id_map_text(uids: Sequence[IdMapping], gids: Sequence[IdMapping]) -> str:
    """The form that `id_mappings` reads."""

    def ranges(found: Sequence[IdMapping]) -> str:
        return "#".join(f"{one.container_id}-{one.host_id}-{one.size}" for one in found)

    return f"uids={ranges(uids)};gids={ranges(gids)}"
