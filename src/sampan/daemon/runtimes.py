"""Other OCI runtimes that containers may choose: `--add-runtime`, the file's `runtimes`, and what the host has."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping

from sampan.errors import Invalid

OWN = "sampan"
_FOUND = ("runc", "crun")
"""Known by name where they are installed."""
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


def parse_runtimes(value: object) -> dict[str, tuple[str, ...]]:
    """Name -> command, from a list of NAME=PATH or the file's {NAME: {"path": …, "runtimeArgs": […]}}, with what is
    installed here. Raises `Invalid`."""
    found: dict[str, tuple[str, ...]] = {}
    if isinstance(value, Mapping):
        for name, entry in value.items():
            path = entry.get("path") if isinstance(entry, Mapping) else None
            arguments = entry.get("runtimeArgs") or () if isinstance(entry, Mapping) else ()
            if not isinstance(path, str) or not isinstance(arguments, list | tuple):
                raise Invalid(
                    f"invalid runtime {name!r}: expected {{'path': PATH, 'runtimeArgs': [ARGUMENT]}}"
                )
            found[str(name)] = (path, *map(str, arguments))
    else:
        for item in value if isinstance(value, list) else ():
            name, equals, path = str(item).partition("=")
            if not equals or not path:
                raise Invalid(f"invalid runtime argument: {item}", hint="expected NAME=PATH")
            if name in found:
                raise Invalid(f"runtime {name!r} already exists")
            found[name] = (path,)
    for name in found:
        if name == OWN:
            raise Invalid(f"runtime name '{name}' is reserved")
        if not _NAME.fullmatch(name):
            raise Invalid(f"invalid runtime name: {name!r}")
    return {name: _resolved(name, command) for name, command in {**_installed(), **found}.items()}


def check_default(name: str, runtimes: Mapping[str, object]) -> str:
    """The default runtime's name. Raises `Invalid` for one that there is not."""
    if name != OWN and name not in runtimes:
        raise Invalid(f"specified default runtime '{name}' does not exist")
    return name


def _installed() -> dict[str, tuple[str, ...]]:
    return {name: (path,) for name in _FOUND if (path := shutil.which(name)) is not None}


def _resolved(name: str, command: tuple[str, ...]) -> tuple[str, ...]:
    path = shutil.which(command[0])
    if path is None:
        raise Invalid(f"runtime {name}: {command[0]} is not an executable file")
    return (os.path.abspath(path), *command[1:])
