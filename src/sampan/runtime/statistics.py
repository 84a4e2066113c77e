"""`sampan-runtime events`: a container's figures in the form in which runc prints them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sampan.linux.cgroups import BlockIoEntry, CgroupStats


def stats_event(container_id: str, stats: CgroupStats) -> dict[str, Any]:
    """Times in nanoseconds, memory in bytes."""
    cpu, memory, pids = stats.cpu, stats.memory, stats.pids
    usage: dict[str, Any] = {"total": cpu.total, "kernel": cpu.system, "user": cpu.user}
    if cpu.per_cpu:
        usage["percpu"] = list(cpu.per_cpu)
    throttling = {
        "periods": cpu.periods,
        "throttledPeriods": cpu.throttled_periods,
        "throttledTime": cpu.throttled,
    }
    data = {
        "cpu": {"usage": usage, "throttling": throttling},
        "memory": {
            "usage": {
                "limit": 2**64 - 1 if memory.limit is None else memory.limit,
                "usage": memory.usage,
                "max": memory.max_usage or 0,
                "failcnt": memory.failures,
            },
            "raw": dict(memory.stat),
        },
        "pids": {"current": pids.current, **({} if pids.limit is None else {"limit": pids.limit})},
        "blkio": {
            "ioServiceBytesRecursive": _entries(stats.io_service_bytes),
            "ioServicedRecursive": _entries(stats.io_serviced),
        },
    }
    return {"type": "stats", "id": container_id, "data": data}


def _entries(entries: Iterable[BlockIoEntry]) -> list[dict[str, Any]]:
    return [
        {"major": entry.major, "minor": entry.minor, "op": entry.operation, "value": entry.value}
        for entry in entries
    ]
