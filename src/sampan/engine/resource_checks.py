"""Checks of a container's limits, in Docker's words. Pure: facts of the host are arguments."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from sampan.engine.config import HostConfig
from sampan.engine.host_facts import HostFacts
from sampan.errors import Invalid
from sampan.linux.cgroups.features import CgroupFeatures

MINIMUM_MEMORY = 6 * 1024 * 1024
_GREATEST_MEMORY = (1 << 63) - 1
_GREATEST_CPU = 8192
_MOST_DIGITS = 18
"""Of a processor's number: far beyond the greatest, and what Python still takes for a number."""
_NOT_MOUNTED = "or the cgroup is not mounted."


def check_resources(
    host: HostConfig, facts: HostFacts, warnings: list[str], *, update: bool = False
) -> HostConfig:
    """The limits without those that the host can't enforce, of which `warnings` tell. Raises `Invalid`.

    `update`: `host` has those limits only that are to be changed.
    """
    features = facts.features
    host = _check_memory(host, features, warnings, update)
    host = _check_out_of_memory(host, features, warnings)
    if host.pids_limit is not None and not features.pids:
        if host.pids_limit > 0:
            warnings.append(
                f"Your kernel does not support PIDs limit capabilities {_NOT_MOUNTED} PIDs limit discarded."
            )
        host = replace(host, pids_limit=None)
    host = _check_cpu(host, facts, warnings)
    host = _check_cpuset(host, facts, warnings)
    return _check_block_io(host, features, warnings)


def _check_memory(
    host: HostConfig, features: CgroupFeatures, warnings: list[str], update: bool
) -> HostConfig:
    if host.memory != 0 and host.memory < MINIMUM_MEMORY:
        raise Invalid("Minimum memory limit allowed is 6MB")
    if host.memory and not features.memory:
        warnings.append(
            f"Your kernel does not support memory limit capabilities {_NOT_MOUNTED} Limitation discarded."
        )
        host = replace(host, memory=0, memory_swap=-1)
    memory, swap = host.memory, host.memory_swap
    if memory and swap != -1 and not features.swap:
        warnings.append(
            f"Your kernel does not support swap limit capabilities {_NOT_MOUNTED} Memory limited without swap."
        )
        host = replace(host, memory_swap=-1)
    elif memory and 0 < swap < memory:
        raise Invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
    elif memory and swap == 0 and not update:
        # Not beyond what a record can hold: one that could not be read again would keep the engine from starting.
        host = replace(host, memory_swap=min(memory * 2, _GREATEST_MEMORY))
    if memory == 0 and swap > 0 and not update:
        raise Invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
    reservation = host.memory_reservation
    if reservation > 0 and not features.memory_reservation:
        warnings.append(
            f"Your kernel does not support memory soft limit capabilities {_NOT_MOUNTED} Limitation discarded."
        )
        return replace(host, memory_reservation=0)
    if 0 < reservation < MINIMUM_MEMORY:
        raise Invalid("Minimum memory reservation allowed is 6MB")
    if 0 < memory < reservation:
        raise Invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
    return host


def _check_out_of_memory(host: HostConfig, features: CgroupFeatures, warnings: list[str]) -> HostConfig:
    swappiness = host.memory_swappiness
    if swappiness is not None and swappiness != -1 and not features.swappiness:
        warnings.append(
            f"Your kernel does not support memory swappiness capabilities {_NOT_MOUNTED} "
            "Memory swappiness discarded."
        )
        host = replace(host, memory_swappiness=None)
    elif swappiness is not None and not -1 <= swappiness <= 100:
        raise Invalid(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    if host.oom_kill_disable is not None and not features.oom_kill_disable:
        if host.oom_kill_disable:
            warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        return replace(host, oom_kill_disable=None)
    if host.oom_kill_disable and not host.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the "
            "system running out of resources."
        )
    return host


def _check_cpu(host: HostConfig, facts: HostFacts, warnings: list[str]) -> HostConfig:
    if host.nano_cpus:
        if host.cpu_period > 0:
            raise Invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
        if host.cpu_quota > 0:
            raise Invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
        if not facts.features.cpu_quota:
            raise Invalid(
                "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler "
                "or the cgroup is not mounted"
            )
        # Docker names the range, but lets the kernel refuse what is below it when the container starts.
        if not 10_000_000 <= host.nano_cpus <= facts.cpus * 1_000_000_000:
            raise Invalid(
                f"Range of CPUs is from 0.01 to {facts.cpus}.00, as there are only {facts.cpus} CPUs available"
            )
    if host.cpu_shares < 0:
        raise Invalid(f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer")
    if host.cpu_shares and not facts.features.cpu_shares:
        warnings.append(f"Your kernel does not support CPU shares {_NOT_MOUNTED} Shares discarded.")
        host = replace(host, cpu_shares=0)
    if (host.cpu_period or host.cpu_quota) and not facts.features.cpu_quota:
        warnings.append("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.")
        host = replace(host, cpu_period=0, cpu_quota=0)
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise Invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1000:
        raise Invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    period, runtime = host.cpu_realtime_period, host.cpu_realtime_runtime
    if (period or runtime) and not facts.features.cpu_realtime:
        raise Invalid("Your kernel does not support CPU real-time scheduler")
    if period and runtime > period:
        raise Invalid("cpu real-time runtime cannot be higher than cpu real-time period")
    return host


def _check_cpuset(host: HostConfig, facts: HostFacts, warnings: list[str]) -> HostConfig:
    if not host.cpuset_cpus and not host.cpuset_mems:
        return host
    if not facts.features.cpuset:
        warnings.append(f"Your kernel does not support cpuset {_NOT_MOUNTED} Cpuset discarded.")
        return replace(host, cpuset_cpus="", cpuset_mems="")
    for asked, there, kind, what in (
        (host.cpuset_cpus, facts.cpuset, "cpus", "CPUs"),
        (host.cpuset_mems, facts.memory_nodes, "mems", "memory nodes"),
    ):
        if not parse_cpuset(asked, kind) <= parse_cpuset(there, kind):
            raise Invalid(f"Requested {what} are not available - requested {asked}, available: {there}")
    return host


def parse_cpuset(text: str, kind: str = "cpus") -> frozenset[int]:
    """`0-2,7` -> {0, 1, 2, 7}. `kind`: "cpus" or "mems", for the message. Raises `Invalid`."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        numbers = (first, last) if dash else (first,)
        if not all(
            word.isascii() and word.isdecimal() and len(word) <= _MOST_DIGITS for word in numbers
        ) or int(numbers[-1]) < int(first):
            raise Invalid(f"Invalid value {text} for cpuset {kind}: invalid format: {text}")
        if int(numbers[-1]) > _GREATEST_CPU:
            raise Invalid(
                f"Invalid value {text} for cpuset {kind}: value of out range, maximum is {_GREATEST_CPU}"
            )
        found.update(range(int(first), int(numbers[-1]) + 1))
    return frozenset(found)


_THROTTLES = (
    ("read_bps", "blkio_device_read_bps", "BPS Block I/O read limit", "BPS read"),
    ("write_bps", "blkio_device_write_bps", "BPS Block I/O write limit", "BPS write"),
    ("read_iops", "blkio_device_read_iops", "IOPS Block read limit", "IOPS read"),
    ("write_iops", "blkio_device_write_iops", "IOPS Block write limit", "IOPS write"),
)


def _check_block_io(host: HostConfig, features: CgroupFeatures, warnings: list[str]) -> HostConfig:
    changes: dict[str, Any] = {}
    if host.blkio_weight and not features.blkio_weight:
        warnings.append(f"Your kernel does not support Block I/O weight {_NOT_MOUNTED} Weight discarded.")
        changes["blkio_weight"] = 0
    elif host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise Invalid("Range of blkio weight is from 10 to 1000")
    if host.io_maximum_bandwidth or host.io_maximum_iops:
        raise Invalid("Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps")
    if host.blkio_weight_device and not features.blkio_weight_device:
        warnings.append(
            f"Your kernel does not support Block I/O weight_device {_NOT_MOUNTED} Weight-device discarded."
        )
        changes["blkio_weight_device"] = None
    for kind, field, limit, short in _THROTTLES:
        if getattr(host, field) and kind not in features.throttle:
            warnings.append(
                f"Your kernel does not support {limit} {_NOT_MOUNTED} Block I/O {short} limit discarded."
            )
            changes[field] = None
    return replace(host, **changes) if changes else host


def missing_limits(features: CgroupFeatures, *, version_2: bool) -> list[str]:
    """What `info` warns of. Of version 1's block I/O limits Docker says nothing there."""
    limits = [
        (features.memory, "memory limit"),
        (features.swap, "swap limit"),
        (features.oom_kill_disable or version_2, "oom kill disable"),
        (features.cpu_quota, "cpu cfs quota"),
        (features.cpu_quota, "cpu cfs period"),
        (features.cpu_shares, "cpu shares"),
        (features.cpuset, "cpuset"),
    ]
    if version_2:
        limits += [
            (features.blkio_weight, "io.weight"),
            (features.blkio_weight_device, "io.weight (per device)"),
            *(
                (kind in features.throttle, f"io.max ({short})")
                for kind, short in (
                    ("read_bps", "rbps"), ("write_bps", "wbps"), ("read_iops", "riops"), ("write_iops", "wiops"),
                )
            ),
        ]  # fmt: skip
    return [f"WARNING: No {name} support" for offered, name in limits if not offered]
