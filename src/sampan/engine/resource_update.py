"""What `update` makes of a container's limits: Docker's rules, and what has to be told to the kernel. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from sampan.engine import restart
from sampan.engine.config import HostConfig
from sampan.engine.host_facts import HostFacts
from sampan.engine.resource_checks import check_resources
from sampan.engine.spec_resources import live_limits
from sampan.errors import Conflict, Invalid
from sampan.linux.cgroups import CgroupLimits

_LIMITS = (
    "blkio_weight",
    "cpu_shares",
    "nano_cpus",
    "cpu_period",
    "cpu_quota",
    "cpuset_cpus",
    "cpuset_mems",
    "memory",
    "memory_swap",
    "memory_reservation",
    "cpu_realtime_period",
    "cpu_realtime_runtime",
)
"""What is changed when it is not zero. All else of a host configuration stays as the container was created."""

_TOGETHER = (("memory", "memory_swap"), ("cpu_quota", "cpu_period"))


def updated(present: HostConfig, wanted: HostConfig, facts: HostFacts) -> tuple[HostConfig, list[str]]:
    """The configuration with what is given in `wanted`, and warnings. Raises `Invalid` or `Conflict`."""
    warnings: list[str] = []
    given = HostConfig(
        **{name: getattr(wanted, name) for name in _LIMITS},
        pids_limit=wanted.pids_limit,
        restart_policy=wanted.restart_policy,
    )
    if given.restart_policy.name:
        restart.validate(given.restart_policy)
    given = check_resources(given, facts, warnings, update=True)
    _check_cpu_conflicts(present, given)
    changes: dict[str, Any] = {name: value for name in _LIMITS if (value := getattr(given, name))}
    if given.memory and not given.memory_swap and given.memory > present.memory_swap:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the "
            "same time"
        )
    if given.pids_limit is not None:
        changes["pids_limit"] = max(given.pids_limit, 0)
    if given.restart_policy.name:
        if present.auto_remove and given.restart_policy.name != "no":
            raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
        changes["restart_policy"] = given.restart_policy
    if wanted.restart_unhealthy is not None:
        changes["restart_unhealthy"] = wanted.restart_unhealthy
    host = replace(present, **changes)
    if 0 < host.memory_swap < host.memory:
        raise Invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
    return host, warnings


def _check_cpu_conflicts(present: HostConfig, given: HostConfig) -> None:
    """The two ways to limit processor time can't be mixed over time either."""
    for conflict, text in (
        (
            given.nano_cpus and present.cpu_period > 0,
            "Nano CPUs cannot be updated as CPU Period has already been set",
        ),
        (
            given.nano_cpus and present.cpu_quota > 0,
            "Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
        (
            given.cpu_period > 0 and present.nano_cpus,
            "CPU Period cannot be updated as NanoCPUs has already been set",
        ),
        (
            given.cpu_quota > 0 and present.nano_cpus,
            "CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
    ):
        if conflict:
            raise Conflict(f"Conflicting options: {text}")


def changed_limits(before: HostConfig, after: HostConfig) -> CgroupLimits | None:
    """What to write into the group of a running container; None when nothing of it changes."""
    old, new = live_limits(before), live_limits(after)
    changed = {
        field.name
        for field in msgspec.structs.fields(CgroupLimits)
        if getattr(old, field.name) != getattr(new, field.name)
    }
    for names in _TOGETHER:
        if changed & set(names):
            changed |= set(names)
    return CgroupLimits(**{name: getattr(new, name) for name in changed}) if changed else None
