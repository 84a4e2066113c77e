"""Docker's statistics of a container from what the kernel counted. Pure."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from sampan.linux.cgroups import BlockIoEntry, CgroupStats

Json = dict[str, Any]
Interfaces = dict[str, dict[str, int]]


class Sample(NamedTuple):
    """`read`: when, RFC 3339; `system_ns`: what all processors together have counted."""

    read: str
    stats: CgroupStats
    system_ns: int


CPUS = os.cpu_count() or 1
HOST_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def stats_json(
    container_id: str,
    name: str,
    sample: Sample,
    before: Sample | None,
    *,
    interfaces: Interfaces,
    cpus: int = CPUS,
    host_memory: int = HOST_MEMORY,
) -> Json:
    """One sample, with the processor times of the one before it."""
    now = sample.stats
    memory = now.memory
    memory_json: Json = {
        "usage": memory.usage,
        "stats": dict(memory.stat),
        "limit": min(memory.limit or host_memory, host_memory),
    }
    if memory.max_usage:
        memory_json["max_usage"] = memory.max_usage
    if memory.failures:
        memory_json["failcnt"] = memory.failures
    version_1 = bool(now.cpu.per_cpu)
    pids: Json = {"current": now.pids.current}
    if now.pids.limit is not None or not version_1:
        pids["limit"] = now.pids.limit if now.pids.limit is not None else _NO_LIMIT
    return {
        "name": f"/{name}",
        "id": container_id,
        "read": sample.read,
        "preread": before.read if before else "0001-01-01T00:00:00Z",
        "num_procs": 0,
        "pids_stats": pids,
        "blkio_stats": {
            **dict.fromkeys(_OTHER_BLOCK_IO, [] if version_1 else None),
            "io_service_bytes_recursive": [_entry(entry) for entry in now.io_service_bytes],
            "io_serviced_recursive": [_entry(entry) for entry in now.io_serviced],
        },
        "storage_stats": {},
        "cpu_stats": _cpu(now, sample.system_ns, cpus),
        "precpu_stats": _cpu(before.stats, before.system_ns, cpus) if before else _NO_CPU,
        "memory_stats": memory_json,
        **({"networks": interfaces} if interfaces else {}),
    }


_NO_LIMIT = (1 << 64) - 1
"""As Docker has it with control groups of version 2; with version 1 it leaves the member out."""

_OTHER_BLOCK_IO = (
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)
_NO_CPU: Json = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


def empty_json(container_id: str, name: str) -> Json:
    """What Docker says of a container that does not run."""
    return {
        "name": f"/{name}",
        "id": container_id,
        "read": "0001-01-01T00:00:00Z",
        "preread": "0001-01-01T00:00:00Z",
        "num_procs": 0,
        "pids_stats": {},
        "blkio_stats": dict.fromkeys(
            ("io_service_bytes_recursive", "io_serviced_recursive", *_OTHER_BLOCK_IO)
        ),
        "storage_stats": {},
        "cpu_stats": _NO_CPU,
        "precpu_stats": _NO_CPU,
        "memory_stats": {},
    }


def _cpu(stats: CgroupStats, system_ns: int, cpus: int) -> Json:
    cpu = stats.cpu
    usage: Json = {
        "total_usage": cpu.total,
        "usage_in_kernelmode": cpu.system,
        "usage_in_usermode": cpu.user,
    }
    if cpu.per_cpu:
        usage["percpu_usage"] = list(cpu.per_cpu)
    return {
        "cpu_usage": usage,
        "system_cpu_usage": system_ns,
        "online_cpus": cpus,
        "throttling_data": {
            "periods": cpu.periods,
            "throttled_periods": cpu.throttled_periods,
            "throttled_time": cpu.throttled,
        },
    }


def _entry(entry: BlockIoEntry) -> Json:
    return {"major": entry.major, "minor": entry.minor, "op": entry.operation, "value": entry.value}


def parse_system_cpu(proc_stat: str, ticks_per_second: int) -> int:
    """Nanoseconds that all CPUs together have counted (the first line of /proc/stat, proc_stat(5))."""
    fields = proc_stat.split("\n", 1)[0].split()[1:9]
    return sum(map(int, fields[:8])) * 1_000_000_000 // ticks_per_second


def parse_interfaces(proc_net_dev: str) -> Interfaces:
    """Counters per interface without the loopback (/proc/<pid>/net/dev)."""
    found: Interfaces = {}
    for line in proc_net_dev.splitlines()[2:]:
        name, colon, rest = line.partition(":")
        numbers = [int(word) for word in rest.split()]
        if not colon or name.strip() == "lo" or len(numbers) < 12:
            continue
        found[name.strip()] = {
            "rx_bytes": numbers[0],
            "rx_packets": numbers[1],
            "rx_errors": numbers[2],
            "rx_dropped": numbers[3],
            "tx_bytes": numbers[8],
            "tx_packets": numbers[9],
            "tx_errors": numbers[10],
            "tx_dropped": numbers[11],
        }
    return found
