"""Measurements of a version 1 group. `directories`: controller -> the group's directory in its hierarchy."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sampan.linux.cgroups import files
from sampan.linux.cgroups.model import BlockIoEntry, CgroupStats, CpuStats, MemoryStats, PidsStats

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""Nanoseconds in the unit of cpuacct.stat."""

_NO_LIMIT = 1 << 62
"""The kernel shows "unlimited" as the greatest number of whole pages, which depends on the page size."""


def read_stats(directories: Mapping[str, str], read: files.Read = files.read) -> CgroupStats:
    blkio = directories.get("blkio")
    return CgroupStats(
        cpu=_cpu(directories.get("cpu"), directories.get("cpuacct"), read),
        memory=_memory(directories["memory"], read) if "memory" in directories else MemoryStats(),
        pids=_pids(directories["pids"], read) if "pids" in directories else PidsStats(),
        io_service_bytes=_blkio(blkio, "io_service_bytes", read) if blkio is not None else (),
        io_serviced=_blkio(blkio, "io_serviced", read) if blkio is not None else (),
    )


def oom_kill_count(memory: str) -> int:
    return files.read_table(f"{memory}/memory.oom_control").get("oom_kill", 0)


def _cpu(cpu: str | None, cpuacct: str | None, read: files.Read) -> CpuStats:
    throttling = files.read_table(f"{cpu}/cpu.stat", read) if cpu is not None else {}
    times: dict[str, int] = {}
    per_cpu: tuple[int, ...] = ()
    if cpuacct is not None:
        times = files.read_table(f"{cpuacct}/cpuacct.stat", read)
        per_cpu = tuple(map(int, (read(f"{cpuacct}/cpuacct.usage_percpu") or "").split()))
    return CpuStats(
        total=sum(per_cpu),
        user=times.get("user", 0) * _TICK,
        system=times.get("system", 0) * _TICK,
        per_cpu=per_cpu,
        periods=throttling.get("nr_periods", 0),
        throttled_periods=throttling.get("nr_throttled", 0),
        throttled=throttling.get("throttled_time", 0),
    )


def _memory(directory: str, read: files.Read) -> MemoryStats:
    limit = files.read_number(f"{directory}/memory.limit_in_bytes", read)
    return MemoryStats(
        usage=files.read_number(f"{directory}/memory.usage_in_bytes", read) or 0,
        max_usage=files.read_number(f"{directory}/memory.max_usage_in_bytes", read),
        limit=None if limit is None or limit >= _NO_LIMIT else limit,
        failures=files.read_number(f"{directory}/memory.failcnt", read) or 0,
        stat=files.read_table(f"{directory}/memory.stat", read),
    )


def _pids(directory: str, read: files.Read) -> PidsStats:
    return PidsStats(
        current=files.read_number(f"{directory}/pids.current", read) or 0,
        limit=files.read_number(f"{directory}/pids.max", read),
    )


def _blkio(directory: str, name: str, read: files.Read) -> tuple[BlockIoEntry, ...]:
    """What goes through the throttling layer is everything, whichever scheduler a disk has."""
    text = read(f"{directory}/blkio.throttle.{name}_recursive")
    return parse_blkio(text or read(f"{directory}/blkio.throttle.{name}") or "")


def parse_blkio(text: str) -> tuple[BlockIoEntry, ...]:
    """Lines of `major:minor operation value`; the last line, a sum over all devices, is left out."""
    entries: list[BlockIoEntry] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and ":" in words[0]:
            major, _, minor = words[0].partition(":")
            entries.append(BlockIoEntry(int(major), int(minor), words[1], int(words[2])))
    return tuple(entries)
