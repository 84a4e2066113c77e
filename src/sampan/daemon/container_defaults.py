"""`default-ulimits` and `default-shm-size` of daemon.json, and their flags: of containers that ask for nothing."""

from __future__ import annotations

from typing import Any

from sampan.engine.config import Ulimit
from sampan.engine.spec import ULIMITS
from sampan.errors import Invalid
from sampan.logs.option_values import parse_size


def ulimits(value: object) -> tuple[Ulimit, ...]:
    """The file's {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 2048}}, or a list of `nofile=1024[:2048]`."""
    if value is None:
        return ()
    if isinstance(value, dict):
        found = [_stored(name, fields) for name, fields in value.items()]
    elif isinstance(value, list):
        found = [_said(str(text)) for text in value]
    else:
        raise Invalid("default-ulimits: expected an object of limits")
    for one in found:
        if one.name not in ULIMITS:
            raise Invalid(f"default-ulimits: invalid ulimit type: {one.name}")
        if one.hard != -1 and (one.soft == -1 or one.soft > one.hard):
            raise Invalid(
                "default-ulimits: ulimit soft limit must be less than or equal to hard limit: "
                f"{one.soft} > {one.hard}"
            )
    return tuple({one.name: one for one in found}.values())


def _stored(name: str, fields: Any) -> Ulimit:
    if not isinstance(fields, dict):
        raise Invalid(f"default-ulimits: {name}: expected numbers Soft and Hard")
    soft, hard = (_limit(name, fields.get(key)) for key in ("Soft", "Hard"))
    return Ulimit(str(fields.get("Name") or name), hard, soft)


def _limit(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value < 1 << 63:
        raise Invalid(f"default-ulimits: {name}: expected numbers Soft and Hard")
    return value


def _said(text: str) -> Ulimit:
    name, _, limits = text.partition("=")
    soft, colon, hard = limits.partition(":")
    try:
        return Ulimit(name, _limit(name, int(hard if colon else soft)), _limit(name, int(soft)))
    except ValueError:
        raise Invalid(f"default-ulimits: invalid ulimit argument: {text}") from None


def shm_size(value: object) -> int:
    """Bytes; a number, or a text with a unit of 1024. 0 when nothing is said."""
    if not value:
        return 0
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    if not isinstance(value, str):
        raise Invalid(f"default-shm-size: invalid size {value!r}")
    return parse_size(value)
