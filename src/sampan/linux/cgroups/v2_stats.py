"""Measurements of a version 2 group. `group`: its directory."""

from __future__ import annotations

from sampan.linux.cgroups import files
from sampan.linux.cgroups.model import BlockIoEntry, CgroupStats, CpuStats, MemoryStats, PidsStats

_NANOSECONDS = 1000
"""In a microsecond, which is what version 2 counts in."""


def read_stats(group: str, read: files.Read = files.read) -> CgroupStats:
    io = read(f"{group}/io.stat") or ""
    return CgroupStats(
        cpu=_cpu(group, read),
        memory=_memory(group, read),
        pids=PidsStats(
            current=files.read_number(f"{group}/pids.current", read) or 0,
            limit=files.read_number(f"{group}/pids.max", read),
        ),
        io_service_bytes=parse_io(io, {"rbytes": "read", "wbytes": "write"}),
        io_serviced=parse_io(io, {"rios": "read", "wios": "write"}),
    )


def oom_kill_count(group: str) -> int:
    return files.read_table(f"{group}/memory.events").get("oom_kill", 0)


def _cpu(group: str, read: files.Read) -> CpuStats:
    table = files.read_table(f"{group}/cpu.stat", read)
    return CpuStats(
        total=table.get("usage_usec", 0) * _NANOSECONDS,
        user=table.get("user_usec", 0) * _NANOSECONDS,
        system=table.get("system_usec", 0) * _NANOSECONDS,
        periods=table.get("nr_periods", 0),
        throttled_periods=table.get("nr_throttled", 0),
        throttled=table.get("throttled_usec", 0) * _NANOSECONDS,
    )


def _memory(group: str, read: files.Read) -> MemoryStats:
    """`failures`: as Docker, how often the group ran out of memory."""
    return MemoryStats(
        usage=files.read_number(f"{group}/memory.current", read) or 0,
        max_usage=files.read_number(f"{group}/memory.peak", read),
        limit=files.read_number(f"{group}/memory.max", read),
        failures=files.read_table(f"{group}/memory.events", read).get("oom", 0),
        stat=files.read_table(f"{group}/memory.stat", read),
    )


def parse_io(text: str, keys: dict[str, str]) -> tuple[BlockIoEntry, ...]:
    """Lines of `major:minor rbytes=… wbytes=… rios=… …`; `keys`: which to take, and their operation."""
    entries: list[BlockIoEntry] = []
    for line in text.splitlines():
        device, *pairs = line.split()
        major, separator, minor = device.partition(":")
        if not separator:
            continue
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in keys and value.isdigit():
                entries.append(BlockIoEntry(int(major), int(minor), keys[key], int(value)))
    return tuple(entries)
