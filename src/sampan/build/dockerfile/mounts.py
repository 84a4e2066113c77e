"""`RUN --mount=type=...,key=value`: parsing and checks, in BuildKit's words. Pure."""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Callable
from decimal import Decimal
from typing import get_args

from sampan.build.dockerfile.check import TRUTHS
from sampan.build.model import MountKind, MountOption
from sampan.errors import Invalid

_KEYS = frozenset(
    (
        *("type", "from", "source", "target", "readonly", "readwrite", "id", "sharing", "required"),
        *("size", "mode", "uid", "gid", "env"),
    )
)
_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_ALONE = ("readonly", "readwrite", "required")
"""Keys that mean "true" when they stand without a value."""
_NUMBER = re.compile(r"[0-9]{1,10}")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([kmgtp]?)i?b?", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
MAX_ID = 2**32 - 2
"""The largest user or group id that Linux has: 2**32 - 1 means "unchanged" to chown(2)."""


def parse_mount(text: str, expand: Callable[[str], str], cwd: str) -> MountOption:
    """`expand` replaces variables in a value; a relative target counts from `cwd`. Raises `Invalid`."""
    values: dict[str, str] = {}
    for part in _fields(text):
        name, equals, value = part.partition("=")
        key = _ALIASES.get(name.lower(), name.lower())
        if not equals and key not in _ALONE:
            raise Invalid(f"invalid field '{part}' must be a key=value pair")
        if key not in _KEYS:
            raise Invalid(f"unexpected key '{name}' in '{part}'", hint="keys: " + ", ".join(sorted(_KEYS)))
        if key == "from" and "$" in value[:-1]:
            raise Invalid("'from' doesn't support variable expansion, define alias stage instead")
        values[key] = expand(value) if equals else "true"
        if key == "readwrite":
            values["readonly"] = "false" if _truth(name, values[key]) else "true"
        elif key in ("readonly", "required"):
            values[key] = str(_truth(name, values[key])).lower()
        elif key == "sharing":
            values[key] = values[key].lower()
    kind = values.get("type", "bind").lower()
    if kind not in get_args(MountKind):
        raise Invalid(f'unsupported mount type "{kind}"', hint="types: " + ", ".join(get_args(MountKind)))
    _check(kind, values)
    return _mount(kind, values, cwd)


def _fields(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise Invalid(f"failed to parse csv mounts: {error}") from error


def _check(kind: str, values: dict[str, str]) -> None:
    for key in ("mode", "uid", "gid"):
        if key in values and kind in ("bind", "tmpfs"):
            raise Invalid(f'{key} not allowed for "{kind}" type mounts')
    for key, owners in (("required", ("secret", "ssh")), ("size", ("tmpfs",))):
        if key in values and kind not in owners:
            raise Invalid(f"unexpected key '{key}' for mount type '{kind}'")
    if values.get("sharing", "shared") not in ("shared", "private", "locked"):
        raise Invalid(f'unsupported sharing value "{values["sharing"]}"')
    if kind == "secret":
        if "from" in values:
            raise Invalid("secret mount should not have a from")
        if "sharing" in values:
            raise Invalid("secret mount should not define sharing")
        if not any(values.get(key) for key in ("source", "target", "id")):
            raise Invalid("invalid secret mount. one of source, target required")
        if values.get("source") and values.get("id"):
            raise Invalid("both source and id can't be set")
    elif kind == "ssh" and values.get("source"):
        raise Invalid("ssh does not support source")
    if "sharing" in values and kind != "cache":
        raise Invalid(f"invalid cache sharing set for {kind} mount")


def _mount(kind: str, values: dict[str, str], cwd: str) -> MountOption:
    given = values.get("target", "")
    target = posixpath.normpath(posixpath.join(cwd or "/", given)).replace("//", "/", 1)
    mount_id, source = values.get("id", ""), values.get("source", "")
    env = values.get("env")
    if kind == "cache":
        mount_id = mount_id or posixpath.normpath(given)
    elif kind == "secret":
        mount_id, source = source or mount_id or posixpath.basename(given), ""
        env = None if env is None else env or mount_id
        if not given:
            target = f"/run/secrets/{posixpath.basename(mount_id)}" if env is None else ""
    elif kind == "ssh":
        mount_id = mount_id or "default"
        target = target if given else ""
    if target == "/":
        raise Invalid(f'invalid mount target "{target}"', hint="a mount needs a target below the root")
    sharing = values.get("sharing", "shared")
    return MountOption(
        kind=next(known for known in get_args(MountKind) if known == kind),
        target=target,
        source=source,
        origin=values.get("from", "") if kind in ("bind", "cache") else "",
        id=mount_id,
        readonly=values.get("readonly", "false" if kind in ("cache", "tmpfs") else "true") == "true",
        sharing="private" if sharing == "private" else "locked" if sharing == "locked" else "shared",
        mode=_octal(values["mode"]) if "mode" in values else None,
        uid=_number("uid", values["uid"]) if "uid" in values else None,
        gid=_number("gid", values["gid"]) if "gid" in values else None,
        size=_size(values["size"]) if "size" in values else 0,
        required=values.get("required") == "true",
        env=env,
    )


def _truth(key: str, value: str) -> bool:
    found = TRUTHS.get(value.lower())
    if found is None:
        raise Invalid(f"invalid value for {key}: {value}")
    return found


def _octal(value: str) -> int:
    if not re.fullmatch(r"[0-7]{1,11}", value):
        raise Invalid(f"invalid value {value} for mode")
    return int(value, 8) & 0o7777


def _number(key: str, value: str) -> int:
    if not _NUMBER.fullmatch(value) or int(value) > MAX_ID:
        raise Invalid(f"invalid value {value} for {key}")
    return int(value)


def _size(value: str) -> int:
    match = _SIZE.fullmatch(value)
    size = int(Decimal(match[1]) * (1 << _UNITS[match[2].lower()])) if match else 0
    if not match or size >= 1 << 63:
        raise Invalid(f"invalid value for size: {value}")
    return size
