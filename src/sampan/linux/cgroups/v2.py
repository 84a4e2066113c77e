"""A control group of version 2 (the kernel's cgroup-v2.rst; the mapping of values is the OCI runtime-spec's)."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable

from sampan.errors import Conflict, Invalid, NotFound, SampanError, Unsupported
from sampan.linux.cgroups import files
from sampan.linux.cgroups.device_policy import device_policy
from sampan.linux.cgroups.device_program import device_program
from sampan.linux.cgroups.journal import Journal
from sampan.linux.cgroups.model import MAX_SHARES, MIN_SHARES, UNLIMITED, CgroupLimits, CgroupStats
from sampan.linux.cgroups.v2_stats import oom_kill_count, read_stats

_FREEZE_TIMEOUT = 10.0
_REMOVE_TIMEOUT = 10.0
_DEFAULT_PERIOD = 100_000

AttachDevices = Callable[[str, bytes], None]
"""Ties a device program to the group at a path (`device_filter.attach_device_program`)."""


class CgroupV2:
    """`controllers`: those of the root that containers use; they are enabled for the group where possible."""

    def __init__(
        self,
        path: str,
        root: str,
        controllers: Iterable[str],
        directories: files.Directories,
        attach_devices: AttachDevices,
    ) -> None:
        self.path = path
        self._root = root
        self._group = f"{root}/{path}"
        self._controllers = tuple(controllers)
        self._directories = directories
        self._attach_devices = attach_devices

    def create(self, limits: CgroupLimits) -> None:
        values = unified_values(limits)
        existed = self.exists()
        try:
            files.make_with_parents(self._root, self.path, self._directories)
            self._delegate()
            self._apply(values, limits, files.write)
        except BaseException:
            if not existed:
                self.remove()
            raise

    def update(self, limits: CgroupLimits) -> Callable[[], None]:
        values = unified_values(limits)
        journal = Journal()
        try:
            self._apply(values, limits, journal.write)
        except SampanError as error:
            raise journal.undo_after(error) from error
        return journal.undo

    def _delegate(self) -> None:
        """Enable the controllers in every group above this one."""
        parent = os.path.dirname(self._group)
        if self._missing(parent):
            names = self.path.split("/")[:-1]
            for depth in range(len(names) + 1):
                above = "/".join([self._root, *names[:depth]])
                self._enable(above, self._missing(above))

    def _missing(self, group: str) -> list[str]:
        enabled = (files.read(f"{group}/cgroup.subtree_control") or "").split()
        return [controller for controller in self._controllers if controller not in enabled]

    def _enable(self, group: str, controllers: list[str]) -> None:
        if not controllers:
            return
        control = f"{group}/cgroup.subtree_control"
        try:
            files.write(control, " ".join(f"+{controller}" for controller in controllers))
        except SampanError:
            # The kernel takes all or none. One alone may be refused (cpu while real-time processes exist): the
            # others are worth having, and a limit that needs the refused one fails with its own error.
            if len(controllers) > 1:
                for controller in controllers:
                    self._enable(group, [controller])

    def _apply(self, values: dict[str, str], limits: CgroupLimits, write: Callable[[str, str], None]) -> None:
        for name, value in values.items():
            if name == "memory.swap.max" and value in ("max", "0") and not self._has(name):
                continue  # no swap accounting: there is nothing to limit or to open
            if name == "io.weight" and self._has("io.bfq.weight"):
                name, value = "io.bfq.weight", _bfq_weights(limits)
            for line in value.split("\n"):  # one device a write
                self._write(name, line, write)
        if limits.devices:
            self._attach_devices(self._group, device_program(device_policy(limits.devices)))

    def _write(self, name: str, value: str, write: Callable[[str, str], None]) -> None:
        try:
            write(f"{self._group}/{name}", value)
        except Unsupported as error:
            controller = name.partition(".")[0]
            if self._has(name):
                raise
            if controller in self._controllers:
                raise Unsupported(
                    f"the cgroup controller {controller!r} cannot be enabled for {self.path}: {name} is missing",
                    hint="a group above it has processes of its own, or the controller is in use in version 1",
                ) from error
            raise Unsupported(
                f"{name} needs the cgroup controller {controller!r}, which this host does not have"
            ) from error

    def _has(self, name: str) -> bool:
        return os.path.exists(f"{self._group}/{name}")

    def add(self, pid: int) -> None:
        files.write(f"{self._group}/cgroup.procs", str(pid))

    def enter(self) -> None:
        files.write(f"{self._group}/cgroup.procs", "0")

    def directory(self) -> int | None:
        try:
            return os.open(self._group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise files.failure(error, self._group) from error

    def pids(self) -> list[int]:
        return files.process_ids(self._group)

    def freeze(self) -> None:
        files.write(f"{self._group}/cgroup.freeze", "1")
        if not files.wait_for_event(self._group, "frozen", 1, time.monotonic() + _FREEZE_TIMEOUT):
            self.thaw()
            raise Conflict(f"cgroup {self.path} could not be frozen within {_FREEZE_TIMEOUT:.0f} s")

    def thaw(self) -> None:
        files.write(f"{self._group}/cgroup.freeze", "0")

    def frozen(self) -> bool:
        return files.read_table(f"{self._group}/cgroup.events").get("frozen") == 1

    def kill_all(self) -> None:
        if not self.exists():
            return
        if self._has("cgroup.kill"):
            files.write(f"{self._group}/cgroup.kill", "1")
            return
        # Before Linux 5.14: hold them still, so that the list is complete.
        files.write(f"{self._group}/cgroup.freeze", "1")
        try:
            files.kill_until_none_is_new(self.path, self.pids)
        finally:
            files.write(f"{self._group}/cgroup.freeze", "0")

    def stats(self, read: files.Read = files.read) -> CgroupStats:
        if not self.exists():
            raise NotFound(f"no such cgroup: {self.path}")
        return read_stats(self._group, read)

    def oom_kills(self) -> int:
        return oom_kill_count(self._group)

    def remove(self) -> None:
        deadline = time.monotonic() + _REMOVE_TIMEOUT
        files.remove_tree(self._group, self._directories, _wait_until_empty, deadline)

    def exists(self) -> bool:
        return os.path.isdir(self._group)


def _wait_until_empty(path: str, deadline: float) -> None:
    files.wait_for_event(path, "populated", 0, deadline)


def unified_values(limits: CgroupLimits) -> dict[str, str]:
    """File name -> value, in the order to write them. Pure.

    Raises `Unsupported` for what only version 1 has, `Invalid` for contradictions. Values of several lines are for
    one write a line.
    """
    if limits.oom_kill_disable:
        raise Unsupported("disabling the OOM killer is only possible with control groups of version 1")
    if limits.cpu_rt_runtime or limits.cpu_rt_period:
        raise Unsupported("real-time CPU limits are only possible with control groups of version 1")
    values: dict[str, str] = {}
    if limits.cpuset_cpus:
        values["cpuset.cpus"] = limits.cpuset_cpus
    if limits.cpuset_mems:
        values["cpuset.mems"] = limits.cpuset_mems
    _cpu_values(limits, values)
    _memory_values(limits, values)
    if limits.pids:
        values["pids.max"] = str(limits.pids) if limits.pids > 0 else "max"
    _io_values(limits, values)
    for name, value in limits.unified.items():
        if "/" in name or name.startswith("cgroup.") or "." not in name:
            raise Invalid(f"invalid name of a unified cgroup limit: {name!r}")
        values[name] = value
    return values


def _cpu_values(limits: CgroupLimits, values: dict[str, str]) -> None:
    if limits.cpu_idle is not None:
        values["cpu.idle"] = str(limits.cpu_idle)
    if limits.cpu_shares:
        values["cpu.weight"] = str(weight_of_shares(limits.cpu_shares))
    if limits.cpu_quota or limits.cpu_period:
        quota = str(limits.cpu_quota) if limits.cpu_quota and limits.cpu_quota > 0 else "max"
        values["cpu.max"] = f"{quota} {limits.cpu_period or _DEFAULT_PERIOD}"
    if limits.cpu_burst is not None:
        values["cpu.max.burst"] = str(limits.cpu_burst)


def weight_of_shares(shares: int) -> int:
    """cpu.weight (1 to 10000) for cpu.shares (2 to 262144), so that both defaults, 100 and 1024, are the same.

    The curve is that of runc since 1.4 and crun since 1.23: on a logarithmic scale through (2, 1), (1024, 100) and
    (262144, 10000).
    """
    if shares <= MIN_SHARES:
        return 1
    if shares >= MAX_SHARES:
        return 10000
    power = math.log2(shares)
    # Rounding before ceil: 1024 shares give 100 and a last bit of noise.
    return math.ceil(round(10 ** ((power * power + 125 * power) / 612 - 7 / 34), 9))


def _memory_values(limits: CgroupLimits, values: dict[str, str]) -> None:
    swap = swap_maximum(limits.memory, limits.memory_swap)
    if swap is not None:
        values["memory.swap.max"] = swap
    if limits.memory:
        values["memory.max"] = _maximum(limits.memory)
    if limits.memory_reservation:
        values["memory.low"] = _maximum(limits.memory_reservation)


def _maximum(value: int) -> str:
    return "max" if value == UNLIMITED else str(value)


def swap_maximum(memory: int | None, memory_swap: int | None) -> str | None:
    """memory.swap.max, which counts swap alone, from version 1's memory plus swap; None: not set."""
    if not memory_swap:
        return "max" if memory == UNLIMITED else None
    if memory_swap == UNLIMITED:
        return "max"
    if not memory or memory == UNLIMITED:
        raise Invalid("a limit of memory and swap needs a memory limit")
    if memory_swap < memory:
        raise Invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
    return str(memory_swap - memory)


def _io_values(limits: CgroupLimits, values: dict[str, str]) -> None:
    if limits.blkio_weight or limits.blkio_weight_devices:
        values["io.weight"] = _weights(limits, _io_weight)
    lines = [
        f"{throttle.major}:{throttle.minor} {key}={throttle.rate}"
        for key, throttles in (
            ("rbps", limits.read_bps),
            ("wbps", limits.write_bps),
            ("riops", limits.read_iops),
            ("wiops", limits.write_iops),
        )
        for throttle in throttles
    ]
    if lines:
        values["io.max"] = "\n".join(lines)


def _bfq_weights(limits: CgroupLimits) -> str:
    """For the scheduler BFQ, whose weights have the range of version 1's."""
    return _weights(limits, lambda weight: weight)


def _weights(limits: CgroupLimits, convert: Callable[[int], int]) -> str:
    lines = [str(convert(limits.blkio_weight))] if limits.blkio_weight else []
    for device in limits.blkio_weight_devices:
        lines.append(f"{device.major}:{device.minor} {convert(device.weight)}")
    return "\n".join(lines)


def _io_weight(weight: int) -> int:
    """io.weight (1 to 10000) from version 1's 10 to 1000."""
    return 1 + (weight - 10) * 9999 // 990
