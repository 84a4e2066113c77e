"""Limits: from HostConfig to the runtime configuration's resources, and to a live control group. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from sampan.engine.config import HostConfig, ThrottleDevice
from sampan.linux.cgroups import CgroupLimits
from sampan.linux.cgroups.model import UNLIMITED
from sampan.oci import spec
from sampan.oci.spec import (
    BlockIoLimits,
    CpuLimits,
    DeviceRule,
    MemoryLimits,
    PidsLimits,
    Resources,
    WeightDevice,
)

CPU_PERIOD = 100_000
"""Microseconds; the period that NanoCpus are translated with."""

Numbers = Mapping[str, tuple[int, int]]


def cgroup_path(host: HostConfig, container_id: str, parent: str) -> str:
    """Below the container's own parent or that of all; `..` leads to the root at most, as in Docker."""
    return posixpath.join(posixpath.normpath(f"/{(host.cgroup_parent or parent).lstrip('/')}"), container_id)


def resources(host: HostConfig, devices: tuple[DeviceRule, ...], numbers: Numbers) -> Resources:
    return Resources(
        devices=devices,
        memory=_memory(host),
        cpu=_cpu(host),
        pids=PidsLimits(limit=host.pids_limit) if host.pids_limit and host.pids_limit > 0 else None,
        block_io=_block_io(host, numbers),
    )


def _memory(host: HostConfig) -> MemoryLimits | None:
    limits = MemoryLimits(
        limit=host.memory or None,
        reservation=host.memory_reservation or None,
        swap=(host.memory_swap or None) if host.memory else None,
        swappiness=host.memory_swappiness if host.memory_swappiness not in (None, -1) else None,
        disable_oom_killer=True if host.oom_kill_disable else None,
    )
    return None if limits == MemoryLimits() else limits


def cpu_quota(host: HostConfig) -> tuple[int | None, int | None]:
    """(quota, period) in microseconds; None is "not limited"."""
    if host.nano_cpus:
        return host.nano_cpus * CPU_PERIOD // 1_000_000_000, CPU_PERIOD
    return host.cpu_quota or None, host.cpu_period or None


def _cpu(host: HostConfig) -> CpuLimits | None:
    quota, period = cpu_quota(host)
    limits = CpuLimits(
        shares=host.cpu_shares or None,
        quota=quota,
        period=period,
        realtime_runtime=host.cpu_realtime_runtime or None,
        realtime_period=host.cpu_realtime_period or None,
        cpus=host.cpuset_cpus or None,
        mems=host.cpuset_mems or None,
    )
    return None if limits == CpuLimits() else limits


def _block_io(host: HostConfig, numbers: Numbers) -> BlockIoLimits | None:
    limits = BlockIoLimits(
        weight=host.blkio_weight or None,
        weight_device=tuple(
            WeightDevice(*numbers[device.path], weight=device.weight)
            for device in host.blkio_weight_device or ()
        ),
        read_bps=_throttles(host.blkio_device_read_bps, numbers),
        write_bps=_throttles(host.blkio_device_write_bps, numbers),
        read_iops=_throttles(host.blkio_device_read_iops, numbers),
        write_iops=_throttles(host.blkio_device_write_iops, numbers),
    )
    return None if limits == BlockIoLimits() else limits


def _throttles(
    devices: tuple[ThrottleDevice, ...] | None, numbers: Numbers
) -> tuple[spec.ThrottleDevice, ...]:
    return tuple(spec.ThrottleDevice(*numbers[device.path], device.rate) for device in devices or ())


def live_limits(host: HostConfig) -> CgroupLimits:
    """What `update` writes into the group of a running container."""
    quota, period = cpu_quota(host)
    return CgroupLimits(
        memory=host.memory or None,
        memory_swap=(host.memory_swap or None) if host.memory else None,
        memory_reservation=host.memory_reservation or None,
        cpu_shares=host.cpu_shares or None,
        cpu_quota=quota,
        cpu_period=period,
        cpu_rt_runtime=host.cpu_realtime_runtime or None,
        cpu_rt_period=host.cpu_realtime_period or None,
        cpuset_cpus=host.cpuset_cpus or None,
        cpuset_mems=host.cpuset_mems or None,
        # 0 in a record is an unlimited number, while in a group it leaves the limit as it is.
        pids=UNLIMITED if host.pids_limit is not None and host.pids_limit <= 0 else host.pids_limit,
        blkio_weight=host.blkio_weight or None,
    )
