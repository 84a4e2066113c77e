"""Podman with `sampan-runtime` as its OCI runtime: every command on runc first, then on ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.images import busybox_tar

pytestmark = pytest.mark.root

# Podman asks for more than may be had without CAP_SYS_RESOURCE.
CONFIGURATION = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
"""
TRAP = "trap 'exit 3' TERM; echo started; while :; do sleep 0.05; done"


class Podman:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.runtime = ""
        (directory / "containers.conf").write_text(CONFIGURATION)

    def __call__(
        self, *args: str, stdin: bytes = b"", third: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`third`: a file that is given as descriptor 3."""
        options = ("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
        places = ("--root", str(self._directory / "root"), "--runroot", str(self._directory / "run"))
        words = ["podman", *places, *options, "--runtime", self.runtime, *args]
        shell = ["sh", "-c", 'exec 3<"$0"; exec "$@"', str(third)] if third is not None else []
        done = subprocess.run(
            [*shell, *words],
            input=stdin,
            capture_output=True,
            timeout=60,
            env={**os.environ, "CONTAINERS_CONF": str(self._directory / "containers.conf")},
        )
        return subprocess.CompletedProcess(args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *args: str, stdin: bytes = b"") -> str:
        done = self(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, *args: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self("run", "--rm", "--network", "none", *args, **more)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    directory = tmp_path_factory.mktemp("podman")
    podman = Podman(directory)
    podman.runtime = "runc"
    (directory / "busybox.tar").write_bytes(busybox_tar())
    podman.ok("import", str(directory / "busybox.tar"), "busybox:latest")
    try:
        yield podman
    finally:
        podman("rm", "-af")
        podman("pod", "rm", "-af")
        podman("rmi", "-af")


@pytest.fixture(params=["runc", "sampan-runtime"])
def podman(request: pytest.FixtureRequest, machine: Podman) -> Podman:
    ours = str(Path(sys.executable).with_name("sampan-runtime"))
    machine.runtime = ours if request.param == "sampan-runtime" else request.param
    return machine


def test_a_program_runs_with_its_limits_user_and_rights(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("shared\n")
    script = (
        "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; id -u; id -g; "
        "grep CapEff /proc/self/status; touch /x 2>/dev/null || echo read-only; cat /mnt; "
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; exit 7"
    )
    options = ["--memory", "64m", "--pids-limit", "33", "--user", "1000:1001", "--cap-drop", "ALL"]
    done = podman.run(
        *options, "--read-only", "-v", f"{tmp_path}/file:/mnt:ro", "busybox", "sh", "-c", script
    )
    expected = ["33", "1000", "1001", "CapEff:", "0" * 16, "read-only", "shared", str(64 << 20)]
    assert (done.returncode, done.stdout.split()) == (7, expected), done.stderr


def test_a_terminal_standard_input_and_descriptors(podman: Podman, tmp_path: Path) -> None:
    assert podman.run("-t", "busybox", "tty").stdout == "/dev/pts/0\r\n"
    assert podman.run("-i", "busybox", "cat", stdin=b"typed").stdout == "typed"
    (tmp_path / "file").write_text("given")
    done = podman.run("--preserve-fds", "1", "busybox", "cat", "/dev/fd/3", third=tmp_path / "file")
    assert done.stdout == "given", done.stderr


def test_what_cannot_run_has_dockers_exit_codes(podman: Podman) -> None:
    assert podman.run("busybox", "nosuch").returncode == 127
    assert podman.run("busybox", "/etc/passwd").returncode == 126


def test_the_life_of_a_container(podman: Podman) -> None:
    options = ["--health-cmd", "echo well", "--health-interval", "0"]
    name = podman.ok("run", "-d", "--network", "none", *options, "busybox", "sh", "-c", TRAP)
    done = podman(
        "exec", "-u", "1000", "-w", "/tmp", "-e", "A=b", name, "sh", "-c", "id -u; pwd; echo $A; exit 4"
    )
    assert (done.returncode, done.stdout.split()) == (4, ["1000", "/tmp", "b"]), done.stderr
    assert podman("exec", name, "nosuch").returncode == 127
    assert podman("healthcheck", "run", name).returncode == 0
    assert "trap" in podman.ok("top", name)
    assert int(podman.ok("stats", "--no-stream", "--format", "{{.PIDs}}", name)) >= 1
    podman.ok("pause", name)
    assert podman.ok("inspect", name, "--format", "{{.State.Status}}") == "paused"
    podman.ok("unpause", name)
    assert podman.ok("logs", name) == "started"
    podman.ok("stop", "-t", "10", name)
    assert podman.ok("inspect", name, "--format", "{{.State.Status}} {{.State.ExitCode}}") == "exited 3"
    podman.ok("start", name)
    podman.ok("kill", name)
    assert podman.ok("wait", name) == "137"
    podman.ok("rm", name)


def test_containers_of_a_pod_share_their_namespaces(podman: Podman) -> None:
    """The pod's namespaces are joined by path; its own process is what Podman builds an image of."""
    if shutil.which("catatonit") is None:
        pytest.skip("catatonit is not installed")
    pod = podman.ok("pod", "create", "--network", "none")
    podman.ok("pod", "start", pod)
    try:
        script = "readlink /proc/self/ns/net; hostname"
        first, second = (
            podman.ok("run", "--rm", "--pod", pod, "busybox", "sh", "-c", script) for _ in range(2)
        )
        assert first == second
    finally:
        podman.ok("pod", "rm", "-f", "-t", "0", pod)


def test_an_image_is_built(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo made > /made\n")
    done = podman("build", "--network", "none", "-t", "made", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert podman.run("made", "cat", "/made").stdout == "made\n"
