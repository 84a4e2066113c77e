"""Checks of limits, at creation and for `update`. The messages are those that dockerd 20.10 gave."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sampan.engine.config import HostConfig, RestartPolicy, ThrottleDevice, WeightDevice
from sampan.engine.host_facts import HostFacts
from sampan.engine.resource_checks import check_resources, missing_limits, parse_cpuset
from sampan.engine.resource_update import changed_limits, updated
from sampan.engine.spec_resources import cgroup_path
from sampan.errors import Conflict, Invalid, SampanError
from sampan.linux.cgroups import CgroupLimits
from sampan.linux.cgroups.features import CgroupFeatures

HUGE = "9" * 5000
"""More digits than Python reads as a number."""
FACTS = HostFacts(cpus=2, cpuset="0-1", memory_nodes="0")
NOTHING = HostFacts(
    cpus=2,
    cpuset="0-1",
    features=CgroupFeatures(
        *(False for _ in range(12)),
        frozenset(),
    ),
)
MIB = 1 << 20


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"memory": -1}, "Minimum memory limit allowed is 6MB"),
        ({"memory_reservation": 4 * MIB}, "Minimum memory reservation allowed is 6MB"),
        (
            {"memory": 10 * MIB, "memory_reservation": 20 * MIB},
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ),
        ({"memory_swappiness": 101}, "Invalid value: 101, valid memory swappiness range is 0-100"),
        (
            {"nano_cpus": 10**9, "cpu_quota": 10000},
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
        ),
        (
            {"nano_cpus": 10**9, "cpu_period": 10000},
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ),
        (
            {"cpu_period": 999},
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ),
        (
            {"cpu_realtime_period": 10000, "cpu_realtime_runtime": 20000},
            "cpu real-time runtime cannot be higher than cpu real-time period",
        ),
        ({"cpuset_cpus": "1-0"}, "Invalid value 1-0 for cpuset cpus: invalid format: 1-0"),
        ({"cpuset_cpus": "a"}, "Invalid value a for cpuset cpus: invalid format: a"),
        ({"cpuset_cpus": "0,"}, "Invalid value 0, for cpuset cpus: invalid format: 0,"),
        ({"cpuset_cpus": "0 ,1"}, "Invalid value 0 ,1 for cpuset cpus: invalid format: 0 ,1"),
        (
            {"cpuset_cpus": "99999"},
            "Invalid value 99999 for cpuset cpus: value of out range, maximum is 8192",
        ),
        ({"cpuset_cpus": HUGE}, f"Invalid value {HUGE} for cpuset cpus: invalid format: {HUGE}"),
        ({"cpuset_mems": f"0-{HUGE}"}, f"Invalid value 0-{HUGE} for cpuset mems: invalid format: 0-{HUGE}"),
        ({"cpuset_mems": "7"}, "Requested memory nodes are not available - requested 7, available: 0"),
        ({"cpuset_mems": "a"}, "Invalid value a for cpuset mems: invalid format: a"),
        ({"blkio_weight": 5}, "Range of blkio weight is from 10 to 1000"),
        ({"cpu_shares": -1}, "invalid CPU shares (-1): value must be a positive integer"),
    ],
)
def test_limits_that_cannot_be_are_refused_in_dockers_words(host: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_resources(HostConfig(**host), FACTS, [])
    assert caught.value.message == message


def test_a_limit_that_the_host_cannot_enforce_is_left_out_with_a_warning() -> None:
    throttle = (ThrottleDevice("/dev/sda", 1),)
    asked = HostConfig(
        memory=64 * MIB,
        memory_reservation=32 * MIB,
        memory_swappiness=50,
        oom_kill_disable=True,
        pids_limit=5,
        cpu_shares=100,
        cpu_quota=5000,
        cpuset_cpus="0",
        blkio_weight=5,
        blkio_weight_device=(WeightDevice("/dev/sda", 100),),
        blkio_device_read_bps=throttle,
        blkio_device_write_bps=throttle,
        blkio_device_read_iops=throttle,
        blkio_device_write_iops=throttle,
    )
    warnings: list[str] = []
    assert check_resources(asked, NOTHING, warnings) == HostConfig(memory_swap=-1)
    kernel, mounted = "Your kernel does not support", "or the cgroup is not mounted."
    assert warnings == [
        f"{kernel} memory limit capabilities {mounted} Limitation discarded.",
        f"{kernel} memory soft limit capabilities {mounted} Limitation discarded.",
        f"{kernel} memory swappiness capabilities {mounted} Memory swappiness discarded.",
        f"{kernel} OomKillDisable. OomKillDisable discarded.",
        f"{kernel} PIDs limit capabilities {mounted} PIDs limit discarded.",
        f"{kernel} CPU shares {mounted} Shares discarded.",
        f"{kernel} CPU CFS scheduler. CPU period/quota discarded.",
        f"{kernel} cpuset {mounted} Cpuset discarded.",
        f"{kernel} Block I/O weight {mounted} Weight discarded.",
        f"{kernel} Block I/O weight_device {mounted} Weight-device discarded.",
        f"{kernel} BPS Block I/O read limit {mounted} Block I/O BPS read limit discarded.",
        f"{kernel} BPS Block I/O write limit {mounted} Block I/O BPS write limit discarded.",
        f"{kernel} IOPS Block read limit {mounted} Block I/O IOPS read limit discarded.",
        f"{kernel} IOPS Block write limit {mounted} Block I/O IOPS write limit discarded.",
    ]


def test_without_swap_accounting_memory_is_limited_alone() -> None:
    warnings: list[str] = []
    facts = HostFacts(cpus=2, cpuset="0-1", features=CgroupFeatures(swap=False))
    assert check_resources(HostConfig(memory=64 * MIB), facts, warnings).memory_swap == -1
    assert warnings == [
        "Your kernel does not support swap limit capabilities or the cgroup is not mounted. "
        "Memory limited without swap."
    ]


def test_a_cpuset_is_read_as_the_kernel_reads_it() -> None:
    assert parse_cpuset("0-2,7") == {0, 1, 2, 7}
    assert parse_cpuset("") == frozenset()


PRESENT = HostConfig(memory=20 * MIB, memory_swap=40 * MIB)


@pytest.mark.parametrize(
    ("present", "wanted", "message"),
    [
        (
            PRESENT,
            {"memory": 50 * MIB},
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ),
        (
            HostConfig(),
            {"memory": 50 * MIB},
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ),
        (
            PRESENT,
            {"memory_swap": 10 * MIB},
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            HostConfig(nano_cpus=10**9),
            {"cpu_quota": 5000},
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
        (
            HostConfig(nano_cpus=10**9),
            {"cpu_period": 5000},
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
        ),
        (
            HostConfig(cpu_quota=5000),
            {"nano_cpus": 10**9},
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
        (
            HostConfig(cpu_period=5000),
            {"nano_cpus": 10**9},
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
        ),
        (
            HostConfig(auto_remove=True),
            {"restart_policy": RestartPolicy("always")},
            "Restart policy cannot be updated because AutoRemove is enabled for the container",
        ),
        (PRESENT, {"restart_policy": RestartPolicy("bogus")}, "invalid restart policy 'bogus'"),
        (PRESENT, {"memory": 4 * MIB}, "Minimum memory limit allowed is 6MB"),
    ],
)
def test_an_update_that_cannot_be_is_refused_in_dockers_words(
    present: HostConfig, wanted: dict[str, Any], message: str
) -> None:
    with pytest.raises(SampanError) as caught:
        updated(present, HostConfig(**wanted), FACTS)
    assert caught.value.message == message
    assert isinstance(caught.value, Invalid | Conflict)


def test_an_update_changes_what_is_given_and_nothing_else() -> None:
    host, warnings = updated(PRESENT, HostConfig(cpu_shares=512, pids_limit=-1, cpuset_cpus="1"), FACTS)
    assert host == HostConfig(
        memory=20 * MIB, memory_swap=40 * MIB, cpu_shares=512, pids_limit=0, cpuset_cpus="1"
    )
    assert warnings == []


def test_an_update_cannot_reach_beyond_the_limits() -> None:
    wanted = HostConfig(
        privileged=True, binds=("/:/host",), cap_add=("ALL",), oom_kill_disable=True, cgroup_parent="/x"
    )
    assert updated(PRESENT, wanted, FACTS) == (PRESENT, [])


def test_only_what_changes_is_written_and_memory_always_with_its_swap() -> None:
    after, _ = updated(PRESENT, HostConfig(memory=10 * MIB, pids_limit=-1), FACTS)
    assert changed_limits(PRESENT, after) == CgroupLimits(memory=10 * MIB, memory_swap=40 * MIB, pids=-1)
    after, _ = updated(PRESENT, HostConfig(nano_cpus=5 * 10**8), FACTS)
    assert changed_limits(PRESENT, after) == CgroupLimits(cpu_quota=50_000, cpu_period=100_000)
    after, _ = updated(PRESENT, HostConfig(restart_policy=RestartPolicy("always")), FACTS)
    assert changed_limits(PRESENT, after) is None


@pytest.mark.parametrize(
    ("asked", "path"),
    [("", "/sampan/id"), ("/a/b/", "/a/b/id"), ("a", "/a/id"), ("../../x", "/x/id"), ("/", "/id")],
)
def test_a_parent_group_is_below_the_root_whatever_it_says(asked: str, path: str) -> None:
    assert cgroup_path(HostConfig(cgroup_parent=asked), "id", "/sampan") == path


def test_info_warns_of_limits_that_the_host_does_not_have() -> None:
    assert missing_limits(CgroupFeatures(), version_2=False) == []
    assert missing_limits(CgroupFeatures(swap=False, oom_kill_disable=False), version_2=False) == [
        "WARNING: No swap limit support",
        "WARNING: No oom kill disable support",
    ]
    without_io = CgroupFeatures(oom_kill_disable=False, blkio_weight=False, throttle=frozenset(("read_bps",)))
    assert missing_limits(without_io, version_2=True) == [
        "WARNING: No io.weight support",
        "WARNING: No io.max (wbps) support",
        "WARNING: No io.max (riops) support",
        "WARNING: No io.max (wiops) support",
    ]


@pytest.mark.parametrize("memory", [(1 << 62) - 1, 1 << 62, (1 << 63) - 1])
def test_the_greatest_memory_limits_give_a_record_that_can_be_read_again(memory: int) -> None:
    host = check_resources(HostConfig(memory=memory), FACTS, [])
    assert host.memory <= host.memory_swap
    assert msgspec.json.decode(msgspec.json.encode(host), type=HostConfig) == host
