"""Control groups of both versions behind one protocol: make, limit, measure, freeze, kill, remove.

Knows nothing of containers or of the OCI configuration; roots are passed in.
"""

from __future__ import annotations

from sampan.linux.cgroups.host import CgroupHost, detect
from sampan.linux.cgroups.model import (
    BlockIoEntry,
    Cgroup,
    CgroupLimits,
    CgroupStats,
    CpuStats,
    DeviceRule,
    DeviceWeight,
    MemoryStats,
    PidsStats,
    Throttle,
)

__all__ = [
    "BlockIoEntry",
    "Cgroup",
    "CgroupHost",
    "CgroupLimits",
    "CgroupStats",
    "CpuStats",
    "DeviceRule",
    "DeviceWeight",
    "MemoryStats",
    "PidsStats",
    "Throttle",
    "detect",
]
