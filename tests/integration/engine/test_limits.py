"""Limits of containers in the running kernel's files, on either layout of control groups; update, OOM kills."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.linux.cgroups import detect

pytestmark = pytest.mark.root

LAYOUT = detect().layout
V2 = LAYOUT == "v2"
MIB = 1 << 20
EAT = "x=a; while :; do x=$x$x; done"
"""A shell program that takes memory until it is killed."""


def _block_device() -> tuple[str, str] | None:
    """(path, "major:minor") of a whole disk that can be throttled."""
    for name in sorted(os.listdir("/sys/block")):
        path = Path("/dev") / name
        if name.startswith(("loop", "ram", "zram", "dm-", "md", "sr", "fd")) or not path.exists():
            continue
        info = path.stat()
        if stat.S_ISBLK(info.st_mode):
            return str(path), f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    return None


class Group:
    """The kernel's files of a container's control group."""

    def __init__(self, sampan: Any, container: str, parent: str = "") -> None:
        identity = sampan.ok("inspect", "-f", "{{.Id}}", container)
        self._path = f"{(parent or sampan.engine.cgroup_parent).strip('/')}/{identity}"

    def text(self, controller: str, name: str) -> str:
        root = "/sys/fs/cgroup" if V2 else f"/sys/fs/cgroup/{controller}"
        return Path(f"{root}/{self._path}/{name}").read_text().strip()

    def memory(self) -> tuple[str, str]:
        """(memory, memory and swap together) in bytes; "max" when unlimited."""
        if V2:
            memory, swap = self.text("memory", "memory.max"), self.text("memory", "memory.swap.max")
            return memory, swap if "max" in (memory, swap) else str(int(memory) + int(swap))
        values = (
            self.text("memory", "memory.limit_in_bytes"),
            self.text("memory", "memory.memsw.limit_in_bytes"),
        )
        memory, both = ("max" if int(value) > 1 << 62 else value for value in values)
        return memory, both

    def cpu(self) -> str:
        """ "quota period" in microseconds."""
        if V2:
            return self.text("cpu", "cpu.max")
        quota = self.text("cpu", "cpu.cfs_quota_us")
        return f"{'max' if quota == '-1' else quota} {self.text('cpu', 'cpu.cfs_period_us')}"

    def shares(self) -> str:
        return self.text("cpu", "cpu.weight" if V2 else "cpu.shares")

    def cpuset(self) -> tuple[str, str]:
        return self.text("cpuset", "cpuset.cpus"), self.text("cpuset", "cpuset.mems")

    def pids(self) -> str:
        return self.text("pids", "pids.max")

    def reservation(self) -> str:
        return self.text("memory", "memory.low" if V2 else "memory.soft_limit_in_bytes")

    def throttles(self) -> dict[str, str]:
        """Throttle -> rate of the only device that has some."""
        if V2:
            fields = self.text("io", "io.max").split()[1:]
            return dict(field.split("=") for field in fields)
        return {
            short: self.text("blkio", f"blkio.throttle.{kind}_device").split()[1]
            for short, kind in (
                ("rbps", "read_bps"), ("wbps", "write_bps"), ("riops", "read_iops"), ("wiops", "write_iops"),
            )
        }  # fmt: skip

    def everything(self) -> tuple[object, ...]:
        return self.memory(), self.cpu(), self.shares(), self.cpuset(), self.pids(), self.reservation()


@pytest.fixture
def own_parent(sampan: Any) -> Iterator[str]:
    parent = f"{sampan.engine.cgroup_parent}-own/below"
    yield parent
    sampan.clean()
    detect().group(parent.rpartition("/")[0]).remove()


def test_every_limit_reaches_the_kernel(sampan: Any, own_parent: str) -> None:
    device = _block_device()
    throttles = () if device is None else (
        "--device-read-bps", f"{device[0]}:1mb", "--device-write-bps", f"{device[0]}:2mb",
        "--device-read-iops", f"{device[0]}:30", "--device-write-iops", f"{device[0]}:40",
    )  # fmt: skip
    sampan.ok(
        "run", "-d", "--name", "limited", "--cgroup-parent", own_parent, "--memory", "40m", "--memory-swap", "60m",
        "--memory-reservation", "20m", "--oom-score-adj", "300", "--cpus", "0.5", "--cpu-shares", "512",
        "--cpuset-cpus", "0", "--cpuset-mems", "0", "--pids-limit", "50", "--ulimit", "nofile=100:200",
        "--ulimit", "core=0", "--shm-size", "32m", *throttles, "busybox", "sleep", "1000",
    )  # fmt: skip
    group = Group(sampan, "limited", own_parent)
    assert group.memory() == (str(40 * MIB), str(60 * MIB))
    assert group.reservation() == str(20 * MIB)
    assert group.cpu() == "50000 100000"
    assert group.shares() == ("59" if V2 else "512")  # the curve of runc since 1.4 and crun since 1.23
    assert group.cpuset() == ("0", "0")
    assert group.pids() == "50"
    if device is not None:
        assert group.throttles() == {"rbps": str(MIB), "wbps": str(2 * MIB), "riops": "30", "wiops": "40"}
    seen = sampan.ok(
        "exec", "limited", "sh", "-c",
        "cat /proc/1/oom_score_adj; grep -E 'open files|core' /proc/1/limits; df -k /dev/shm | tail -1; "
        "grep Cpus_allowed_list /proc/1/status; grep sampan-test /proc/1/cgroup || true",
    ).splitlines()  # fmt: skip
    assert seen[0] == "300"
    limits = {line[:26].strip(): line[26:].split()[:2] for line in seen[1:3]}
    assert limits == {"Max core file size": ["0", "0"], "Max open files": ["100", "200"]}
    assert seen[3].split()[1] == "32768"
    assert seen[4].split()[1] == "0"


def test_what_version_1_alone_has_is_set_there_and_warned_of_elsewhere(sampan: Any) -> None:
    done = sampan.run(
        "run", "-d", "--name", "old", "--memory", "20m", "--oom-kill-disable", "--memory-swappiness", "30",
        "busybox", "sleep", "1000",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if V2:
        assert "Your kernel does not support OomKillDisable. OomKillDisable discarded." in done.stderr
        assert "Memory swappiness discarded." in done.stderr
        return
    group = Group(sampan, "old")
    assert "oom_kill_disable 1" in group.text("memory", "memory.oom_control")
    assert group.text("memory", "memory.swappiness") == "30"


def test_limits_without_a_number_are_no_limits(sampan: Any) -> None:
    sampan.ok("run", "-d", "--name", "free", "--pids-limit", "-1", "busybox", "sleep", "1000")
    group = Group(sampan, "free")
    assert group.memory() == ("max", "max")
    assert group.cpu() == "max 100000"
    assert group.pids() == "max"


def _stored(sampan: Any, container: str) -> tuple[int, ...]:
    host = json.loads(sampan.ok("inspect", container))[0]["HostConfig"]
    names = (
        "Memory",
        "MemorySwap",
        "MemoryReservation",
        "NanoCpus",
        "CpuQuota",
        "CpuPeriod",
        "CpuShares",
        "PidsLimit",
    )
    return tuple(host[name] for name in names)


def test_update_changes_a_running_containers_limits_up_and_down(sampan: Any) -> None:
    sampan.ok("run", "-d", "--name", "live", "-m", "20m", "--pids-limit", "20", "busybox", "sleep", "1000")
    group = Group(sampan, "live")
    assert group.memory() == (str(20 * MIB), str(40 * MIB))
    for memory, both in ((64, 128), (32, 32), (100, 120), (30, 90)):
        sampan.ok("update", "--memory", f"{memory}m", "--memory-swap", f"{both}m", "live")
        assert group.memory() == (str(memory * MIB), str(both * MIB))
    sampan.ok("update", "--memory", "40m", "live")  # within memory and swap as they are
    assert group.memory() == (str(40 * MIB), str(90 * MIB))
    sampan.ok("update", "--memory-swap", "-1", "--memory-reservation", "10m", "live")
    assert group.memory() == (str(40 * MIB), "max")
    assert group.reservation() == str(10 * MIB)
    sampan.ok(
        "update", "--cpu-quota", "20000", "--cpu-period", "50000", "--cpu-shares", "2048", "--cpuset-cpus", "0",
        "--cpuset-mems", "0", "--pids-limit", "30", "live",
    )  # fmt: skip
    assert (group.cpu(), group.cpuset(), group.pids()) == ("20000 50000", ("0", "0"), "30")
    assert group.shares() == ("174" if V2 else "2048")
    sampan.ok("update", "--pids-limit", "-1", "--cpu-quota", "-1", "live")
    assert (group.cpu(), group.pids()) == ("max 50000", "max")
    assert _stored(sampan, "live") == (40 * MIB, -1, 10 * MIB, 0, -1, 50000, 2048, 0)


def test_an_update_that_fails_changes_nothing(sampan: Any, wait_until: Callable[..., None]) -> None:
    sampan.ok(
        "run", "-d", "--name", "firm", "-m", "40m", "--cpus", "0.5", "--pids-limit", "20", "--cpuset-cpus", "0",
        "busybox", "sh", "-c", f"{'head -c 20000000 /dev/zero > /dev/shm/x; '}sleep 1000",
    )  # fmt: skip
    group = Group(sampan, "firm")
    before, stored = group.everything(), _stored(sampan, "firm")
    refused = [
        (("--memory", "4m"), "Minimum memory limit allowed is 6MB"),
        (("--memory", "200m"), "Memory limit should be smaller than already set memoryswap limit"),
        (("--cpu-quota", "20000"), "Conflicting options: CPU Quota cannot be updated as NanoCPUs"),
        (("--cpuset-cpus", "8000", "--cpu-shares", "99"), "Requested CPUs are not available"),
        (("--pids-limit", "7", "--cpus", "9999"), "Range of CPUs is from 0.01 to"),
    ]
    if not V2:
        # The kernel itself refuses these two, after others have been written.
        refused += [
            (
                ("--cpus", "1", "--cpu-shares", "1", "--cpuset-mems", "0"),
                "the minimum allowed cpu-shares is 2",
            ),
            (
                ("--cpus", "1", "--memory", "8m", "--memory-swap", "8m"),
                "unable to set memory limit to 8388608",
            ),
        ]
        wait_until(
            lambda: int(group.text("memory", "memory.usage_in_bytes")) > 20_000_000, "the use of memory"
        )
    for flags, words in refused:
        done = sampan.run("update", *flags, "firm")
        assert (done.returncode, words in done.stderr) == (1, True), done.stderr
        assert group.everything() == before
        assert _stored(sampan, "firm") == stored


def test_updates_are_kept_by_stopped_containers_and_over_the_daemons_end(fresh_sampan: Any) -> None:
    sampan = fresh_sampan
    sampan.ok("create", "--name", "still", "-m", "20m", "busybox", "sleep", "1000")
    sampan.ok("run", "-d", "--name", "live", "-m", "20m", "busybox", "sleep", "1000")
    for name in ("still", "live"):
        sampan.ok(
            "update", "-m", "30m", "--memory-swap", "50m", "--cpus", "0.25", "--restart", "on-failure:3", name
        )
    sampan.engine.kill()
    sampan.engine.start()
    sampan.ok("start", "still")
    for name in ("still", "live"):
        group = Group(sampan, name)
        assert group.memory() == (str(30 * MIB), str(50 * MIB))
        assert group.cpu() == "25000 100000"
        assert _stored(sampan, name)[:4] == (30 * MIB, 50 * MIB, 0, 250_000_000)
        policy = json.loads(sampan.ok("inspect", name))[0]["HostConfig"]["RestartPolicy"]
        assert policy == {"Name": "on-failure", "MaximumRetryCount": 3}
    sampan.ok("update", "-m", "40m", "live")
    assert Group(sampan, "live").memory() == (str(40 * MIB), str(50 * MIB))


def _actions(sampan: Any, container: str, since: float, last: str) -> list[str]:
    """The container's events from `since` to the first `last`; waits for it."""
    found = []
    stream = sampan.api.api.events(
        since=f"{since:.9f}", until=int(time.time()) + 30, decode=True, filters={"container": container}
    )
    for event in stream:
        if event["Type"] == "container":
            found.append(event["Action"])
            if event["Action"] == last:
                stream.close()
                return found
    pytest.fail(f"no {last} among {found}")


def _state(sampan: Any, container: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(sampan.ok("inspect", container))[0]["State"]
    return state


def test_an_oom_kill_of_the_first_process_is_an_event_and_a_state(sampan: Any) -> None:
    since = time.time()
    done = sampan.run(
        "run", "--name", "eater", "-m", "20m", "--memory-swap", "20m", "busybox", "sh", "-c", EAT
    )
    assert done.returncode == 137
    assert _actions(sampan, "eater", since, "die")[-3:] == ["start", "oom", "die"]
    state = _state(sampan, "eater")
    assert (state["OOMKilled"], state["ExitCode"], state["Status"]) == (True, 137, "exited")


def test_an_oom_kill_of_another_process_is_told_at_once_and_the_container_lives_on(sampan: Any) -> None:
    since = time.time()
    sampan.ok(
        "run", "-d", "--name", "parent", "-m", "20m", "--memory-swap", "20m", "busybox", "sh", "-c",
        f"trap 'exit 3' TERM; sh -c '{EAT}'; echo child $?; sleep 1000 & wait",
    )  # fmt: skip
    assert _actions(sampan, "parent", since, "oom") == ["create", "start", "oom"]
    state = _state(sampan, "parent")
    assert (state["OOMKilled"], state["Status"]) == (True, "running")
    sampan.ok("stop", "parent")
    assert sampan.ok("logs", "parent").startswith("child 137")
    assert _actions(sampan, "parent", since, "die").count("oom") == 1
    state = _state(sampan, "parent")
    assert (state["OOMKilled"], state["ExitCode"]) == (True, 3)
    sampan.ok("start", "parent")
    assert _actions(sampan, "parent", since, "oom")  # it happens again


def test_an_oom_kill_while_no_daemon_was_there_is_told_by_the_next(
    fresh_sampan: Any, wait_until: Callable[..., None]
) -> None:
    sampan = fresh_sampan
    sampan.ok(
        "run", "-d", "--name", "alone", "-m", "20m", "--memory-swap", "20m", "busybox", "sh", "-c",
        f"while [ ! -e /tmp/go ]; do sleep 0.1; done; sh -c '{EAT}'; sleep 1000",
    )  # fmt: skip
    group = detect().group(f"{sampan.engine.cgroup_parent}/{sampan.ok('inspect', '-f', '{{.Id}}', 'alone')}")
    pid = _state(sampan, "alone")["Pid"]
    sampan.engine.kill()
    Path(f"/proc/{pid}/root/tmp/go").touch()
    wait_until(lambda: group.oom_kills() == 1, "the kill")
    since = time.time()
    sampan.engine.start()
    assert "oom" in _actions(sampan, "alone", since, "oom")
    state = _state(sampan, "alone")
    assert (state["OOMKilled"], state["Status"]) == (True, "running")


def test_more_processes_than_the_limit_are_refused(sampan: Any) -> None:
    done = sampan.run(
        "run",
        "--rm",
        "--pids-limit",
        "3",
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3 4 5; do sleep 5 & done; echo no",
    )
    assert done.returncode != 0 or "no" not in done.stdout
    assert "can't fork" in done.stderr


def test_stats_of_a_container_are_those_of_its_group(sampan: Any, wait_until: Callable[..., None]) -> None:
    sampan.ok(
        "run", "-d", "--name", "busy", "-m", "64m", "--pids-limit", "20", "--cpus", "0.3", "busybox", "sh", "-c",
        "head -c 8000000 /dev/zero > /file; head -c 4000000 /dev/zero > /dev/shm/x; echo ready; while :; do :; done",
    )  # fmt: skip
    wait_until(lambda: sampan.ok("logs", "busy") == "ready", "the work before the loop")
    api = sampan.api.api
    first, second = (
        sample for sample, _ in zip(api.stats("busy", stream=True, decode=True), range(2), strict=False)
    )
    assert first["preread"] == "0001-01-01T00:00:00Z"
    assert second["preread"] == first["read"] < second["read"]
    assert second["precpu_stats"] == first["cpu_stats"]
    for sample in (second, api.stats("busy", stream=False), api.stats("busy", stream=False, one_shot=True)):
        assert (sample["name"], sample["id"]) == ("/busy", sampan.ok("inspect", "-f", "{{.Id}}", "busy"))
        memory = sample["memory_stats"]
        assert memory["limit"] == 64 * MIB
        # Without the page cache (docker stats), the shared memory and little else is left.
        cache = memory["stats"]["inactive_file" if V2 else "total_inactive_file"]
        assert 4_000_000 <= memory["usage"] - cache < 8_000_000
        assert sample["pids_stats"] == {"current": 1, "limit": 20}
        cpu = sample["cpu_stats"]
        assert cpu["online_cpus"] == os.cpu_count()
        assert cpu["cpu_usage"]["total_usage"] > 0 < cpu["system_cpu_usage"]
        eth0 = sample["networks"]["eth0"]
        assert set(eth0) == {f"{way}_{what}" for way in ("rx", "tx") for what in (
            "bytes", "packets", "errors", "dropped",
        )}  # fmt: skip
        assert sample["num_procs"] == 0
    used = second["cpu_stats"]["cpu_usage"]["total_usage"] - first["cpu_stats"]["cpu_usage"]["total_usage"]
    passed = second["cpu_stats"]["system_cpu_usage"] - first["cpu_stats"]["system_cpu_usage"]
    share = used / passed * second["cpu_stats"]["online_cpus"]
    assert 0 < share < 0.45  # of the processor; 0.3 and what fits between two readings
    assert second["cpu_stats"]["throttling_data"]["throttled_periods"] > 0
    assert api.stats("busy", stream=False, one_shot=True)["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    sampan.ok("kill", "busy")
    ended = api.stats("busy", stream=False)
    assert (ended["read"], ended["memory_stats"], ended["pids_stats"]) == ("0001-01-01T00:00:00Z", {}, {})
    assert "networks" not in ended


def test_the_stats_command_shows_one_reading_of_the_containers_asked_for(sampan: Any) -> None:
    names = ("one", "two", "three", "four", "five")
    for name in names:
        sampan.ok("run", "-d", "--name", name, "-m", "32m", "--network", "none", "busybox", "sleep", "1000")
    sampan.ok("create", "--name", "idle", "busybox")
    lines = sampan.ok("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.NetIO}}").splitlines()
    assert sorted(lines) == sorted(f"{name} 1 0B / 0B" for name in names)
    lines = sampan.ok("stats", "--no-stream", "--all", "--no-trunc").splitlines()
    assert lines[0].split()[:3] == ["CONTAINER", "ID", "NAME"]
    assert len(lines) == 7 and {len(line.split()[0]) for line in lines[1:]} == {64}
    row = next(line for line in lines if " idle " in line)
    assert " 0.00% " in row and " 0B / 0B " in row
    found = json.loads(sampan.ok("stats", "--no-stream", "--format", "json", "two"))
    assert found["Name"] == found["Container"] == "two"
    assert found["MemUsage"].endswith(" / 32MiB")
    done = sampan.run("stats", "--no-stream", "one", "nobody")
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "Error response from daemon: No such container: nobody",
    )


def test_the_stats_stream_follows_containers_that_come_and_go(
    sampan: Any, wait_until: Callable[..., None]
) -> None:
    sampan.ok("run", "-d", "--name", "first", "--network", "none", "busybox", "sleep", "1000")
    stream = sampan.start("stats", "--format", "{{.Name}}")
    try:
        assert stream.stdout.readline() == b"first\n"
        sampan.ok("run", "-d", "--name", "second", "--network", "none", "busybox", "sleep", "1000")
        while stream.stdout.readline() != b"second\n":
            pass
        sampan.ok("kill", "first")
        pictures: list[bytes] = []
        while pictures[-3:] != [b"second\n"] * 3:
            pictures.append(stream.stdout.readline())
    finally:
        stream.kill()
        stream.communicate()
    named = sampan.start("stats", "--format", "{{.Name}}", "second")
    assert named.stdout.readline() == b"second\n"
    sampan.ok("rm", "-f", "second")
    assert named.wait(timeout=20) == 0
    named.communicate()


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (("--memory", "10x"), 125, 'invalid argument "10x" for "-m, --memory" flag: invalid size'),
        (("--ulimit", "nofile=-1:5"), 125, "hard limit: soft: -1 (unlimited), hard: 5"),
        (
            ("--device-read-bps", "vda:1mb"),
            125,
            '"--device-read-bps" flag: bad format for device path: vda:1mb',
        ),
        (("--cpus", "0.5", "--cpu-quota", "10000"), 1, "Nano CPUs and CPU Quota cannot both be set"),
        (("--cpuset-mems", "77"), 1, "Requested memory nodes are not available - requested 77"),
        (("--shm-size", "-1"), 125, 'invalid argument "-1" for "--shm-size" flag: invalid size'),
        (
            ("--cpu-percent", "5"),
            1,
            '"--cpu-percent" is only supported on a Docker daemon running on windows',
        ),
    ],
)
def test_a_bad_limit_is_refused_with_dockers_exit_code_and_words(
    sampan: Any, flags: tuple[str, ...], status: int, words: str
) -> None:
    """Exit codes and messages as docker's command line gave them with dockerd 20.10."""
    done = sampan.run("create", *flags, "busybox")
    assert (done.returncode, words in done.stderr) == (status, True), done.stderr
