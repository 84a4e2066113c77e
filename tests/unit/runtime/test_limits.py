from __future__ import annotations

import pytest

from sampan.errors import Invalid
from sampan.linux.cgroups import DeviceRule
from sampan.oci import spec as oci
from sampan.runtime.limits import group_path, limits_of


def test_resources_map_to_limits() -> None:
    limits = limits_of(
        oci.Resources(
            memory=oci.MemoryLimits(limit=100, swap=200, reservation=50, disable_oom_killer=True),
            cpu=oci.CpuLimits(shares=512, quota=5000, period=10000, cpus="0-1"),
            pids=oci.PidsLimits(7),
            block_io=oci.BlockIoLimits(weight=300, read_bps=(oci.ThrottleDevice(8, 0, 1000),)),
            unified={"memory.high": "5"},
        )
    )
    assert (limits.memory, limits.memory_swap, limits.memory_reservation) == (100, 200, 50)
    assert limits.oom_kill_disable is True
    assert (limits.cpu_shares, limits.cpu_quota, limits.cpu_period, limits.cpuset_cpus) == (
        512,
        5000,
        10000,
        "0-1",
    )
    assert (limits.pids, limits.blkio_weight, limits.read_bps[0].rate) == (7, 300, 1000)
    assert limits.unified == {"memory.high": "5"}


@pytest.mark.parametrize(("given", "expected"), [(0, None), (-1, -1), (-5, -1), (3, 3)])
def test_a_process_limit_of_zero_is_none_and_below_is_unlimited(given: int, expected: int | None) -> None:
    assert limits_of(oci.Resources(pids=oci.PidsLimits(given))).pids == expected


def test_a_device_policy_always_allows_the_default_devices() -> None:
    rules = limits_of(oci.Resources(devices=(oci.DeviceRule(False, access="rwm"),))).devices
    assert rules[0] == DeviceRule(False, "a", None, None, "rwm")
    assert {
        DeviceRule(True, "c", 1, 3),
        DeviceRule(True, "c", 5, 2),
        DeviceRule(True, "c", 136, None),
    } <= set(rules)
    assert limits_of(oci.Resources()).devices == ()


@pytest.mark.parametrize("rule", [oci.DeviceRule(True, "x"), oci.DeviceRule(True, "c", 1, 1, "rwx")])
def test_a_device_rule_without_meaning_is_refused(rule: oci.DeviceRule) -> None:
    with pytest.raises(Invalid):
        limits_of(oci.Resources(devices=(rule,)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("", None),
        ("/docker/abc", "/docker/abc"),
        ("system.slice:docker:abc", "system.slice/docker-abc.scope"),
        (":docker:abc", "system.slice/docker-abc.scope"),
        ("a-b.slice:p:n", "a.slice/a-b.slice/p-n.scope"),
        ("user.slice::n", "user.slice/n.scope"),
    ],
)
def test_a_systemd_form_of_the_path_is_where_systemd_would_put_it(
    given: str | None, expected: str | None
) -> None:
    assert group_path(given) == expected
