"""User namespaces of running containers, looked up by their processes. Blocking."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sampan.engine.userns import IdMaps, parse_maps
from sampan.errors import Conflict


def join_user_namespace(joined: Mapping[str, int]) -> int:
    """A descriptor of the user namespace that namespaces to be joined belong to.

    `joined`: namespace type -> a process that has it. Raises `Conflict` when they are of several containers with
    different user namespaces, or of one in the host's: a process has only one, and rights only over what is its.
    """
    found = {pid: _identity(f"/proc/{pid}/ns/user") for pid in joined.values()}
    if len(set(found.values())) > 1:
        raise Conflict("namespaces of containers in different user namespaces can't be joined together")
    if _identity("/proc/self/ns/user") in found.values():
        kinds = ", ".join(joined)
        raise Conflict(
            f"cannot join the {kinds} namespace of a container in the host's user namespace from another one",
            hint="--userns host",
        )
    return os.open(f"/proc/{next(iter(found))}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise Conflict("a container whose namespaces are to be joined has ended") from error
    return status.st_dev, status.st_ino


def id_maps_of(pid: int) -> IdMaps | None:
    """The ids that a process's user namespace maps; None in the host's own, or when it has ended."""
    texts = []
    for name in ("uid_map", "gid_map"):
        try:
            with open(f"/proc/{pid}/{name}", encoding="ascii") as file:
                texts.append(file.read())
        except (FileNotFoundError, ProcessLookupError):
            return None
    return parse_maps(*texts)
