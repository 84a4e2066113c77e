"""Namespaces shared with the host or with another container, and privileges."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.linux import capabilities, libc, mount
from sampan.oci import spec as oci
from sampan.runtime.failure import ExecFailed

pytestmark = pytest.mark.root


def kinds(*names: str) -> tuple[oci.Namespace, ...]:
    return tuple(oci.Namespace(name) for name in names)


def test_namespaces_that_are_left_out_are_the_hosts(harbour: Any, group_path: str) -> None:
    linux = {"namespaces": kinds("mount"), "cgroups_path": group_path}
    made = harbour.spec(
        "sh", "-c", "for n in pid uts ipc net; do readlink /proc/self/ns/$n; done", linux=linux, hostname=None
    )
    outcome = harbour.run(made)
    assert outcome.output.split() == [
        os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "uts", "ipc", "net")
    ]
    assert outcome.record.exit_code == 0


def test_processes_left_behind_in_the_hosts_pid_namespace_end_with_the_container(
    harbour: Any, group_path: str
) -> None:
    linux = {"namespaces": kinds("mount", "network"), "cgroups_path": group_path}
    box = harbour.create(harbour.spec("sh", "-c", "sleep 1000 & echo $!", linux=linux, hostname=None))
    with box.attach(framed=False) as client:
        box.shim.start()
        left_behind = int(harbour.read_until(client, b"\n"))
    box.shim.wait()
    # Whoever it was left to may take its time to reap it.
    status = Path(f"/proc/{left_behind}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()


def test_namespaces_of_another_container_are_joined_by_path(harbour: Any) -> None:
    first = harbour.create(harbour.spec("sleep", "100"))
    first.shim.start()
    base = f"/proc/{first.created.init_pid}/ns"
    joined = (
        oci.Namespace("network", f"{base}/net"),
        oci.Namespace("ipc", f"{base}/ipc"),
        oci.Namespace("pid", f"{base}/pid"),
        *kinds("mount", "uts"),
    )
    made = harbour.spec(
        "sh",
        "-c",
        "for n in net ipc pid; do readlink /proc/self/ns/$n; done; cat /proc/1/cmdline",
        linux={"namespaces": joined},
    )
    output = harbour.run(made).output
    assert output.split("\n")[:3] == [os.readlink(f"{base}/{name}") for name in ("net", "ipc", "pid")]
    assert output.split("\n")[3].startswith("sleep")


def test_all_capabilities_are_those_that_the_runtime_has(harbour: Any) -> None:
    every = capabilities.NAMES
    made = harbour.spec(
        "cat", "/proc/self/status", process={"capabilities": oci.Capabilities(every, every, (), every)}
    )
    _, permitted, _ = capabilities.current()
    assert re.search(rf"CapEff:\s+{permitted:016x}\n", harbour.run(made).output)


def test_a_container_of_its_own_network_has_a_loopback_that_is_up(harbour: Any) -> None:
    output = harbour.sh(
        "cat /sys/class/net/lo/operstate; cat /sys/class/net/lo/flags; ls /sys/class/net"
    ).output
    assert int(output.split()[1], 16) & 1
    assert "lo" in output.split()[2:]


@pytest.fixture
def shared_mount(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "shared"
    path.mkdir()
    libc.mount("none", str(path), "tmpfs", 0)
    try:
        libc.mount(None, str(path), None, mount.MS_SHARED)
        yield path
    finally:
        libc.umount(str(path), mount.MNT_DETACH)


def test_mounts_made_in_a_shared_bind_mount_reach_the_host(harbour: Any, shared_mount: Path) -> None:
    (shared_mount / "inner").mkdir()
    every = capabilities.NAMES
    mounts = (*harbour.spec("x").mounts, oci.Mount("/vol", "bind", str(shared_mount), ("rbind", "rshared")))
    made = harbour.spec(
        "sh",
        "-c",
        "mount -t tmpfs none /vol/inner && touch /vol/inner/made; read x",
        mounts=mounts,
        process={"capabilities": oci.Capabilities(every, every, (), every)},
    )
    box = harbour.create(made, stdin=True, stdin_once=True)
    with box.attach(framed=False, stdin=True) as client:
        box.shim.start()
        client.sendall(b"\n")
        harbour.read_all(client)
    assert box.shim.wait().exit_code == 0
    assert any(
        f"{shared_mount}/inner " in line for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )
    libc.umount(f"{shared_mount}/inner", mount.MNT_DETACH)


def test_mounts_made_in_a_private_bind_mount_stay_inside(harbour: Any, shared_mount: Path) -> None:
    (shared_mount / "inner").mkdir()
    every = capabilities.NAMES
    mounts = (*harbour.spec("x").mounts, oci.Mount("/vol", "bind", str(shared_mount), ("rbind", "rprivate")))
    process = {"capabilities": oci.Capabilities(every, every, (), every)}
    outcome = harbour.run(
        harbour.spec(
            "sh",
            "-c",
            "mount -t tmpfs none /vol/inner; grep inner /proc/self/mountinfo",
            mounts=mounts,
            process=process,
        )
    )
    assert "/vol/inner" in outcome.output
    assert f"{shared_mount}/inner " not in Path("/proc/self/mountinfo").read_text()


def test_an_exec_can_not_overwrite_the_interpreter(harbour: Any) -> None:
    """CVE-2019-5736 by exec: a program of the container waits for the runtime's process and opens its executable."""
    interpreter = Path(os.path.realpath("/proc/self/exe"))
    before = hashlib.sha256(interpreter.read_bytes()).hexdigest()
    script = "while :; do for p in /proc/[0-9]*; do test $p = /proc/1 || (echo evil > $p/exe) 2>/dev/null; done; done"
    box = harbour.create(harbour.spec("sh", "-c", script))
    box.shim.start()
    root = box.run_dir.parent.parent / "snapshots" / box.name / "upper"
    (root / "evil").write_text("#!/proc/self/exe\n")
    (root / "evil").chmod(0o755)
    for program in ("true", "/evil", "true"):
        shim = box.exec(program)
        try:
            shim.start()
        except ExecFailed:
            pass  # the copy of the interpreter finds no libraries in there
        shim.wait()
    assert hashlib.sha256(interpreter.read_bytes()).hexdigest() == before


def test_the_runtimes_process_is_not_open_to_the_container(harbour: Any) -> None:
    """An exec that waits is in the container's pid namespace already; its descriptors must be out of reach."""
    box = harbour.create(harbour.spec("sleep", "100"))
    box.shim.start()
    waiting = box.exec("true")
    script = "for p in /proc/[0-9]*; do echo $p; readlink $p/exe; readlink $p/root; readlink $p/fd/0; done"
    looking = box.exec("sh", "-c", script)
    with harbour.attach(looking, framed=False, stderr=False) as client:
        looking.start()
        found: dict[str, list[str]] = {}
        for line in harbour.read_all(client).decode().splitlines():
            if re.fullmatch(r"/proc/\d+", line):
                found[line] = links = []
            else:
                links.append(line)
    # Of the container's own programs everything can be seen; of the process that waits nothing.
    assert found["/proc/1"][:2] == ["/bin/busybox", "/"]
    assert [links for links in found.values() if not links] == [[]]
    waiting.kill(9)
