"""SELinux labels of containers, by Docker's rules: one for their processes, one for their files.

The policy says what containers get (contexts/lxc_contexts); every container has two categories of its own in its
level (multi-category security), so that one can't reach another's files though their types are the same.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from sampan.engine.config import HostConfig
from sampan.errors import Invalid, Unsupported

CATEGORIES = 1024
_PARTS = ("user", "role", "type", "level")
_ATTRIBUTE = "security.selinux"
_NEVER_RELABELED = frozenset(
    ("/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root", "/run", "/sbin",
     "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contexts:
    """What the host's policy has for containers: `process` and `file`, each user:role:type:level."""

    process: str
    file: str


def find_contexts(enabled: bool, sys_root: Path = Path("/sys"), etc: Path = Path("/etc")) -> Contexts | None:
    """Those of the host's policy; None where SELinux is off, or not wanted (`enabled`, the daemon's option).

    Raises `Unsupported` for a policy that says nothing of containers.
    """
    if not enabled or not (sys_root / "fs/selinux/enforce").exists():
        return None
    policy = _settings(_read(etc / "selinux/config")).get("SELINUXTYPE", "targeted")
    path = etc / "selinux" / policy / "contexts" / "lxc_contexts"
    found = _settings(_read(path))
    if "process" not in found or "file" not in found:
        raise Unsupported(
            f"SELinux is enabled, but {path} has no labels for containers",
            hint="install the policy for containers (container-selinux), or leave --selinux-enabled out",
        )
    return Contexts(found["process"], found["file"])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _settings(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip('"') for name, _, value in pairs}


def with_default_options(host: HostConfig) -> HostConfig:
    """A container that shares the host's processes is not confined by labels, and says so, as Docker's. Pure."""
    options = host.security_opt or ()
    if any(option.partition("=")[0] == "label" for option in options):
        return host
    if host.privileged or "host" in (host.pid_mode, host.ipc_mode):
        return replace(host, security_opt=(*options, "label=disable"))
    return host


def label_options(options: Iterable[str]) -> tuple[str, ...]:
    """What `--security-opt label=…` (or `label:…`) says."""
    found = (option.partition("=" if "=" in option else ":") for option in options)
    return tuple(value for name, _, value in found if name == "label")


def unique_level(used: Collection[str], pick: Callable[[int], int]) -> str:
    """A level with two different categories that no other container has. `pick(n)`: any number below n."""
    while True:
        low, high = sorted((pick(CATEGORIES), pick(CATEGORIES)))
        level = f"s0:c{low},c{high}"
        if low != high and level not in used:
            return level


def level_of(label: str) -> str:
    return label.split(":", 3)[3] if label.count(":") >= 3 else ""


def labels(contexts: Contexts, options: Iterable[str], level: str) -> tuple[str, str]:
    """(process label, mount label) of a container. Pure. Raises `Invalid` for an option that is none."""
    process, file = _parts(contexts.process), _parts(contexts.file)
    process["level"] = file["level"] = level
    for option in options:
        if option == "disable":
            return "", ":".join(file.values())
        name, colon, value = option.partition(":")
        if not colon or name not in (*_PARTS, "filetype"):
            raise Invalid(
                f"Bad label option {option!r}, valid options 'disable' or 'user, role, level, type, filetype' "
                "followed by ':' and a value"
            )
        if name == "filetype":
            file["type"] = value
            continue
        process[name] = value
        if name in ("level", "user"):
            file[name] = value
    return ":".join(process.values()), ":".join(file.values())


def _parts(label: str) -> dict[str, str]:
    values = label.split(":", 3)
    return dict(zip(_PARTS, (*values, *([""] * (4 - len(values)))), strict=True))


def volume_label(mount_label: str, mode: str) -> str:
    """What `z` (shared by all containers) and `Z` (for this one alone) make of a source; "" without either. Pure."""
    options = mode.split(",")
    if "Z" in options:
        return mount_label
    return ":".join({**_parts(mount_label), "level": "s0"}.values()) if "z" in options else ""


def relabel(path: str, label: str) -> None:
    """Blocking: give everything at and below `path` the label; symbolic links are labelled, not followed.

    Raises `Invalid` for a directory of the system itself, and `Unsupported` where files can't have labels.
    """
    if os.path.realpath(path) in _NEVER_RELABELED:
        raise Invalid(f"SELinux relabeling of {path} is not allowed")
    value = label.encode() + b"\0"
    try:
        _label(path, value)
        # By descriptors: a container that swaps a directory for a link meanwhile must not lead us out of it.
        for _, subdirectories, files, directory in os.fwalk(path):
            for name in (*subdirectories, *files):
                _label(f"/proc/self/fd/{directory}/{name}", value)
    except OSError as error:
        raise Unsupported(
            f"{path} can't be relabeled: {os.strerror(error.errno or errno.EIO).lower()}"
        ) from error


def _label(path: str, value: bytes) -> None:
    try:
        os.setxattr(path, _ATTRIBUTE, value, follow_symlinks=False)
    except FileNotFoundError:
        return  # a container removed it meanwhile
