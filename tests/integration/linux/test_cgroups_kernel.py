"""Control groups on the running kernel. Version 2 runs in the empty hierarchy of a hybrid host, or the real one."""

from __future__ import annotations

import errno
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import Conflict, Invalid, NotFound
from sampan.linux.cgroups import Cgroup, CgroupHost, CgroupLimits, DeviceRule, detect
from sampan.linux.cgroups.device_filter import attach_device_program
from sampan.linux.cgroups.device_policy import device_policy
from sampan.linux.cgroups.device_program import device_program
from sampan.linux.cgroups.oom_listener import listen

pytestmark = pytest.mark.root

ROOT = Path("/sys/fs/cgroup")
DENY = DeviceRule(False)
NULL_AND_ZERO = (DENY, DeviceRule(True, "c", 1, 3), DeviceRule(True, "c", 1, 5, "r"))


def hosts() -> dict[str, CgroupHost]:
    host = detect(ROOT)
    if host.layout == "v2":
        return {"v2": host}
    found = {"v1": host}
    if host.layout == "hybrid":
        found["v2"] = detect(ROOT / "unified")
    return found


@pytest.fixture(params=["v1", "v2"])
def host(request: pytest.FixtureRequest) -> CgroupHost:
    available = hosts()
    if request.param not in available:
        pytest.skip(f"no control groups of {request.param} here")
    return available[request.param]


@pytest.fixture
def group(host: CgroupHost) -> Iterator[Cgroup]:
    parent = host.group(f"sampan-test-{uuid.uuid4().hex[:12]}")
    try:
        yield host.group(f"{parent.path}/one")
    finally:
        parent.kill_all()
        parent.remove()


def sleeper() -> subprocess.Popen[bytes]:
    """A process that says when it is ready and then waits."""
    program = "import os, signal\nos.write(1, b'x')\nsignal.pause()"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(1) == b"x"
    return process


def sleepers(group: Cgroup, count: int) -> int:
    """As many processes in the group, all of which wait, children of one whose id this is."""
    program = f"import os, signal\nfor _ in range({count - 1}):\n    if os.fork() == 0: break\nsignal.pause()"
    pid = os.fork()
    if pid == 0:
        try:
            group.enter()  # before it forks: only the process itself is moved
            os.execv(sys.executable, [sys.executable, "-c", program])
        finally:
            os._exit(1)
    while len(group.pids()) < count:  # the forks take a moment, and nothing tells of them
        os.sched_yield()
    return pid


def ended(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    process.stdout.close()
    return process.wait(timeout=20)


def opened(group: Cgroup, path: str, flags: int) -> int:
    """The errno of opening `path` in a process of the group."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            group.enter()
            os.close(os.open(path, flags))
            code = 0
        except OSError as error:
            code = error.errno or 254
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class TestBothVersions:
    def test_a_process_is_moved_seen_and_killed_with_its_children(self, group: Cgroup) -> None:
        group.create(CgroupLimits())
        process = sleeper()
        group.add(process.pid)
        assert group.pids() == [process.pid]
        group.kill_all()
        assert ended(process) == -signal.SIGKILL
        group.remove()
        assert not group.exists()

    def test_killing_reaches_every_process_below(self, host: CgroupHost, group: Cgroup) -> None:
        group.create(CgroupLimits())
        below = host.group(f"{group.path}/below")
        below.create(CgroupLimits())
        pid = os.fork()
        if pid == 0:
            try:
                below.enter()
                os.execv(
                    sys.executable,
                    [sys.executable, "-c", "import os, signal\nfor _ in range(9): os.fork()\nsignal.pause()"],
                )
            finally:
                os._exit(1)
        while len(group.pids()) < 64:  # the forks take a moment, and nothing tells of them
            os.sched_yield()
        group.kill_all()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        group.remove()
        assert group.pids() == []

    def test_a_frozen_group_is_killed_too(self, group: Cgroup) -> None:
        group.create(CgroupLimits())
        process = sleeper()
        group.add(process.pid)
        group.freeze()
        assert group.frozen()
        group.kill_all()
        assert ended(process) == -signal.SIGKILL

    def test_a_frozen_process_answers_only_when_it_is_thawed(self, group: Cgroup) -> None:
        group.create(CgroupLimits())
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert process.stdin is not None and process.stdout is not None
            group.add(process.pid)
            group.freeze()
            os.write(process.stdin.fileno(), b"hello")
            answers = select.poll()
            answers.register(process.stdout, select.POLLIN)
            assert answers.poll(50) == []
            group.thaw()
            assert not group.frozen()
            assert os.read(process.stdout.fileno(), 5) == b"hello"
        finally:
            process.communicate()

    def test_adding_what_does_not_exist_is_not_found(self, group: Cgroup) -> None:
        with pytest.raises(NotFound):
            group.add(os.getpid())
        group.create(CgroupLimits())
        with pytest.raises(NotFound):
            group.add(4_000_000)

    def test_a_device_policy_is_obeyed_and_can_be_changed(self, host: CgroupHost, group: Cgroup) -> None:
        group.create(CgroupLimits(devices=NULL_AND_ZERO))
        assert opened(group, "/dev/null", os.O_RDWR) == 0
        assert opened(group, "/dev/zero", os.O_RDONLY) == 0
        assert opened(group, "/dev/zero", os.O_WRONLY) == errno.EPERM
        assert opened(group, "/dev/full", os.O_RDONLY) == errno.EPERM
        group.update(CgroupLimits(devices=(DENY, DeviceRule(True, "c", 1, 7))))
        assert opened(group, "/dev/null", os.O_RDWR) == errno.EPERM
        assert opened(group, "/dev/full", os.O_RDONLY) == 0
        group.update(CgroupLimits(devices=(DeviceRule(True), DeviceRule(False, "c", 1, 5, "w"))))
        assert opened(group, "/dev/null", os.O_RDWR) == 0
        assert opened(group, "/dev/zero", os.O_RDWR) == errno.EPERM
        assert opened(group, "/dev/zero", os.O_RDONLY) == 0

    def test_creating_again_takes_the_group_over(self, group: Cgroup) -> None:
        group.create(CgroupLimits())
        process = sleeper()
        group.add(process.pid)
        group.create(CgroupLimits())
        assert group.pids() == [process.pid]
        group.kill_all()
        ended(process)

    def test_removal_waits_for_processes_that_are_dying(self, group: Cgroup) -> None:
        group.create(CgroupLimits())
        first = sleepers(group, 21)
        # Nobody has reaped the first yet, and the kernel is still taking them apart.
        group.kill_all()
        group.remove()
        assert not group.exists()
        assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == -signal.SIGKILL

    def test_a_group_with_a_living_process_is_not_removed(
        self, group: Cgroup, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for version in ("v1", "v2"):
            monkeypatch.setattr(f"sampan.linux.cgroups.{version}._REMOVE_TIMEOUT", 0.05)
        group.create(CgroupLimits())
        process = sleeper()
        group.add(process.pid)
        with pytest.raises(Conflict, match=str(process.pid)):
            group.remove()
        assert process.poll() is None
        group.kill_all()
        ended(process)

    def test_stats_can_be_read(self, host: CgroupHost, group: Cgroup) -> None:
        group.create(CgroupLimits())
        pid = os.fork()
        if pid == 0:
            try:
                group.enter()
                sum(range(3_000_000))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert group.stats().cpu.total > 1_000_000


class TestVersion1:
    @pytest.fixture
    def host(self) -> CgroupHost:
        host = hosts().get("v1")
        if host is None:
            pytest.skip("no control groups of version 1 here")
        return host

    def text(self, host: CgroupHost, group: Cgroup, controller: str, name: str) -> str:
        return (Path(host.hierarchies[controller]) / group.path / name).read_text().strip()

    def test_limits_are_in_force(self, host: CgroupHost, group: Cgroup) -> None:
        group.create(
            CgroupLimits(
                memory=64 << 20,
                memory_swap=128 << 20,
                memory_reservation=32 << 20,
                memory_swappiness=0,
                oom_kill_disable=True,
                cpu_shares=512,
                cpu_quota=25000,
                cpu_period=50000,
                cpuset_cpus="0",
                pids=9,
            )
        )
        assert self.text(host, group, "memory", "memory.limit_in_bytes") == str(64 << 20)
        assert self.text(host, group, "memory", "memory.memsw.limit_in_bytes") == str(128 << 20)
        assert self.text(host, group, "memory", "memory.soft_limit_in_bytes") == str(32 << 20)
        assert self.text(host, group, "memory", "memory.swappiness") == "0"
        assert "oom_kill_disable 1" in self.text(host, group, "memory", "memory.oom_control")
        assert self.text(host, group, "cpu", "cpu.shares") == "512"
        assert self.text(host, group, "cpu", "cpu.cfs_quota_us") == "25000"
        assert self.text(host, group, "cpu", "cpu.cfs_period_us") == "50000"
        assert self.text(host, group, "cpuset", "cpuset.cpus") == "0"
        stats = group.stats()
        assert stats.memory.limit == 64 << 20
        assert stats.pids.limit == 9

    def test_memory_can_be_raised_lowered_and_freed(self, host: CgroupHost, group: Cgroup) -> None:
        group.create(CgroupLimits(memory=64 << 20, memory_swap=64 << 20))
        for memory, swap in ((256 << 20, 512 << 20), (32 << 20, 48 << 20), (64 << 20, -1), (-1, None)):
            group.update(CgroupLimits(memory=memory, memory_swap=swap))
            assert group.stats().memory.limit == (None if memory == -1 else memory)

    def test_a_process_that_takes_too_much_is_killed_counted_and_told_of(
        self, host: CgroupHost, group: Cgroup
    ) -> None:
        group.create(CgroupLimits(memory=32 << 20, memory_swap=32 << 20))
        listener = listen(host)
        listener.add(group.path)
        assert listener.touched_nowait() == []
        pid = os.fork()
        if pid == 0:
            try:
                group.enter()
                os.execv(sys.executable, [sys.executable, "-c", "bytearray(b'x') * (256 << 20)"])
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        assert group.oom_kills() == 1
        assert select.select([listener], [], [], 10)[0] == [listener]
        assert listener.touched_nowait() == [group.path]
        listener.close()
        assert 24 << 20 < (group.stats().memory.max_usage or 0) <= 32 << 20

    def test_the_number_of_processes_is_limited(self, group: Cgroup) -> None:
        group.create(CgroupLimits(pids=1))
        pid = os.fork()
        if pid == 0:
            code = 255
            try:
                group.enter()
                os.fork()
                code = 0
            except OSError as error:
                code = error.errno or 254
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == errno.EAGAIN

    def test_a_value_that_the_kernel_refuses_leaves_nothing_behind(self, group: Cgroup) -> None:
        with pytest.raises(Invalid, match=r"cpuset\.cpus"):
            group.create(CgroupLimits(cpuset_cpus="4000-5000"))
        assert not group.exists()


def _come_and_go(host: CgroupHost, parent: str, worker: int) -> list[str]:
    """Make groups in a parent that others make and remove at the same time; what went wrong."""
    found = []
    for number in range(60):
        group = host.group(f"{parent}/{worker}-{number}")
        group.create(CgroupLimits())
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                group.enter()
                code = 0
            finally:
                os._exit(code)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
            found.append(group.path)
        group.remove()
        for root in set(host.hierarchies.values()) or {host.root}:
            try:
                os.rmdir(f"{root}/{parent}")
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
                    raise
    return found


def test_processes_enter_groups_of_a_parent_that_others_make_and_remove_meanwhile(host: CgroupHost) -> None:
    parent = f"sampan-test-{uuid.uuid4().hex[:12]}"
    try:
        with multiprocessing.get_context("fork").Pool(4) as pool:
            found = pool.starmap(_come_and_go, [(host, parent, worker) for worker in range(4)])
        assert found == [[], [], [], []]
    finally:
        host.group(parent).kill_all()
        host.group(parent).remove()


def test_replacing_a_device_program_leaves_exactly_one() -> None:
    host = hosts().get("v2")
    if host is None:
        pytest.skip("no control groups of version 2 here")
    group = host.group(f"sampan-test-{uuid.uuid4().hex[:12]}")
    group.create(CgroupLimits())
    try:
        path = f"{host.root}/{group.path}"
        for _ in range(3):
            attach_device_program(path, device_program(device_policy(NULL_AND_ZERO)))
        assert opened(group, "/dev/null", os.O_RDWR) == 0
        attach_device_program(path, device_program(device_policy((DeviceRule(True),))))
        assert opened(group, "/dev/full", os.O_RDONLY) == 0
    finally:
        group.remove()
