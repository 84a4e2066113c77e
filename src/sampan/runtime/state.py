"""The state of containers that `sampan-runtime` made: a directory each below its root (runtime.md, section "State")."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from sampan.errors import Conflict, Internal, Invalid, NotFound
from sampan.linux import process
from sampan.linux.cgroups import Cgroup, detect
from sampan.oci.spec import Spec, parse_spec
from sampan.runtime.limits import group_path

START_SOCKET = "start.sock"
_STATE_FILE = "state.json"
_CONFIG_FILE = "config.json"
_ID = re.compile(r"[A-Za-z0-9_+.-]{1,1024}")


class Record(msgspec.Struct, frozen=True, rename="camel"):
    """What is known of a container besides its configuration. `start_time` as in `Created`; `created` RFC 3339."""

    oci_version: str
    id: str
    pid: int
    start_time: int
    bundle: str
    created: str
    cgroup: str | None = None


class StoredContainer(msgspec.Struct, frozen=True):
    directory: Path
    record: Record

    @property
    def status(self) -> str:
        """created, running, paused or stopped, as it is now."""
        if not is_alive(self.record.pid, self.record.start_time):
            return "stopped"
        if (self.directory / START_SOCKET).exists():
            return "created"
        group = self.cgroup()
        return "paused" if group is not None and group.exists() and group.frozen() else "running"

    def spec(self) -> Spec:
        """The configuration as it was at creation, whatever became of the bundle's."""
        return parse_spec((self.directory / _CONFIG_FILE).read_bytes())

    def cgroup(self) -> Cgroup | None:
        return detect().group(self.record.cgroup) if self.record.cgroup else None

    def document(self) -> dict[str, Any]:
        """The state as runtime.md has it, and what runc adds."""
        status = self.status
        spec = self.spec()
        result: dict[str, Any] = {
            "ociVersion": self.record.oci_version,
            "id": self.record.id,
            "pid": 0 if status == "stopped" else self.record.pid,
            "status": status,
            "bundle": self.record.bundle,
            "rootfs": os.path.join(self.record.bundle, spec.root.path if spec.root else ""),
            "created": self.record.created,
            "owner": "",
        }
        if spec.annotations:
            result["annotations"] = spec.annotations
        return result


def _is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None and text not in (".", "..")


class StateStore:
    """Names are reserved by making the directory; the state file appears when the container is there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def reserve(self, container_id: str) -> Path:
        """Raises `Invalid` for a bad id, `Conflict` when it is taken."""
        if not _is_id(container_id):
            raise Invalid(f"invalid container ID format: {container_id}")
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = self.root / container_id
        try:
            directory.mkdir(mode=0o711)
        except FileExistsError as error:
            raise Conflict(f"container with given ID already exists: {container_id}") from error
        return directory

    def save(self, directory: Path, record: Record, config: bytes) -> None:
        (directory / _CONFIG_FILE).write_bytes(config)
        temporary = directory / f".{_STATE_FILE}"
        temporary.write_bytes(msgspec.json.encode(record))
        temporary.replace(directory / _STATE_FILE)

    def load(self, container_id: str) -> StoredContainer:
        """Raises `NotFound`, `Internal` when the file is malformed."""
        directory = self.root / container_id
        if not _is_id(container_id):
            raise NotFound(f"container {container_id!r} does not exist")
        try:
            raw = (directory / _STATE_FILE).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound("container does not exist") from error
        try:
            return StoredContainer(directory, msgspec.json.decode(raw, type=Record))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Internal(f"malformed state of container {container_id}: {error}") from error

    def containers(self) -> Iterator[StoredContainer]:
        if not self.root.is_dir():
            return
        for name in sorted(os.listdir(self.root)):
            if (self.root / name / _STATE_FILE).exists():
                yield self.load(name)

    def remove(self, directory: Path) -> None:
        """What `save` and the listening socket left: plain files."""
        for name in os.listdir(directory):
            os.unlink(directory / name)
        os.rmdir(directory)


def cgroup_path_of(spec: Spec, container_id: str) -> str:
    """Without a path in the configuration a container gets a group of its own name, as from runc."""
    return group_path(spec.linux.cgroups_path if spec.linux else None) or container_id


def is_alive(pid: int, start_time: int) -> bool:
    """Whether the very process lives; a zombie does not."""
    try:
        return process.start_time(pid) == start_time and process.state(pid) not in "ZX"
    except (OSError, ValueError):
        return False
