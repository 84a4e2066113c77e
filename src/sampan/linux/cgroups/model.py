"""The values that go into and come out of a control group, and the protocol that both versions implement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from sampan.errors import Invalid

UNLIMITED = -1
MIN_SHARES, MAX_SHARES = 2, 262144


class DeviceRule(msgspec.Struct, frozen=True):
    """One entry of a device policy. `type`: "c", "b" or "a" (both); `major`, `minor`: None is any;
    `access`: letters of "rwm"."""

    allow: bool
    type: str = "a"
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"


class Throttle(msgspec.Struct, frozen=True):
    """`rate` in bytes or operations per second for the block device `major`:`minor`."""

    major: int
    minor: int
    rate: int


class DeviceWeight(msgspec.Struct, frozen=True):
    """`weight` is 10 to 1000."""

    major: int
    minor: int
    weight: int


class CgroupLimits(msgspec.Struct, frozen=True):
    """Limits in the terms of the OCI runtime-spec (config-linux.md, "Control groups"), whatever the version.

    None means "leave as it is", and so does 0 where a limit of nothing makes no sense (memory, CPU, pids, weights),
    as Docker writes it; -1 means unlimited. Memory in bytes (`memory_swap` is memory plus swap),
    `cpu_quota`, `cpu_period`, `cpu_burst`, `cpu_rt_*` in microseconds, `cpu_shares` 2 to 262144,
    `blkio_weight` 10 to 1000.
    `devices`: rules applied in order to a policy that refuses everything; an empty tuple leaves it as it is.
    `unified`: file name to value, version 2 only.
    """

    memory: int | None = None
    memory_swap: int | None = None
    memory_reservation: int | None = None
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    cpu_shares: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_burst: int | None = None
    cpu_rt_runtime: int | None = None
    cpu_rt_period: int | None = None
    cpu_idle: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids: int | None = None
    blkio_weight: int | None = None
    blkio_weight_devices: tuple[DeviceWeight, ...] = ()
    read_bps: tuple[Throttle, ...] = ()
    write_bps: tuple[Throttle, ...] = ()
    read_iops: tuple[Throttle, ...] = ()
    write_iops: tuple[Throttle, ...] = ()
    devices: tuple[DeviceRule, ...] = ()
    unified: Mapping[str, str] = msgspec.field(default_factory=dict)


class CpuStats(msgspec.Struct, frozen=True):
    """Nanoseconds. `per_cpu` is empty where the kernel does not count it (version 2)."""

    total: int = 0
    user: int = 0
    system: int = 0
    per_cpu: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled: int = 0


class MemoryStats(msgspec.Struct, frozen=True):
    """Bytes. `limit` None is unlimited; `max_usage` None where the kernel does not record it.

    `stat` holds memory.stat as the kernel gives it; the keys differ between the versions, as in Docker's API.
    """

    usage: int = 0
    max_usage: int | None = None
    limit: int | None = None
    failures: int = 0
    stat: Mapping[str, int] = msgspec.field(default_factory=dict)


class PidsStats(msgspec.Struct, frozen=True):
    """`limit` None is unlimited."""

    current: int = 0
    limit: int | None = None


class BlockIoEntry(msgspec.Struct, frozen=True):
    """`operation`: "Read", "Write", "Sync", "Async", "Discard", "Total"; version 2 has "read", "write" only."""

    major: int
    minor: int
    operation: str
    value: int


class CgroupStats(msgspec.Struct, frozen=True):
    cpu: CpuStats = CpuStats()
    memory: MemoryStats = MemoryStats()
    pids: PidsStats = PidsStats()
    io_service_bytes: tuple[BlockIoEntry, ...] = ()
    io_serviced: tuple[BlockIoEntry, ...] = ()


class Cgroup(Protocol):
    """One control group (in version 1: the group of this name in every hierarchy).

    Life: `create`, then `enter`/`add`, `update`, …, `kill_all`, `remove`. All calls are synchronous.
    """

    @property
    def path(self) -> str:
        """The group's path below the root(s), without a leading slash."""

    def create(self, limits: CgroupLimits) -> None:
        """Make the group, with its parents, and apply `limits`; what exists already is taken over.

        Raises `Unsupported` when a limit was asked for that the host can't enforce, `Invalid` for a value the
        kernel refuses. A group that could not be set up completely is removed again.
        """

    def update(self, limits: CgroupLimits) -> Callable[[], None]:
        """Apply those limits that are not None. Raises as `create`, and `Conflict` when memory is in use.

        When it fails the limits are as before (devices and limits by device excepted); what it returns puts them
        back as before later.
        """

    def add(self, pid: int) -> None:
        """Move a whole process (it may wait for an RCU grace period: several milliseconds).

        Raises `NotFound` when the group or the process does not exist.
        """

    def enter(self) -> None:
        """Move the calling process, which must have one thread only: far cheaper than `add` in version 1."""

    def directory(self) -> int | None:
        """An open descriptor for clone3's CLONE_INTO_CGROUP, which the caller closes; None in version 1."""

    def pids(self) -> list[int]:
        """Processes in this group and all below it; empty when there is no such group."""

    def freeze(self) -> None:
        """Returns when all processes are frozen."""

    def thaw(self) -> None: ...

    def frozen(self) -> bool: ...

    def kill_all(self) -> None:
        """SIGKILL to every process in the group and below it, those that fork meanwhile included."""

    def stats(self, read: Callable[[str], str | None] = ...) -> CgroupStats:
        """Raises `NotFound` when there is no such group. `read`: that of `files`, or of its `KeptFiles` for who
        measures again and again."""

    def oom_kills(self) -> int:
        """How often the OOM killer struck in this group; 0 when there is no such group."""

    def remove(self) -> None:
        """Remove the group and all below it; no error when it does not exist.

        Waits, at most about 10 s, for dying processes; then raises `Conflict`.
        """

    def exists(self) -> bool: ...


def check_path(path: str) -> str:
    """The group path without surrounding slashes. Raises `Invalid` for one that could leave the root."""
    parts = [part for part in path.split("/") if part]
    if not parts or any(part in (".", "..") or "\0" in part or len(part) > 255 for part in parts):
        raise Invalid(f"invalid cgroup path: {path!r}")
    return "/".join(parts)
