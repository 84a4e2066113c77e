"""Which limits a host's control groups can enforce."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sampan.linux.cgroups import files
from sampan.linux.cgroups.host import CgroupHost

_THROTTLES = frozenset(("read_bps", "write_bps", "read_iops", "write_iops"))


@dataclass(frozen=True, slots=True)
class CgroupFeatures:
    """A false member is a limit that this host can't enforce. By default there is everything."""

    memory: bool = True
    swap: bool = True
    memory_reservation: bool = True
    swappiness: bool = True
    oom_kill_disable: bool = True
    pids: bool = True
    cpu_shares: bool = True
    cpu_quota: bool = True
    cpu_realtime: bool = True
    cpuset: bool = True
    blkio_weight: bool = True
    blkio_weight_device: bool = True
    throttle: frozenset[str] = _THROTTLES


def detect_features(host: CgroupHost) -> CgroupFeatures:
    """From the controllers, in version 1 also from the files of their roots."""
    if host.layout == "v2":
        return _of_version_2(host)

    def has(controller: str, name: str) -> bool:
        root = host.hierarchies.get(controller)
        return root is not None and os.path.exists(f"{root}/{name}")

    return CgroupFeatures(
        memory="memory" in host.controllers,
        swap=host.swap_limit,
        memory_reservation=has("memory", "memory.soft_limit_in_bytes"),
        swappiness=has("memory", "memory.swappiness"),
        oom_kill_disable=has("memory", "memory.oom_control"),
        pids="pids" in host.controllers,
        cpu_shares=has("cpu", "cpu.shares"),
        cpu_quota=has("cpu", "cpu.cfs_quota_us"),
        cpu_realtime=has("cpu", "cpu.rt_runtime_us"),
        cpuset="cpuset" in host.controllers,
        blkio_weight=has("blkio", "blkio.weight"),
        blkio_weight_device=has("blkio", "blkio.weight_device"),
        throttle=frozenset(kind for kind in _THROTTLES if has("blkio", f"blkio.throttle.{kind}_device")),
    )


def _of_version_2(host: CgroupHost) -> CgroupFeatures:
    memory, cpu, io = (name in host.controllers for name in ("memory", "cpu", "io"))
    return CgroupFeatures(
        memory=memory,
        swap=host.swap_limit,
        memory_reservation=memory,
        swappiness=False,
        oom_kill_disable=False,
        pids="pids" in host.controllers,
        cpu_shares=cpu,
        cpu_quota=cpu,
        cpu_realtime=False,
        cpuset="cpuset" in host.controllers,
        blkio_weight=io,
        blkio_weight_device=io,
        throttle=_THROTTLES if io else frozenset(),
    )


def available_cpuset(host: CgroupHost) -> tuple[str, str]:
    """Processors and memory nodes that groups can have, as the kernel lists them ("0-3"); "" where it doesn't."""
    if host.layout == "v2":
        directory, suffix = host.root, ".effective"
    else:
        directory, suffix = host.hierarchies.get("cpuset", ""), ""
    cpus, mems = (
        (files.read(f"{directory}/cpuset.{kind}{suffix}") or "").strip() for kind in ("cpus", "mems")
    )
    return cpus or _text("/sys/devices/system/cpu/online"), mems or _text("/sys/devices/system/node/online")


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
