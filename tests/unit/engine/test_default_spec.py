"""The defaults against what Docker Engine 20.10 writes into a container's config.json."""

from __future__ import annotations

import msgspec
import pytest

from sampan.engine.default_spec import (
    MASKED_PATHS,
    READONLY_PATHS,
    adjust_capabilities,
    default_device_rules,
    default_mounts,
)
from sampan.errors import Invalid
from sampan.linux.capabilities import NAMES
from sampan.linux.cgroups.device_policy import device_policy
from sampan.linux.cgroups.model import DeviceRule as Rule

DOCKER_CAPABILITIES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SETFCAP "
    "CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE"
)
DOCKER_MOUNTS = """[
{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
{"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
{"destination": "/dev/pts", "type": "devpts", "source": "devpts",
 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
 "options": ["ro", "nosuid", "noexec", "nodev"]},
{"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
{"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
 "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]}]"""
DOCKER_MASKED = (
    "/proc/asound /proc/acpi /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats "
    "/proc/sched_debug /proc/scsi /sys/firmware"
)
DOCKER_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
DOCKER_DEVICES = ((1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1))


def test_the_default_capabilities_are_dockers() -> None:
    assert " ".join(adjust_capabilities((), ())) == DOCKER_CAPABILITIES


def test_the_default_mounts_are_dockers() -> None:
    assert msgspec.json.decode(msgspec.json.encode(default_mounts())) == msgspec.json.decode(DOCKER_MOUNTS)


def test_adding_and_dropping_a_capability_keeps_dockers_order() -> None:
    wanted = DOCKER_CAPABILITIES.replace("CAP_CHOWN ", "") + " CAP_NET_ADMIN"
    assert " ".join(adjust_capabilities(["net_admin"], ["CAP_CHOWN"])) == wanted


@pytest.mark.parametrize(
    ("add", "drop", "privileged", "wanted"),
    [
        ((), ("ALL",), False, ()),
        (("SYS_TIME",), ("all",), False, ("CAP_SYS_TIME",)),
        (("ALL",), ("CAP_KILL",), False, tuple(name for name in NAMES if name != "CAP_KILL")),
        (("ALL",), ("ALL",), False, NAMES),
        ((), (), True, NAMES),
        (("CHOWN",), (), False, tuple(DOCKER_CAPABILITIES.split())),
    ],
)
def test_all_and_privileged_follow_dockers_rules(
    add: tuple[str, ...], drop: tuple[str, ...], privileged: bool, wanted: tuple[str, ...]
) -> None:
    assert adjust_capabilities(add, drop, privileged) == wanted


def test_all_means_what_the_engine_itself_has() -> None:
    assert adjust_capabilities(["ALL"], [], available=("CAP_KILL", "CAP_CHOWN")) == ("CAP_KILL", "CAP_CHOWN")


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(Invalid, match='invalid CapAdd: unknown capability: "CAP_FLY"'):
        adjust_capabilities(["fly"], [])


def test_protected_paths_hold_at_least_dockers() -> None:
    assert set(DOCKER_MASKED.split()) <= set(MASKED_PATHS)
    assert READONLY_PATHS == DOCKER_READONLY


def test_the_device_policy_allows_dockers_devices_and_making_any_node() -> None:
    rules = [
        Rule(rule.allow, rule.type or "a", rule.major, rule.minor, rule.access or "rwm")
        for rule in default_device_rules()
    ]
    policy = device_policy(rules)
    assert policy.default is False
    found = {(rule.type, rule.major, rule.minor): rule.access for rule in policy.exceptions}
    assert found[("c", None, None)] == found[("b", None, None)] == "m"
    assert all(found[("c", *numbers)] == "rwm" for numbers in DOCKER_DEVICES)
    assert ("c", 10, 229) not in found
