"""Measurements of a version 1 group. `directories`: controller -> the group's directory in its hierarchy."""

from __future__ import annotations

from collections.abc import Mapping

from sampan.linux.cgroups import files
from sampan.linux.cgroups.model import BlockIoEntry, CgroupStats, CpuStats, MemoryStats, PidsStats

_NO_LIMIT = 1 << 62
"""The kernel shows "unlimited" as the greatest number of whole pages, which depends on the page size."""


def read_stats(directories: Mapping[str, str]) -> CgroupStats:
    blkio = directories.get("blkio")
    return CgroupStats(
        cpu=_cpu(directories.get("cpu"), directories.get("cpuacct")),
        memory=_memory(directories["memory"]) if "memory" in directories else MemoryStats(),
        pids=_pids(directories["pids"]) if "pids" in directories else PidsStats(),
        io_service_bytes=_blkio(blkio, "io_service_bytes") if blkio is not None else (),
        io_serviced=_blkio(blkio, "io_serviced") if blkio is not None else (),
    )


def oom_kill_count(memory: str) -> int:
    return files.read_table(f"{memory}/memory.oom_control").get("oom_kill", 0)


def _cpu(cpu: str | None, cpuacct: str | None) -> CpuStats:
    throttling = files.read_table(f"{cpu}/cpu.stat") if cpu is not None else {}
    total = user = system = 0
    per_cpu: tuple[int, ...] = ()
    if cpuacct is not None:
        total = files.read_number(f"{cpuacct}/cpuacct.usage") or 0
        user = files.read_number(f"{cpuacct}/cpuacct.usage_user") or 0
        system = files.read_number(f"{cpuacct}/cpuacct.usage_sys") or 0
        per_cpu = tuple(int(word) for word in (files.read(f"{cpuacct}/cpuacct.usage_percpu") or "").split())
    return CpuStats(
        total=total,
        user=user,
        system=system,
        per_cpu=per_cpu,
        periods=throttling.get("nr_periods", 0),
        throttled_periods=throttling.get("nr_throttled", 0),
        throttled=throttling.get("throttled_time", 0),
    )


def _memory(directory: str) -> MemoryStats:
    limit = files.read_number(f"{directory}/memory.limit_in_bytes")
    return MemoryStats(
        usage=files.read_number(f"{directory}/memory.usage_in_bytes") or 0,
        max_usage=files.read_number(f"{directory}/memory.max_usage_in_bytes"),
        limit=None if limit is None or limit >= _NO_LIMIT else limit,
        failures=files.read_number(f"{directory}/memory.failcnt") or 0,
        stat=files.read_table(f"{directory}/memory.stat"),
    )


def _pids(directory: str) -> PidsStats:
    return PidsStats(
        current=files.read_number(f"{directory}/pids.current") or 0,
        limit=files.read_number(f"{directory}/pids.max"),
    )


def _blkio(directory: str, name: str) -> tuple[BlockIoEntry, ...]:
    for file in (f"blkio.bfq.{name}_recursive", f"blkio.throttle.{name}_recursive", f"blkio.throttle.{name}"):
        entries = parse_blkio(files.read(f"{directory}/{file}") or "")
        if entries:
            return entries
    return ()


def parse_blkio(text: str) -> tuple[BlockIoEntry, ...]:
    """Lines of `major:minor operation value`; the last line, a sum over all devices, is left out."""
    entries: list[BlockIoEntry] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and ":" in words[0]:
            major, _, minor = words[0].partition(":")
            entries.append(BlockIoEntry(int(major), int(minor), words[1], int(words[2])))
    return tuple(entries)
