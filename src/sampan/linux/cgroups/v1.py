"""A control group of version 1: a directory of the same name in every hierarchy (cgroup-v1 of the kernel's docs)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

from sampan.errors import Conflict, Invalid, NotFound, SampanError, Unsupported
from sampan.linux.cgroups import files
from sampan.linux.cgroups.device_policy import device_policy, format_rule, parse_list
from sampan.linux.cgroups.journal import Journal
from sampan.linux.cgroups.model import (
    MAX_SHARES,
    MIN_SHARES,
    UNLIMITED,
    CgroupLimits,
    CgroupStats,
    DeviceRule,
)
from sampan.linux.cgroups.v1_stats import oom_kill_count, read_stats

_Write = Callable[[str, str], None]
"""Path and value: `files.write`, or a journal's."""

_FREEZE_TIMEOUT = 10.0
_REMOVE_TIMEOUT = 10.0
_PAUSE = 0.001

_FIELDS: Mapping[str, tuple[str, ...]] = {
    "memory": (
        "memory",
        "memory_swap",
        "memory_reservation",
        "memory_swappiness",
        "oom_kill_disable",
    ),
    "cpu": (
        "cpu_shares",
        "cpu_quota",
        "cpu_period",
        "cpu_burst",
        "cpu_rt_runtime",
        "cpu_rt_period",
        "cpu_idle",
    ),
    "cpuset": ("cpuset_cpus", "cpuset_mems"),
    "pids": ("pids",),
    "blkio": ("blkio_weight", "blkio_weight_devices", "read_bps", "write_bps", "read_iops", "write_iops"),
    "devices": ("devices",),
}
"""Which limits need which controller."""


class CgroupV1:
    """`hierarchies`: controller -> the root directory of its hierarchy (several may share one)."""

    def __init__(self, path: str, hierarchies: Mapping[str, str], directories: files.Directories) -> None:
        self.path = path
        self._roots = tuple(dict.fromkeys(hierarchies.values()))
        self._hierarchies = hierarchies
        self._directories = directories

    def _all(self) -> list[str]:
        return [f"{root}/{self.path}" for root in self._roots]

    def _of(self, controller: str) -> str | None:
        root = self._hierarchies.get(controller)
        return None if root is None else f"{root}/{self.path}"

    def create(self, limits: CgroupLimits) -> None:
        self._check(limits)
        before = (
            {directory for directory in self._all() if os.path.isdir(directory)} if self.exists() else set()
        )
        try:
            for root in self._roots:
                files.make_with_parents(root, self.path, self._directories)
            if "cpuset" in self._hierarchies:
                _inherit_cpuset(self._hierarchies["cpuset"], self.path)
            self._apply(limits, files.write, fresh=not before)
        except BaseException:
            if not before:
                self.remove()
            raise

    def update(self, limits: CgroupLimits) -> Callable[[], None]:
        self._check(limits)
        journal = Journal()
        try:
            self._apply(limits, journal.write, fresh=False)
        except SampanError as error:
            raise journal.undo_after(error) from error
        return journal.undo

    def _check(self, limits: CgroupLimits) -> None:
        if limits.unified:
            raise Unsupported("the 'unified' limits need control groups of version 2")
        for controller, fields in _FIELDS.items():
            if controller in self._hierarchies:
                continue
            for field in fields:
                if getattr(limits, field):
                    raise Unsupported(
                        f"the limit {field} needs the cgroup controller {controller!r}, which this host does not have"
                    )

    def _apply(self, limits: CgroupLimits, write: _Write, *, fresh: bool) -> None:
        steps: tuple[tuple[str, Callable[[str, CgroupLimits, _Write, bool], None]], ...] = (
            ("cpuset", _apply_cpuset),
            ("cpu", _apply_cpu),
            ("memory", _apply_memory),
            ("pids", _apply_pids),
            ("blkio", _apply_blkio),
            ("devices", _apply_devices),
        )
        for controller, apply in steps:
            directory = self._of(controller)
            if directory is not None:
                apply(directory, limits, write, fresh)

    def add(self, pid: int) -> None:
        for directory in self._all():
            files.write(f"{directory}/cgroup.procs", str(pid))

    def enter(self) -> None:
        # A thread that moves itself by `tasks` needs no lock over all forks of the system, and so does not wait
        # for an RCU grace period as a write to cgroup.procs does (cgroup_procs_write_start in the kernel).
        for directory in self._all():
            files.write(f"{directory}/tasks", "0")

    def directory(self) -> int | None:
        return None

    def _any(self) -> str:
        """The directory that answers which processes there are: the freezer's, as it can hold them still."""
        return self._of("freezer") or self._of("pids") or self._all()[0]

    def pids(self) -> list[int]:
        return files.process_ids(self._any())

    def freeze(self) -> None:
        freezer = self._freezer()
        deadline = time.monotonic() + _FREEZE_TIMEOUT
        files.write(freezer, "FROZEN")
        # No event tells of the end; reading the state is what makes the kernel look (freezer-subsystem.rst).
        while (state := (files.read(freezer) or "").strip()) != "FROZEN":
            if not state:
                raise NotFound(f"no such cgroup: {self.path}")
            if time.monotonic() >= deadline:
                files.write(freezer, "THAWED")
                raise Conflict(f"cgroup {self.path} could not be frozen within {_FREEZE_TIMEOUT:.0f} s")
            time.sleep(_PAUSE)
            files.write(freezer, "FROZEN")

    def thaw(self) -> None:
        files.write(self._freezer(), "THAWED")

    def frozen(self) -> bool:
        directory = self._of("freezer")
        return directory is not None and (files.read(f"{directory}/freezer.state") or "").strip() == "FROZEN"

    def _freezer(self) -> str:
        directory = self._of("freezer")
        if directory is None:
            raise Unsupported("pausing needs the cgroup controller 'freezer', which this host does not have")
        return f"{directory}/freezer.state"

    def kill_all(self) -> None:
        directory = self._of("freezer")
        if directory is None or not os.path.isdir(directory):
            files.kill_until_none_is_new(self.path, self.pids)
            return
        freezer = f"{directory}/freezer.state"
        try:
            # Forks of a freezing process are frozen too, so that the list below is complete.
            files.write(freezer, "FROZEN")
            files.kill_until_none_is_new(self.path, self.pids)
        finally:
            if os.path.isdir(directory):
                files.write(freezer, "THAWED")

    def stats(self, read: files.Read = files.read) -> CgroupStats:
        if not self.exists():
            raise NotFound(f"no such cgroup: {self.path}")
        return read_stats(
            {controller: f"{root}/{self.path}" for controller, root in self._hierarchies.items()}, read
        )

    def oom_kills(self) -> int:
        directory = self._of("memory")
        return 0 if directory is None else oom_kill_count(directory)

    def remove(self) -> None:
        deadline = time.monotonic() + _REMOVE_TIMEOUT
        failures: list[SampanError] = []
        for directory in self._all():
            try:
                files.remove_tree(directory, self._directories, files.wait_for_processes, deadline)
            except SampanError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def exists(self) -> bool:
        return any(os.path.isdir(directory) for directory in self._all())


def _inherit_cpuset(root: str, path: str) -> None:
    """A new version 1 cpuset is empty and admits no process until it has processors and memory nodes."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        _inherited(root, f"{root}/{path}", name)


def _inherited(root: str, directory: str, name: str) -> str:
    """The value of the group, which takes over that of the group above where it has none.

    Also the groups above may be empty still: who makes several groups at once meets a parent that somebody else has
    just made. Both then write the same.
    """
    value = (files.read(f"{directory}/{name}") or "").strip()
    if not value and directory != root:
        value = _inherited(root, os.path.dirname(directory), name)
        files.write(f"{directory}/{name}", value)
    return value


def _apply_cpuset(directory: str, limits: CgroupLimits, write: _Write, fresh: bool) -> None:
    if limits.cpuset_cpus:
        write(f"{directory}/cpuset.cpus", limits.cpuset_cpus)
    if limits.cpuset_mems:
        write(f"{directory}/cpuset.mems", limits.cpuset_mems)


def _apply_cpu(directory: str, limits: CgroupLimits, write: _Write, fresh: bool) -> None:
    # The kernel takes the next possible number without a word.
    if limits.cpu_shares and limits.cpu_shares < MIN_SHARES:
        raise Invalid(f"the minimum allowed cpu-shares is {MIN_SHARES}")
    if limits.cpu_shares and limits.cpu_shares > MAX_SHARES:
        raise Invalid(f"the maximum allowed cpu-shares is {MAX_SHARES}")
    for name, value in (
        ("cpu.idle", limits.cpu_idle),
        ("cpu.shares", limits.cpu_shares or None),
        ("cpu.rt_period_us", limits.cpu_rt_period or None),
        ("cpu.rt_runtime_us", limits.cpu_rt_runtime or None),
    ):
        if value is not None:
            write(f"{directory}/{name}", str(value))
    _apply_quota(directory, limits, write)
    if limits.cpu_burst is not None:
        write(f"{directory}/cpu.cfs_burst_us", str(limits.cpu_burst))


def _apply_quota(directory: str, limits: CgroupLimits, write: _Write) -> None:
    quota = str(limits.cpu_quota) if limits.cpu_quota else None
    later = None
    if limits.cpu_period:
        try:
            write(f"{directory}/cpu.cfs_period_us", str(limits.cpu_period))
        except Invalid:
            if quota is None:
                raise
            # With the old quota the new period would exceed the parent's share: the quota goes first.
            later = str(limits.cpu_period)
    if quota is not None:
        write(f"{directory}/cpu.cfs_quota_us", quota)
    if later is not None:
        write(f"{directory}/cpu.cfs_period_us", later)


def _memory_and_swap(directory: str, limits: CgroupLimits, fresh: bool) -> list[tuple[str, int | None]]:
    """In the order to write them: the kernel refuses a memory limit above that of memory and swap together."""
    both = "memory.memsw.limit_in_bytes"
    wanted = [("memory.limit_in_bytes", limits.memory), (both, limits.memory_swap)]
    if fresh:
        return wanted
    if not limits.memory_swap and limits.memory == UNLIMITED:
        return [(both, UNLIMITED), wanted[0]]
    if limits.memory and limits.memory_swap:
        present = files.read_number(f"{directory}/{both}")
        if limits.memory_swap == UNLIMITED or (present is not None and present < limits.memory_swap):
            wanted.reverse()
    return wanted


def _apply_memory(directory: str, limits: CgroupLimits, write: _Write, fresh: bool) -> None:
    for name, value in _memory_and_swap(directory, limits, fresh):
        if value == UNLIMITED and not os.path.exists(f"{directory}/{name}"):
            continue  # no swap accounting: there is nothing to open
        if value:
            _write_memory(directory, name, value, write)
    if limits.memory_reservation:
        _write_memory(directory, "memory.soft_limit_in_bytes", limits.memory_reservation, write)
    if limits.memory_swappiness is not None and limits.memory_swappiness >= 0:
        write(f"{directory}/memory.swappiness", str(limits.memory_swappiness))
    if limits.oom_kill_disable or (limits.oom_kill_disable is not None and not fresh):
        write(f"{directory}/memory.oom_control", str(int(limits.oom_kill_disable)))


def _write_memory(directory: str, name: str, value: int, write: _Write) -> None:
    try:
        write(f"{directory}/{name}", str(value))
    except Conflict as error:
        usage = files.read_number(f"{directory}/memory.usage_in_bytes")
        peak = files.read_number(f"{directory}/memory.max_usage_in_bytes")
        raise Conflict(
            f"unable to set memory limit to {value} (current usage: {usage}, peak usage: {peak})"
        ) from error


def _apply_pids(directory: str, limits: CgroupLimits, write: _Write, fresh: bool) -> None:
    if limits.pids:
        write(f"{directory}/pids.max", str(limits.pids) if limits.pids > 0 else "max")


def _apply_blkio(directory: str, limits: CgroupLimits, write: _Write, fresh: bool) -> None:
    # The weight belongs to the I/O scheduler: bfq has its own names.
    prefix = "blkio.bfq.weight" if os.path.exists(f"{directory}/blkio.bfq.weight") else "blkio.weight"
    if limits.blkio_weight:
        write(f"{directory}/{prefix}", str(limits.blkio_weight))
    for device in limits.blkio_weight_devices:
        write(f"{directory}/{prefix}_device", f"{device.major}:{device.minor} {device.weight}")
    for name, throttles in (
        ("read_bps", limits.read_bps),
        ("write_bps", limits.write_bps),
        ("read_iops", limits.read_iops),
        ("write_iops", limits.write_iops),
    ):
        for throttle in throttles:
            value = f"{throttle.major}:{throttle.minor} {throttle.rate}"
            write(f"{directory}/blkio.throttle.{name}_device", value)


def _apply_devices(directory: str, limits: CgroupLimits, write: _Write, fresh: bool) -> None:
    if not limits.devices:
        return
    present = parse_list(files.read(f"{directory}/devices.list") or "a *:* rwm")
    wanted = device_policy(limits.devices)
    allow, deny = f"{directory}/devices.allow", f"{directory}/devices.deny"
    if wanted.default or present.default:
        # A new group, or one whose list of exceptions the kernel does not show: from the start.
        _write_each(allow if wanted.default else deny, ["a"])
        _write_each(deny if wanted.default else allow, [format_rule(rule) for rule in wanted.exceptions])
        return
    # Processes are running with this policy: only what differs is touched, and nothing is refused for a moment.
    before, after = _letters(present.exceptions), _letters(wanted.exceptions)
    _write_each(allow, _difference(after, before))
    _write_each(deny, _difference(before, after))


def _letters(rules: tuple[DeviceRule, ...]) -> dict[DeviceRule, set[str]]:
    table: dict[DeviceRule, set[str]] = {}
    for rule in rules:
        table.setdefault(DeviceRule(True, rule.type, rule.major, rule.minor, ""), set()).update(rule.access)
    return table


def _difference(more: dict[DeviceRule, set[str]], less: dict[DeviceRule, set[str]]) -> list[str]:
    """Rules, with what access each has in `more` beyond that in `less`."""
    return [
        format_rule(DeviceRule(True, key.type, key.major, key.minor, "".join(sorted(extra))))
        for key, letters in more.items()
        if (extra := letters - less.get(key, set()))
    ]


def _write_each(path: str, values: list[str]) -> None:
    """Several values to one file, each in a write(2) of its own."""
    if not values:
        return
    value = values[0]
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for value in values:
                os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise files.failure(error, path, value) from error
