"""What the kernel would let a container do without walls around it: system calls, devices, keys, processes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

UNCONFINED = ("--security-opt", "seccomp=unconfined")


def outcomes(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+) (\w+)$", text, re.M))


def test_calls_that_lead_out_of_the_namespaces_are_blocked(attack: Any) -> None:
    """By Docker's profile: EPERM, and ENOSYS for clone3, so that C libraries fall back to clone."""
    found = outcomes(attack.run(attack.image, "/attack", "calls").stdout)
    allowed = {"clone-plain": "ok", "clone3": "ENOSYS"}
    assert found == {name: allowed.get(name, "EPERM") for name in found}
    assert len(found) == 35
    # The same program where there is no filter: what is missing there is a capability, or nothing at all.
    unconfined = outcomes(attack.run(*UNCONFINED, attack.image, "/attack", "calls").stdout)
    assert {name for name in found if unconfined[name] != found[name]} >= {
        *("unshare-user", "clone-pid", "clone3", "keyctl", "add_key", "vsock"),
    }


def test_the_filter_holds_in_exec_and_for_other_architectures(attack: Any) -> None:
    container = attack.sampan.api.containers.get(attack.background(attack.image, "sleep", "60"))
    found = outcomes(container.exec_run(["/attack", "calls"]).output.decode())
    assert (found["unshare-user"], found["keyctl"], found["clone3"]) == ("EPERM", "EPERM", "ENOSYS")
    # exec --privileged lifts the capabilities' bounds, and not the container's filter for what they do not unlock.
    found = outcomes(container.exec_run(["/attack", "calls"], privileged=True).output.decode())
    assert found["keyctl"] == "EPERM"


# Devices.

FORBIDDEN = ("c 1 1", "c 1 2", "c 1 4", "c 10 200", "c 10 130", "c 10 229", "b 7 0", "b 8 0", "b 253 0")
NODES = [part for node in (*FORBIDDEN, "c 5 0", "c 1 3") for part in node.split()]


def test_device_nodes_can_be_made_but_not_opened(attack: Any) -> None:
    done = attack.run(attack.image, "/attack", "nodes", *NODES)
    lines = [line.rpartition(" open ") for line in done.stdout.splitlines()]
    assert all(head.endswith("mknod ok") for head, _, _ in lines)
    assert [result for _, _, result in lines] == ["EPERM"] * 9 + ["ENXIO", "ok"]
    # Nor with the capabilities that the nodes themselves ask for, in an exec, or where there is no filter.
    options = ("--cap-add", "SYS_RAWIO", "--cap-add", "SYS_ADMIN", *UNCONFINED)
    container = attack.sampan.api.containers.get(attack.background(*options, attack.image, "sleep", "60"))
    output = container.exec_run(["/attack", "nodes", *NODES]).output.decode()
    assert re.findall(r"open (\w+)", output) == ["EPERM"] * 9 + ["ENXIO", "ok"]
    granted = attack.run(
        "--device-cgroup-rule", "c 1:1 r", attack.image, "/attack", "nodes", *NODES[:6]
    ).stdout
    # The rule gives reading alone, and the program asks for more.
    assert re.findall(r"open (\w+)", granted) == ["EPERM", "EPERM"]


def test_a_device_of_an_image_layer_is_a_node_that_cannot_be_opened(attack: Any) -> None:
    nodes = {
        "kmem": attack.Entry(device=(1, 1), mode=0o666),
        "zero2": attack.Entry(device=(1, 5), mode=0o666),
    }
    image = attack.make_image("attack:nodes", nodes)
    done = attack.run(
        "--cap-add", "SYS_RAWIO", image, "sh", "-c", "head -c 1 /zero2 | wc -c; head -c 1 /kmem"
    )
    assert done.stdout == "1\n" and "Operation not permitted" in done.stderr


# A new user namespace.


def test_a_new_user_namespace_gives_nothing_back(attack: Any) -> None:
    for user in ("0", "65534"):
        assert attack.run("-u", user, attack.image, "/attack", "regain").stdout == "unshare EPERM\n"
    # Where the filter is lifted it is to be had, and what protects the container's /proc holds without it.
    found = outcomes(attack.run(*UNCONFINED, attack.image, "/attack", "regain").stdout)
    assert found["unshare"] == "ok" and found["tmpfs"] == "ok"
    for name in ("umount-kcore", "umount-keys", "remount-proc-sys", "new-proc", "new-sys", "device"):
        assert found[name] in ("EPERM", "EINVAL", "EBUSY", "ENOENT"), found
    assert found.get("release_agent", "EPERM") in ("EPERM", "EACCES", "ENOENT")


# Control groups.


def test_release_agent_is_no_way_out(attack: Any) -> None:
    script = (
        "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do"
        " for f in release_agent notify_on_release cgroup.procs tasks devices.allow memory.max; do"
        "  [ -e $d/$f ] && echo there; (echo 1 > $d/$f) 2>/dev/null && echo wrote $d/$f; done;"
        " mkdir $d/x 2>/dev/null && echo made $d/x; done; mkdir /tmp/c;"
        "mount -t cgroup -o memory c /tmp/c 2>/dev/null && echo mounted;"
        "mount -t cgroup2 c /tmp/c 2>/dev/null && echo mounted;"
        "mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo mounted; echo end"
    )
    for options in ((), ("--cgroupns", "private"), ("--cgroupns", "host"), UNCONFINED):
        lines = attack.run(*options, attack.image, "sh", "-c", script).stdout.split("\n")
        assert "there" in lines and set(lines) == {"there", "end", ""}, (options, lines)


def test_a_parent_of_control_groups_cannot_lead_out_of_the_hierarchy(attack: Any) -> None:
    for parent in ("../../../../tmp/evil", "/../../..", "a/../../../.."):
        done = attack.run("--cgroup-parent", parent, attack.image, "cat", "/proc/self/cgroup")
        if done.returncode == 0:
            assert ".." not in done.stdout
    assert not Path("/tmp/evil").exists()


# Keys.


def test_a_key_of_one_container_is_out_of_anothers_reach(attack: Any) -> None:
    assert attack.run(attack.image, "/attack", "keys", "make", "k", "secret").stdout.startswith(
        "add_key EPERM"
    )
    # Without the filter there are keys, and each container has a ring of its own.
    make = "/attack keys make k secret; sleep 60"
    one = attack.sampan.api.containers.get(attack.background(*UNCONFINED, attack.image, "sh", "-c", make))
    while b"value" not in one.logs():
        assert one.attrs["State"]["Status"] == "running"
    serial = re.search(r"serial (\d+) session (\d+)", one.logs().decode())
    assert serial
    assert "value secret" in one.logs().decode()
    other = attack.sampan.api.containers.get(attack.background(*UNCONFINED, attack.image, "sleep", "60"))
    assert (
        outcomes(other.exec_run(["/attack", "keys", "find", "k"]).output.decode())["request_key"] == "ENOKEY"
    )
    for number in serial.groups():
        output = other.exec_run(["/attack", "keys", "read", number]).output.decode()
        assert "secret" not in output and outcomes(output)["read"] == "EACCES", output


# Other containers' processes.


def test_processes_of_other_containers_can_be_neither_traced_nor_signalled(attack: Any) -> None:
    victim = attack.background(attack.image, "sleep", "60")
    last = int(Path("/proc/sys/kernel/pid_max").read_text())
    options = ("--cap-add", "SYS_PTRACE", "--cap-add", "KILL", *UNCONFINED)
    done = attack.run(*options, attack.image, "/attack", "trace", str(min(last, 1 << 17)))
    assert "traced 0 signalled 0" in done.stdout
    found = outcomes(done.stdout)
    assert (found["trace-own-child"], found["signal-own-child"]) == ("ok", "ok")
    attack.run(attack.image, "sh", "-c", "kill -9 -1; sleep 0; kill -9 -1")
    state = json.loads(attack.sampan.ok("inspect", "-f", "{{json .State}}", victim))
    assert state["Running"]
    os.kill(attack.sampan.engine.pid, 0)


def test_a_shared_pid_namespace_is_seen_but_the_rest_is_not(attack: Any) -> None:
    """--pid container: gives the processes, not their files: that would take CAP_SYS_PTRACE."""
    victim = attack.background("--security-opt", "no-new-privileges", attack.image, "sleep", "60")
    script = "ps; ls /proc/1/root/ >/dev/null 2>&1 && echo root"
    done = attack.run("--pid", f"container:{victim}", "--cap-drop", "ALL", attack.image, "sh", "-c", script)
    assert "sleep 60" in done.stdout
