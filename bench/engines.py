"""The engines that are compared: each with a root of its own, started and stopped here."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

SAMPAN = Path(sys.executable).with_name("sampan")
VOLATILE = "volatile"
"""Beside each state directory: a tmpfs for what engines keep in /run, which is one on every usual host."""


@dataclass
class Contestant:
    """A command line, and the daemon behind it (if it has one)."""

    name: str
    command: list[str]
    socket: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    daemon: subprocess.Popen[bytes] | None = None
    run_options: list[str] = field(default_factory=list)
    push_options: list[str] = field(default_factory=list)
    remove_options: list[str] = field(default_factory=list)
    bridge: str = ""
    """A bridge that was made for it here, and goes with it."""
    places: tuple[str, ...] = ()
    """The directories that its processes have in their command lines."""

    def run(self, *arguments: str, stdin: Path | None = None) -> str:
        """Raises CalledProcessError with the command's messages in `stderr`."""
        with open(stdin or os.devnull, "rb") as source:
            result = subprocess.run(
                [*self.command, *arguments],
                stdin=source,
                capture_output=True,
                env={**os.environ, **self.environment},
                text=True,
            )
        if result.returncode != 0:
            raise RuntimeError(f"{self.name} {' '.join(arguments)}: {result.stdout}{result.stderr}")
        return result.stdout

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **self.environment},
        )

    def stop(self) -> None:
        containers = self.run("ps", "-aq").split()
        if containers:
            self.run("rm", "-f", *containers)
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait(60)
        if self.bridge:
            subprocess.run(["ip", "link", "delete", self.bridge], check=True)


def start_sampan(state: Path) -> Contestant:
    root, run = state / "sampan", volatile_place(state, "sampan")
    sock = run / "sampan.sock"
    command = [SAMPAN, "daemon", "--root", root / "root", "--run", run, "--bridge", "smpbench0"]
    daemon = _daemon(command, root, sock)
    # DOCKER_HOST, because with SAMPAN_HOST a command would start an engine of its own when this one is gone.
    environment = {"DOCKER_HOST": f"unix://{sock}"}
    return Contestant("sampan", [str(SAMPAN)], sock, environment, daemon, places=(str(root), str(run)))


def start_docker(state: Path) -> Contestant | None:
    if shutil.which("dockerd") is None:
        return None
    root, run = state / "docker", volatile_place(state, "docker")
    sock = root / "docker.sock"
    # Not docker0, which belongs to the machine's own engine.
    bridge = "dckbench0"
    if Path("/sys/class/net", bridge).exists():  # of a run that was killed
        subprocess.run(["ip", "link", "del", bridge], check=True)
    for arguments in (
        ("link", "add", bridge, "type", "bridge"),
        ("address", "add", "172.29.0.1/16", "dev", bridge),
        ("link", "set", bridge, "up"),
    ):
        subprocess.run(["ip", *arguments], check=True)
    command = [
        "dockerd", "--data-root", root / "data", "--exec-root", run, "--pidfile", root / "pid",
        "-H", f"unix://{sock}", "--bridge", bridge,
    ]  # fmt: skip
    daemon = _daemon(command, root, sock)
    client = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
    environment = {"DOCKER_HOST": f"unix://{sock}", "DOCKER_BUILDKIT": "0"}
    places = (str(root), str(run))
    return Contestant("docker", [client], sock, environment, daemon, bridge=bridge, places=places)


def start_podman(state: Path) -> Contestant | None:
    if shutil.which("podman") is None:
        return None
    root, run = state / "podman", volatile_place(state, "podman")
    root.mkdir(parents=True)
    policy = root / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    command = [
        "podman", "--root", str(root / "root"), "--runroot", str(run / "run"), "--tmpdir", str(run / "tmp"),
        "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc",
    ]  # fmt: skip
    # Without these it asks for limits that a host without CAP_SYS_RESOURCE does not grant.
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
    insecure = ["--tls-verify=false"]
    places = (str(root), str(run))
    at_once = ["--time", "0"]  # others kill what `rm -f` names; Podman stops it first, ten seconds each here
    return Contestant(
        "podman", command, run_options=limits, push_options=insecure, remove_options=at_once, places=places
    )


def volatile_place(state: Path, name: str) -> Path:
    """For what an engine keeps in /run; an engine makes it itself."""
    return state.parent / VOLATILE / state.name / name


def start_registry(state: Path) -> tuple[str, subprocess.Popen[bytes]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = state / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {state / 'registry'}}}}}\n"
        f"http: {{addr: '{address}'}}\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    host, port = address.split(":")
    _wait_for(lambda: socket.create_connection((host, int(port))).close(), f"registry at {address}")
    return address, process


def _daemon(command: list[str | Path], root: Path, sock: Path) -> subprocess.Popen[bytes]:
    root.mkdir(parents=True)
    with open(root / "daemon.log", "wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )

    def connect() -> None:
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended: {(root / 'daemon.log').read_text()}")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(sock))

    _wait_for(connect, str(sock))
    return process


def _wait_for(attempt: object, what: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            attempt()  # type: ignore[operator]
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} does not answer: {error}") from error
            time.sleep(0.05)
