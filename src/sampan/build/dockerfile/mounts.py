"""`RUN --mount=type=...,key=value`: parsing and checks, in Docker's words. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from typing import get_args

from sampan.build.model import MountKind, MountOption
from sampan.errors import Invalid, Unsupported

_KEYS = {
    "bind": frozenset({"source", "target", "from", "readonly"}),
    "cache": frozenset({"id", "source", "target", "from", "readonly", "sharing", "mode", "uid", "gid"}),
    "tmpfs": frozenset({"target", "size"}),
    "secret": frozenset({"id", "target", "required", "mode", "uid", "gid", "env"}),
    "ssh": frozenset({"id", "target", "required", "mode", "uid", "gid"}),
}
_ALIASES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
_NUMBER = re.compile(r"[0-9]+")
_SIZE = re.compile(r"([0-9]+)([kmgt]?)i?b?", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def parse_mount(text: str, expand: Callable[[str], str], cwd: str) -> MountOption:
    """`expand` replaces variables in a value; a relative target counts from `cwd`. Raises `Invalid`."""
    values: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        if key in ("rw", "readwrite"):
            key, value = "readonly", "false" if value in ("", "true") else "true"
        elif not equals:
            value = "true"
            if key not in ("readonly", "ro", "required"):
                raise Invalid(f"invalid field '{part}' must be a key=value pair")
        values[_ALIASES.get(key, key)] = expand(value)
    kind = values.pop("type", "bind")
    if kind not in _KEYS:
        raise Invalid(f'unsupported mount type "{kind}"', hint="types: " + ", ".join(_KEYS))
    for key in values:
        if key not in _KEYS[kind]:
            raise Invalid(f"unexpected key '{key}' for mount type '{kind}'")
    return _mount(kind, values, cwd)


def _mount(kind: str, values: dict[str, str], cwd: str) -> MountOption:
    target = values.get("target", "")
    if kind in ("bind", "cache", "tmpfs"):
        if not target:
            raise Invalid(f"invalid mount: a {kind} mount needs a target")
        target = posixpath.normpath(posixpath.join(cwd, target))
        if target.strip("/") == "":
            raise Invalid(f"invalid mount target {target!r}: it is the root")
    sharing = values.get("sharing", "shared")
    if sharing not in ("shared", "private", "locked"):
        raise Invalid(f'unsupported sharing value "{sharing}"')
    return MountOption(
        kind=next(known for known in get_args(MountKind) if known == kind),
        target=target,
        source=values.get("source", ""),
        origin=values.get("from", ""),
        id=values.get("id", "") or (target if kind == "cache" else ""),
        readonly=_truth(values.get("readonly", "true" if kind == "bind" else "false")),
        sharing="private" if sharing == "private" else "locked" if sharing == "locked" else "shared",
        mode=_octal(values["mode"]) if "mode" in values else None,
        uid=_number("uid", values["uid"]) if "uid" in values else None,
        gid=_number("gid", values["gid"]) if "gid" in values else None,
        size=_size(values["size"]) if "size" in values else 0,
        required=_truth(values.get("required", "false")),
        env=values.get("env", ""),
    )


def require_supported(mount: MountOption) -> None:
    """Raises `Unsupported` for what the builder can't do yet."""
    if mount.kind in ("secret", "ssh"):
        raise Unsupported(
            f"RUN --mount=type={mount.kind} is not supported by this version of sampan",
            hint="types that work: bind (of the build context), cache, tmpfs",
        )
    if mount.origin:
        raise Unsupported(
            f"RUN --mount=type={mount.kind},from={mount.origin} is not supported by this version of sampan",
            hint="COPY --from brings files of another stage or image in",
        )


def _truth(value: str) -> bool:
    if value.lower() in ("true", "1", ""):
        return True
    if value.lower() in ("false", "0"):
        return False
    raise Invalid(f"invalid boolean value {value!r} in a mount")


def _octal(value: str) -> int:
    if not re.fullmatch(r"[0-7]{1,5}", value):
        raise Invalid(f"invalid value {value} for mode")
    return int(value, 8) & 0o7777


def _number(key: str, value: str) -> int:
    if not _NUMBER.fullmatch(value) or len(value) > 10:
        raise Invalid(f"invalid value {value} for {key}")
    return int(value)


def _size(value: str) -> int:
    match = _SIZE.fullmatch(value)
    if not match or len(match[1]) > 15:
        raise Invalid(f"invalid value for size: {value}")
    return int(match[1]) << _UNITS[match[2].lower()]
