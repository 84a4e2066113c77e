"""Which control groups a host has, and where."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from sampan.errors import Unsupported
from sampan.linux.cgroups.device_filter import attach_device_program
from sampan.linux.cgroups.files import Directories, KernelDirectories
from sampan.linux.cgroups.model import Cgroup, check_path
from sampan.linux.cgroups.v1 import CgroupV1
from sampan.linux.cgroups.v2 import AttachDevices, CgroupV2

_V1_CONTROLLERS = frozenset(
    (
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "net_cls",
        "net_prio",
        "pids",
    )
    + ("perf_event", "rdma", "misc")
)
_NAMED = "systemd"
"""The hierarchy without a controller in which systemd keeps track of processes."""

_V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")


class CgroupHost(msgspec.Struct, frozen=True):
    """What control groups this host has.

    `layout`: "v1", "hybrid" (version 1's controllers, beside a version 2 hierarchy without them) or "v2".
    """

    layout: str
    root: str
    controllers: frozenset[str]
    hierarchies: Mapping[str, str] = msgspec.field(default_factory=dict)
    directories: Directories = msgspec.field(default_factory=KernelDirectories)
    attach_devices: AttachDevices = attach_device_program

    def group(self, path: str) -> Cgroup:
        """The group at `path` below the root(s); nothing is made yet. Raises `Invalid` for a bad path."""
        path = check_path(path)
        if self.layout == "v2":
            used = [controller for controller in _V2_CONTROLLERS if controller in self.controllers]
            return CgroupV2(path, self.root, used, self.directories, self.attach_devices)
        return CgroupV1(path, self.hierarchies, self.directories)

    @property
    def swap_limit(self) -> bool:
        """Whether `memory_swap` can be enforced."""
        if "memory" not in self.controllers:
            return False
        if self.layout == "v2":
            # The root itself has no limits; the kernel has swap accounting whenever it has swap.
            return os.path.exists("/proc/swaps")
        return os.path.exists(f"{self.hierarchies['memory']}/memory.memsw.limit_in_bytes")


def detect(
    root: Path = Path("/sys/fs/cgroup"),
    *,
    directories: Directories | None = None,
    attach_devices: AttachDevices = attach_device_program,
) -> CgroupHost:
    """Raises `Unsupported` when no control groups are mounted at `root`.

    `directories`, `attach_devices`: what acts on the kernel, for tests that have none.
    """
    directories = directories or KernelDirectories()
    controllers_file = root / "cgroup.controllers"
    if controllers_file.exists():
        controllers = frozenset(controllers_file.read_text().split())
        return CgroupHost("v2", str(root), controllers, {}, directories, attach_devices)
    hierarchies = _hierarchies(root)
    if not hierarchies:
        raise Unsupported(
            f"no control groups are mounted at {root}",
            hint="mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd",
        )
    unified = (root / "unified" / "cgroup.controllers").exists()
    controllers = frozenset(hierarchies) & _V1_CONTROLLERS
    return CgroupHost(
        "hybrid" if unified else "v1", str(root), controllers, hierarchies, directories, attach_devices
    )


def _hierarchies(root: Path) -> dict[str, str]:
    """Controller -> real directory of the root of its hierarchy: `cpu` and `cpuacct` may be one, by symlinks."""
    found: dict[str, str] = {}
    if not root.is_dir():
        return found
    # Every shim does this once: no look at what can't be a hierarchy, no more system calls than needed.
    with os.scandir(root) as entries:
        for entry in entries:
            names = [name for name in entry.name.split(",") if name in _V1_CONTROLLERS or name == _NAMED]
            if names and os.path.exists(f"{entry.path}/cgroup.procs"):
                real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
                found.update(dict.fromkeys(names, real))
    return found
