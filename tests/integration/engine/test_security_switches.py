"""The switches of isolation, as Docker has them: what they do inside, and what is said when they can't be had.

Values and texts were taken from dockerd 20.10 with runc 1.1.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.engine import apparmor

pytestmark = pytest.mark.root

DEFAULT_CAPABILITIES = "00000000a80425fb"


@pytest.fixture
def donor(sampan: Any) -> Iterator[str]:
    """A container whose namespaces others may join."""
    name = sampan.ok(
        "run", "-d", "--network", "none", "--ipc", "shareable", "-h", "donor", "busybox", "sleep", "600"
    )
    try:
        yield name
    finally:
        sampan.run("rm", "-f", name)


def inside(sampan: Any, options: list[str], script: str) -> str:
    text: str = sampan.ok("run", "--rm", "--network", "none", *options, "busybox", "sh", "-c", script)
    return text


def test_capabilities_filter_and_privileges_are_dockers(sampan: Any) -> None:
    script = "grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status"

    def status(*options: str) -> dict[str, str]:
        pairs = (line.split(":") for line in inside(sampan, list(options), script).splitlines())
        return {name: value.strip() for name, value in pairs}

    plain = status()
    assert plain == {
        "CapInh": "0" * 16,
        "CapPrm": DEFAULT_CAPABILITIES,
        "CapEff": DEFAULT_CAPABILITIES,
        "CapBnd": DEFAULT_CAPABILITIES,
        "CapAmb": "0" * 16,
        "NoNewPrivs": "0",
        "Seccomp": "2",
    }
    dropped = status("--cap-drop", "ALL", "--cap-add", "cap_chown", "--security-opt", "no-new-privileges")
    assert (dropped["CapEff"], dropped["CapBnd"]) == ("0000000000000001", "0000000000000001")
    assert dropped["NoNewPrivs"] == "1"
    other = status("--user", "1000", "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    assert (other["CapEff"], other["CapBnd"], other["Seccomp"]) == ("0" * 16, "00000000a82425fb", "0")


def test_masked_and_read_only_paths_go_with_systempaths_unconfined(sampan: Any) -> None:
    script = "cut -d' ' -f5,6 /proc/self/mountinfo | grep -E '^/(proc|sys)'; wc -c < /proc/timer_list"
    protected = inside(sampan, [], script)
    for place in ("/proc/sys", "/proc/irq", "/proc/sysrq-trigger", "/proc/bus", "/proc/fs"):
        assert f"{place} ro," in protected or not os.path.exists(place)
    for place in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"):
        assert f"{place} " in protected or not os.path.exists(place)
    assert protected.splitlines()[-1] == "0"
    bare = inside(sampan, ["--security-opt", "systempaths=unconfined"], script).splitlines()
    assert [line.split()[0] for line in bare if line.startswith("/proc")] == ["/proc"]


def test_a_read_only_root_leaves_dev_writable_and_the_engines_files_not(sampan: Any) -> None:
    script = "touch /x; touch /dev/x /dev/shm/x && echo y; echo z >> /etc/hosts; cut -d' ' -f5,6 /proc/self/mountinfo"
    done = sampan.run("run", "--rm", "--read-only", "--network", "none", "busybox", "sh", "-c", script)
    assert done.stdout.splitlines()[0] == "y"
    assert "touch: /x: Read-only file system" in done.stderr
    assert "/etc/hosts: Read-only file system" in done.stderr
    assert "/etc/resolv.conf ro," in done.stdout


def test_shared_memory_is_shared_with_the_ipc_namespace(sampan: Any, donor: str) -> None:
    joining = ["--ipc", f"container:{donor}"]
    script = "readlink /proc/self/ns/ipc; grep -c ' /dev/shm ' /proc/self/mountinfo; echo word > /dev/shm/f"
    namespace, count = inside(sampan, joining, script).split()
    assert count == "1"
    assert sampan.ok("exec", donor, "sh", "-c", "cat /dev/shm/f; readlink /proc/1/ns/ipc").split() == [
        "word",
        namespace,
    ]
    none = inside(
        sampan, ["--ipc", "none"], "ls -d /dev/shm 2>/dev/null; grep -c ' /dev/shm ' /proc/self/mountinfo; :"
    )
    assert none == "0"


def test_a_joined_process_space_and_network_are_the_others(sampan: Any, donor: str) -> None:
    joining = ["--pid", f"container:{donor}"]
    assert inside(sampan, joining, "tr '\\0' ' ' < /proc/1/cmdline") == "sleep 600"
    joined = sampan.ok(
        "run", "--rm", "--network", f"container:{donor}", "busybox", "sh", "-c", "hostname; ls /sys/class/net"
    )
    assert joined.split() == ["donor", "lo"]


def test_devices_have_the_hosts_mode_and_the_permissions_that_were_given(sampan: Any) -> None:
    options = ["--device", "/dev/loop-control:/dev/other:r", "--device-cgroup-rule", "c 10:237 m"]
    host = os.stat("/dev/loop-control")
    script = "stat -c '%t:%T %a %u' /dev/other; : < /dev/other && echo read;"
    script += "(: > /dev/other) 2>/dev/null || echo refused"
    assert inside(sampan, options, script).splitlines() == [
        f"{os.major(host.st_rdev):x}:{os.minor(host.st_rdev):x} {host.st_mode & 0o7777:o} {host.st_uid}",
        "read",
        "refused",
    ]
    ruled = ["--device-cgroup-rule", "c 10:237 rw"]
    script = "mknod /dev/made c 10 237 && : < /dev/made && : > /dev/made && echo both"
    assert inside(sampan, ruled, script) == "both"


def test_a_directory_of_devices_is_given_whole(sampan: Any) -> None:
    nodes = [name for name in os.listdir("/dev/net") if stat.S_ISCHR(os.stat(f"/dev/net/{name}").st_mode)]
    assert inside(sampan, ["--device", "/dev/net:/dev/mine"], "ls /dev/mine").split() == sorted(nodes)


def test_a_seccomp_profile_of_ones_own_is_applied_and_a_bad_one_refused(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "profile").write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}'
    )
    options = ["--security-opt", f"seccomp={tmp_path}/profile"]
    script = "mkdir /x 2>&1; touch /y && echo touched"
    assert inside(sampan, options, script).splitlines() == [
        "mkdir: can't create directory '/x': Operation not permitted",
        "touched",
    ]
    (tmp_path / "bad").write_text('{"defaultAction": "NOPE"}')
    done = sampan.run("run", "--rm", "--security-opt", f"seccomp={tmp_path}/bad", "busybox", "true")
    assert (done.returncode, "NOPE" in done.stderr) == (125, True)
    done = sampan.run("run", "--rm", "--security-opt", "seccomp=/nonexistent", "busybox", "true")
    assert "opening seccomp profile (/nonexistent) failed: open /nonexistent: no such file" in done.stderr


def test_a_control_group_namespace_hides_where_the_container_is(sampan: Any) -> None:
    own = inside(sampan, ["--cgroupns", "private"], "cut -d: -f3 /proc/self/cgroup")
    assert set(own.split()) == {"/"}
    shared = inside(sampan, ["--cgroupns", "host"], "cut -d: -f3 /proc/self/cgroup")
    assert any(path.startswith("/sampan-test") for path in shared.split())


confining = pytest.mark.skipif(
    not apparmor.is_enabled() or apparmor.find_parser() is None,
    reason="this host does not confine by AppArmor",
)


@confining
def test_apparmor_confines_containers_by_the_default_profile_and_what_is_asked_for(sampan: Any) -> None:
    script = "cat /proc/self/attr/current"
    assert inside(sampan, [], script) == "docker-default (enforce)"
    assert inside(sampan, ["--security-opt", "apparmor=unconfined"], script) == "unconfined"
    assert inside(sampan, ["--privileged"], script) == "unconfined"
    # Every capability and no filter, and mounting and the host's switches stay out of reach all the same.
    bare = [
        "--cap-add",
        "ALL",
        "--security-opt",
        "seccomp=unconfined",
        "--security-opt",
        "systempaths=unconfined",
    ]
    script = "mkdir /m; mount -t tmpfs x /m || echo kept; (echo 1 > /proc/sys/kernel/sysrq) || echo kept; kill -0 1"
    assert inside(sampan, bare, script).split() == ["kept", "kept"]
    done = sampan.run("run", "--rm", "--security-opt", "apparmor=no-such-profile", "busybox", "true")
    assert done.returncode != 0
    assert "no-such-profile" in done.stderr
    name = sampan.ok("run", "-d", "--network", "none", "busybox", "sleep", "600")
    try:
        assert sampan.ok("inspect", "-f", "{{.AppArmorProfile}}", name) == "docker-default"
        assert sampan.ok("exec", name, "cat", "/proc/self/attr/current") == "docker-default (enforce)"
        assert sampan.ok("exec", "--privileged", name, "cat", "/proc/self/attr/current") == "unconfined"
    finally:
        sampan.run("rm", "-f", name)
    assert "name=apparmor" in sampan.ok("info", "-f", "{{json .SecurityOptions}}")


@pytest.mark.skipif(apparmor.is_enabled(), reason="this host has AppArmor")
def test_without_apparmor_and_selinux_their_options_have_no_effect(sampan: Any) -> None:
    options = ["--security-opt", "apparmor=no-such-profile", "--security-opt", "label=type:no_such_t"]
    assert inside(sampan, options, "echo ran") == "ran"
    assert "apparmor" not in sampan.ok("info", "-f", "{{json .SecurityOptions}}")


def test_inspect_tells_the_switches_as_docker_does(sampan: Any) -> None:
    shape = (
        "{{json .HostConfig.CapAdd}} {{json .HostConfig.CapDrop}} {{json .HostConfig.SecurityOpt}} "
        "{{.HostConfig.IpcMode}} {{json .HostConfig.UsernsMode}} {{json .HostConfig.ReadonlyPaths}}"
    )
    options = ("--cap-add", "net_raw", "--cap-add", "all", "--cap-drop", "Chown")
    plain = sampan.ok("create", "--network", "none", *options, "busybox", "true")
    other = sampan.ok("create", "--network", "none", "--privileged", "--userns", "host", "busybox", "true")
    try:
        assert sampan.ok("inspect", "-f", shape, plain).split() == [
            '["ALL","CAP_NET_RAW"]', '["CAP_CHOWN"]', "null", "private", '""',
            '["/proc/bus","/proc/fs","/proc/irq","/proc/sys","/proc/sysrq-trigger"]',
        ]  # fmt: skip
        assert sampan.ok("inspect", "-f", shape, other).split() == [
            "null", "null", '["label=disable"]', "private", '"host"', "null",
        ]  # fmt: skip
    finally:
        sampan.run("rm", plain, other)


def test_sysctls_of_its_own_namespaces_are_set(sampan: Any) -> None:
    options = [
        "--sysctl",
        "kernel.shm_rmid_forced=1",
        "--sysctl",
        "fs.mqueue.msg_max=33",
        "--sysctl",
        "net.core.somaxconn=9",
    ]
    script = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max /proc/sys/net/core/somaxconn"
    assert inside(sampan, options, script).split() == ["1", "33", "9"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--cap-add FOO", 'invalid CapAdd: unknown capability: "CAP_FOO"'),
        ("--cap-drop cap_foo", 'invalid CapDrop: unknown capability: "CAP_FOO"'),
        ("--security-opt foo=bar", 'invalid --security-opt 2: "foo=bar"'),
        ("--security-opt no-new-privileges=maybe", 'invalid --security-opt 2: "no-new-privileges=maybe"'),
        ("--sysctl vm.swappiness=1", "sysctl 'vm.swappiness=1' is not allowed"),
        ("--sysctl kernel.hostname=x", "sysctl 'kernel.hostname=x' is not allowed"),
        ("--ipc host --sysctl kernel.msgmax=1", 'sysctl "kernel.msgmax" is not allowed in the hosts ipc namespace'),
        ("--network host --sysctl net.core.somaxconn=1", '"net.core.somaxconn" not allowed in host network namespace'),
        ("--ipc foo", "invalid IPC mode: foo"),
        ("--ipc container:", 'can\'t join IPC of container : invalid name or ID supplied: ""'),
        ("--ipc container:nosuch", "No such container: nosuch"),
        ("--pid foo", "--pid: invalid PID mode"),
        ("--uts foo", "--uts: invalid UTS mode"),
        ("--uts host -h x", "conflicting options: hostname and the UTS mode"),
        ("--userns foo", "--userns: invalid USER mode"),
        ("--cgroupns foo", "--cgroupns: invalid CGROUP mode"),
        ("--device /dev/nosuch", 'while adding custom device "/dev/nosuch": no such file or directory'),
        ("--device /etc", 'while adding custom device "/etc": not a device node'),
        ("--device /dev/null:/dev/x:q", "bad mode specified: q"),
        ("--device-cgroup-rule foo", "invalid device cgroup format 'foo'"),
        ("--user 4294967296", "uids and gids must be in range 0-2147483647"),
        ("--group-add nosuch", "nable to find group nosuch: no matching entries in group file"),
    ],
)  # fmt: skip
def test_what_can_not_be_had_is_refused_in_dockers_words(sampan: Any, options: str, words: str) -> None:
    done = sampan.run("run", "--rm", *options.split(), "busybox", "true")
    # Docker's command line takes these words for those of a missing program.
    assert done.returncode == (127 if "no such file or directory" in words else 125)
    assert words in done.stderr


def test_containers_that_do_not_share_can_not_be_joined(sampan: Any) -> None:
    other = sampan.ok("create", "--network", "none", "busybox", "true")
    try:
        for flag, words in (
            ("--ipc", f"can't join IPC of container {other}: container {other} is not running"),
            ("--pid", f"container {other} is not running"),
            ("--network", f"cannot join network of a non running container: {other}"),
        ):
            done = sampan.run("run", "--rm", flag, f"container:{other}", "busybox", "true")
            assert words in done.stderr
    finally:
        sampan.run("rm", "-f", other)
    private = sampan.ok("run", "-d", "--network", "none", "busybox", "sleep", "600")
    try:
        done = sampan.run("run", "--rm", "--ipc", f"container:{private}", "busybox", "true")
        assert (
            f"can't join IPC of container {private}: non-shareable IPC (hint: use IpcMode:shareable"
            in done.stderr
        )
    finally:
        sampan.run("rm", "-f", private)


def test_a_daemons_defaults_hold_for_containers_that_do_not_say_otherwise(
    make_sampan: Any, tmp_path: Path
) -> None:
    (tmp_path / "profile").write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}'
    )
    config = {
        "no-new-privileges": True,
        "default-ipc-mode": "shareable",
        "default-cgroupns-mode": "private",
        "seccomp-profile": str(tmp_path / "profile"),
    }
    made = make_sampan(tmp_path / "engine", config=config)
    try:
        script = "grep NoNewPrivs /proc/self/status; mkdir /x 2>/dev/null && echo made;"
        script += "cut -d: -f3 /proc/self/cgroup | sort -u"
        assert inside(made, [], script).split() == ["NoNewPrivs:", "1", "/"]
        own = ["--security-opt", "no-new-privileges=false", "--security-opt", "seccomp=builtin"]
        assert inside(made, own, script).split() == ["NoNewPrivs:", "0", "made", "/"]
        donor = made.ok("run", "-d", "--network", "none", "busybox", "sleep", "600")
        assert inside(made, ["--ipc", f"container:{donor}"], "echo y") == "y"
        told = made.ok("info", "-f", "{{json .SecurityOptions}}")
        assert f"name=seccomp,profile={tmp_path}/profile" in told
        assert "name=cgroupns" in told
    finally:
        made.engine.stop()
