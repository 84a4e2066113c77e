"""dockerd and containerd with `sampan-runtime` as a further runtime: `docker run --runtime sampan`."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.testing.images import busybox_tar

pytestmark = pytest.mark.root

START_SECONDS = 60


class Dockerd:
    """An engine of Docker's own with a root of its own and no network."""

    def __init__(self, directory: Path) -> None:
        self.host = f"unix://{directory}/docker.sock"
        self._log = directory / "log"
        runtime = Path(sys.executable).with_name("sampan-runtime")
        places = ["--data-root", f"{directory}/root", "--exec-root", f"{directory}/exec"]
        options = [
            "--pidfile",
            f"{directory}/pid",
            "--bridge",
            "none",
            "--iptables=false",
            "--ip6tables=false",
        ]
        command = ["dockerd", *places, *options, "-H", self.host, "--add-runtime", f"sampan={runtime}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def __call__(self, *args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        command = ["docker", "--host", self.host, *args]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=60)
        return subprocess.CompletedProcess(args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *args: str, stdin: bytes = b"") -> str:
        done = self(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self("run", "--rm", "--runtime", "sampan", "--network", "none", *args)

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self("version").returncode != 0:
            assert time.monotonic() < deadline and self._process.poll() is None, self._log.read_text()
            time.sleep(0.1)

    def close(self) -> None:
        for name in self("ps", "-aq").stdout.split():
            self("rm", "-f", name)
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)


@pytest.fixture(scope="module")
def dockerd() -> Iterator[Dockerd]:
    if shutil.which("dockerd") is None:
        pytest.skip("dockerd is not installed")
    # The sockets below it must not have too long names.
    directory = Path(tempfile.mkdtemp(prefix="sampan-dockerd-"))
    made = Dockerd(directory)
    try:
        made.wait()
        made.ok("import", "-", "busybox:latest", stdin=busybox_tar())
        yield made
    finally:
        made.close()
        shutil.rmtree(directory, ignore_errors=True)


def test_docker_runs_programs_with_it(dockerd: Dockerd) -> None:
    script = (
        "id -u; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; exit 7"
    )
    done = dockerd.run("--memory", "64m", "--user", "1000", "busybox", "sh", "-c", script)
    assert (done.returncode, done.stdout.split()) == (7, ["1000", str(64 << 20)]), done.stderr
    assert dockerd.run("-t", "busybox", "tty").stdout == "/dev/pts/0\r\n"
    assert "docker-init" in dockerd.run("--init", "busybox", "cat", "/proc/1/comm").stdout
    missing = dockerd.run("busybox", "nosuch")
    assert (missing.returncode, "executable file not found in $PATH" in missing.stderr) == (127, True)


def test_docker_drives_a_container_through_its_life(dockerd: Dockerd) -> None:
    program = "trap 'exit 3' TERM; echo started; while :; do sleep 0.05; done"
    name = dockerd.ok("run", "-d", "--runtime", "sampan", "--network", "none", "busybox", "sh", "-c", program)
    assert dockerd.ok("inspect", name, "--format", "{{.HostConfig.Runtime}}") == "sampan"
    done = dockerd("exec", "-e", "A=b", name, "sh", "-c", "echo $A; exit 5")
    assert (done.returncode, done.stdout) == (5, "b\n"), done.stderr
    assert "trap" in dockerd.ok("top", name)
    dockerd.ok("pause", name)
    dockerd.ok("unpause", name)
    dockerd.ok("update", "--memory", "32m", "--memory-swap", "32m", name)
    assert "32MiB" in dockerd.ok("stats", "--no-stream", name)
    assert dockerd.ok("logs", name) == "started"
    dockerd.ok("stop", name)
    assert dockerd.ok("inspect", name, "--format", "{{.State.ExitCode}}") == "3"
    dockerd.ok("start", name)
    dockerd.ok("kill", name)
    assert dockerd.ok("wait", name) == "137"
    dockerd.ok("rm", name)
