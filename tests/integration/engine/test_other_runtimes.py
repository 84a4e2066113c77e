"""Containers of the engine's that another OCI runtime makes: Debian's runc and crun, and one that was added by name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.engine import EngineProcess
from sampan.testing.images import busybox_tar

pytestmark = pytest.mark.root

TRAP = "trap 'exit 3' TERM; echo started; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    directory = Path(tempfile.mkdtemp(prefix="sampan-runtimes-"))
    ours = Path(sys.executable).with_name("sampan-runtime")
    # Two of its flags are options of the runtime's own command line.
    config = {"runtimes": {"added": {"path": str(ours), "runtimeArgs": ["--debug", "--systemd-cgroup"]}}}
    engine = EngineProcess(directory, config=config)
    try:
        engine.start()
        engine.cli("import", "-c", 'CMD ["sh"]', "-", "busybox:latest", stdin=busybox_tar())
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["runc", "crun", "added"])
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name != "added" and shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


def test_a_program_runs_with_user_limits_network_and_volume(
    engine: EngineProcess, runtime: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("shared\n")
    script = (
        "id -u; id -G; cat /mnt; hostname; ip -o addr show eth0 | grep -c inet; grep Seccomp: /proc/self/status; "
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; echo $HOME; exit 7"
    )
    options = ["--user", "daemon", "--group-add", "55", "--memory", "32m", "--hostname", "box"]
    mount = ["-v", f"{tmp_path}/file:/mnt:ro"]
    words = ["run", "--rm", "--runtime", runtime, *options, *mount, "busybox", "sh", "-c", script]
    done = engine.cli(*words, check=False)
    expected = ["1", "1", "55", "shared", "box", "1", "Seccomp:", "2", str(32 << 20), "/"]
    assert (done.returncode, done.stdout.split()) == (7, expected), done.stderr


def test_terminals_input_init_and_failures(engine: EngineProcess, runtime: str) -> None:
    def run(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return engine.cli("run", "--rm", "--runtime", runtime, *words, check=False, **more)

    assert run("-t", "busybox", "tty").stdout == "/dev/pts/0\r\n"
    assert run("-i", "busybox", "cat", stdin=b"typed").stdout == "typed"
    missing = run("busybox", "nosuch")
    assert missing.returncode == 127
    assert 'exec: "nosuch": executable file not found in $PATH' in missing.stderr
    assert run("busybox", "/etc/passwd").returncode == 126
    if shutil.which("docker-init"):
        assert run("--init", "busybox", "cat", "/proc/1/comm").stdout.strip() in (
            "docker-init",
            "sampan-init",
        )


def test_the_life_of_a_container_outlives_the_daemon(engine: EngineProcess, runtime: str) -> None:
    name = engine.cli("run", "-d", "--runtime", runtime, "busybox", "sh", "-c", TRAP).stdout.strip()

    def inspect(field: str) -> str:
        return engine.cli("inspect", name, "--format", "{{." + field + "}}").stdout.strip()

    try:
        assert inspect("HostConfig.Runtime") == runtime
        done = engine.cli(
            "exec", "-e", "A=b", "-w", "/tmp", name, "sh", "-c", "echo $A; pwd; exit 5", check=False
        )
        assert (done.returncode, done.stdout.split()) == (5, ["b", "/tmp"])
        privileged = ["exec", "--privileged", name, "grep", "CapEff", "/proc/self/status"]
        given = next(
            line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd")
        )
        assert engine.cli(*privileged).stdout.split()[1] == given.split()[1]
        assert engine.cli("exec", "-t", name, "tty").stdout.startswith("/dev/pts/")
        assert engine.cli("exec", name, "nosuch", check=False).returncode == 127
        assert "trap" in engine.cli("top", name).stdout
        assert "B / " in engine.cli("stats", "--no-stream", name).stdout
        engine.cli("pause", name)
        assert inspect("State.Status") == "paused"
        engine.cli("unpause", name)
        assert str(engine.directory) not in Path("/proc/self/mountinfo").read_text()
        engine.kill()
        engine.start()
        assert inspect("State.Status") == "running"
        assert engine.cli("logs", name).stdout == "started\n"
        engine.cli("stop", name)
        assert inspect("State.ExitCode") == "3"
        engine.cli("start", name)
        engine.cli("kill", name)
        assert engine.cli("wait", name).stdout.strip() == "137"
    finally:
        engine.cli("rm", "-f", name)
    assert not list(Path("/sys/fs/cgroup").glob(f"*{engine.cgroup_parent}/{name}"))
    assert not (engine.run_dir / "containers" / name).exists()


def test_a_container_whose_shim_was_killed_starts_again(engine: EngineProcess) -> None:
    if shutil.which("runc") is None:
        pytest.skip("runc is not installed")
    name = engine.cli("run", "-d", "--runtime", "runc", "busybox", "sleep", "100").stdout.strip()
    pid = int(engine.cli("inspect", name, "--format", "{{.State.Pid}}").stdout)
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert Path(f"/proc/{shim}/comm").read_text() == "sampan-shim\n"
    os.kill(shim, signal.SIGKILL)
    assert engine.cli("wait", name).stdout.strip() == "137"
    engine.cli("start", name)
    assert engine.cli("exec", name, "echo", "again").stdout == "again\n"
    engine.cli("rm", "-f", name)


def test_the_engine_says_which_runtimes_there_are(engine: EngineProcess) -> None:
    said = json.loads(engine.cli("info", "--format", "{{json .}}").stdout)
    assert said["DefaultRuntime"] == "sampan"
    assert said["Runtimes"]["added"]["runtimeArgs"] == ["--debug", "--systemd-cgroup"]
    if shutil.which("runc"):
        assert said["Runtimes"]["runc"]["path"] == shutil.which("runc")
    refused = engine.cli("run", "--runtime", "nosuch", "busybox", check=False)
    assert refused.returncode == 125
    assert "unknown or invalid runtime name: nosuch" in refused.stderr
