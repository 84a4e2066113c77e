"""Debian's dockerd as the oracle of a test: own root, bridge, subnet and control group; gone afterwards."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

DOCKER = "/usr/bin/docker"
DOCKERD = "/usr/sbin/dockerd"
START_SECONDS = 60
STOP_SECONDS = 60


class DockerProcess:
    """A dockerd started by `start`, ended by `stop` together with everything it made.

    It leaves the host's firewall alone (`--iptables=false`), so that other engines on the machine are not
    disturbed; published ports go through its userland proxy. With a `prefix` (a command that runs its arguments in
    a network namespace of the test's) it does as it likes there. `options` are further daemon flags.
    """

    def __init__(self, directory: Path, *, prefix: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        token = secrets.token_hex(4)
        self.directory = directory
        self.root = directory / "data"
        self.run_dir = directory / "exec"
        self.socket = directory / "docker.sock"
        self.log = directory / "dockerd.log"
        self.bridge = f"dckt{token}"
        self.cgroup_parent = f"/docker-test-{token}"
        # A range that neither EngineProcess nor anything else here uses.
        number = int(token, 16) % 2048
        self.subnet = f"10.{220 + number // 256}.{number % 256}.1/24"
        self.options = tuple(options) if prefix else ("--iptables=false", *options)
        self._prefix = tuple(prefix)
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def environment(self) -> dict[str, str]:
        """What the docker command needs to talk to this engine; its configuration directory is private too."""
        config = str(self.directory / "client")
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": config, "DOCKER_BUILDKIT": "0"}

    def start(self) -> None:
        """Start dockerd and wait until it answers. Raises RuntimeError with its log when it fails."""
        for arguments in (
            ("link", "add", self.bridge, "type", "bridge"),
            ("address", "add", self.subnet, "dev", self.bridge),
            ("link", "set", self.bridge, "up"),
        ):
            subprocess.run([*self._prefix, "ip", *arguments], check=True)
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        # The kernel offers no event for a socket that begins to listen: poll, with a deadline.
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"dockerd did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def cli(self, *arguments: str, stdin: bytes | None = None, check: bool = True) -> str:
        """Standard output of `docker ARGUMENTS`. With `check` a failure raises RuntimeError."""
        done = subprocess.run(
            [DOCKER, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=self.environment,
            timeout=120,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.decode('utf-8', 'replace')}")
        return done.stdout.decode("utf-8", "replace")

    def stop(self) -> None:
        """Remove every container, end the daemon, and remove its bridge, control groups and files."""
        process = self._process
        if process is not None and process.poll() is None:
            containers = self.cli("ps", "-aq", "--no-trunc").split()
            if containers:
                self.cli("rm", "-f", "-v", *containers, check=False)
            for network in self.cli("network", "ls", "-q", "--filter", "type=custom").split():
                self.cli("network", "rm", network, check=False)
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_SECONDS)
        self._process = None
        remove = [*self._prefix, "ip", "link", "delete", self.bridge]
        subprocess.run(remove, check=False, capture_output=True)
        for group in (
            *Path("/sys/fs/cgroup").glob(f"*{self.cgroup_parent}"),
            Path(f"/sys/fs/cgroup{self.cgroup_parent}"),
        ):
            with contextlib.suppress(OSError):
                group.rmdir()
        self._unmount()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def _unmount(self) -> None:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        for place in sorted((line.split()[1] for line in mounts), reverse=True):
            if place.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "-l", place], check=False)

    def _command(self) -> list[str]:
        return [
            *self._prefix,
            DOCKERD,
            f"--data-root={self.root}",
            f"--exec-root={self.run_dir}",
            f"--host={self.host}",
            f"--pidfile={self.directory}/pid",
            f"--bridge={self.bridge}",
            f"--cgroup-parent={self.cgroup_parent}",
            *self.options,
        ]  # fmt: skip
