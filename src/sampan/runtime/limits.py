"""Resources of the runtime-spec (config-linux.md, "Control groups") to the limits of `linux.cgroups`. Pure."""

from __future__ import annotations

from sampan.errors import Invalid
from sampan.linux.cgroups import CgroupLimits, DeviceRule, DeviceWeight, Throttle
from sampan.oci import spec as oci

# What every container may use, whatever its policy says: config-linux.md, "Default Devices", and terminals.
_DEFAULT_RULES = (
    DeviceRule(True, "c", None, None, "m"),
    DeviceRule(True, "b", None, None, "m"),
    DeviceRule(True, "c", 1, 3),
    DeviceRule(True, "c", 1, 5),
    DeviceRule(True, "c", 1, 7),
    DeviceRule(True, "c", 1, 8),
    DeviceRule(True, "c", 1, 9),
    DeviceRule(True, "c", 5, 0),
    DeviceRule(True, "c", 5, 1),
    DeviceRule(True, "c", 5, 2),
    DeviceRule(True, "c", 136, None),
)


def limits_of(resources: oci.Resources | None) -> CgroupLimits:
    """Raises `Invalid` for a rule that means nothing."""
    if resources is None:
        return CgroupLimits()
    memory = resources.memory or oci.MemoryLimits()
    cpu = resources.cpu or oci.CpuLimits()
    io = resources.block_io or oci.BlockIoLimits()
    return CgroupLimits(
        memory=memory.limit,
        memory_swap=memory.swap,
        memory_reservation=memory.reservation,
        memory_swappiness=memory.swappiness,
        oom_kill_disable=memory.disable_oom_killer,
        cpu_shares=cpu.shares,
        cpu_quota=cpu.quota,
        cpu_period=cpu.period,
        cpu_burst=cpu.burst,
        cpu_rt_runtime=cpu.realtime_runtime,
        cpu_rt_period=cpu.realtime_period,
        cpu_idle=cpu.idle,
        cpuset_cpus=cpu.cpus,
        cpuset_mems=cpu.mems,
        # runc: 0 is "not set"; below that is unlimited.
        pids=None if resources.pids is None or resources.pids.limit == 0 else max(resources.pids.limit, -1),
        blkio_weight=io.weight,
        blkio_weight_devices=tuple(
            DeviceWeight(one.major, one.minor, one.weight)
            for one in io.weight_device
            if one.weight is not None
        ),
        read_bps=_throttles(io.read_bps),
        write_bps=_throttles(io.write_bps),
        read_iops=_throttles(io.read_iops),
        write_iops=_throttles(io.write_iops),
        devices=_device_rules(resources.devices),
        unified=resources.unified or {},
    )


def _throttles(devices: tuple[oci.ThrottleDevice, ...]) -> tuple[Throttle, ...]:
    return tuple(Throttle(device.major, device.minor, device.rate) for device in devices)


def _device_rules(rules: tuple[oci.DeviceRule, ...]) -> tuple[DeviceRule, ...]:
    if not rules:
        return ()
    result = []
    for rule in rules:
        kind = rule.type or "a"
        if kind not in ("a", "b", "c"):
            raise Invalid(f"device rule: unknown type {kind!r}")
        access = rule.access or "rwm"
        if set(access) - set("rwm"):
            raise Invalid(f"device rule: unknown access {access!r}")
        result.append(DeviceRule(rule.allow, kind, _number(rule.major), _number(rule.minor), access))
    return (*result, *_DEFAULT_RULES)


def _number(value: int | None) -> int | None:
    """A negative number stands for any, as in runc."""
    return None if value is None or value < 0 else value


def group_path(cgroups_path: str | None) -> str | None:
    """`linux.cgroupsPath` as a path below the control groups' root; None when it is not set.

    The systemd form `slice:prefix:name` is the path at which systemd would have put it.
    """
    if not cgroups_path:
        return None
    if cgroups_path.count(":") != 2:
        return cgroups_path
    slice_name, prefix, name = cgroups_path.split(":")
    slice_name = slice_name or "system.slice"
    parts = slice_name.removesuffix(".slice").split("-")
    parents = ["-".join(parts[: index + 1]) + ".slice" for index in range(len(parts))]
    leaf = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    return "/".join((*parents, leaf))
