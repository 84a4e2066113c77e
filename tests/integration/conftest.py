"""One engine shared by the suites that only use it, fresh ones for those that kill it, the search for leftovers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.engine import EngineProcess
from sampan.testing.images import busybox_tar
from sampan.testing.registry import RealRegistry

DOCKER = "/usr/bin/docker"
BUSYBOX = "busybox:latest"


class Sampan:
    """An engine, and the two command lines that talk to it."""

    def __init__(self, engine: EngineProcess) -> None:
        self.engine = engine
        self._api: Any = None

    @property
    def api(self) -> Any:
        """docker-py on this engine."""
        import docker

        if self._api is None:
            self._api = docker.DockerClient(base_url=self.engine.host, version="auto", timeout=60)
        return self._api

    def run(
        self, *arguments: str, stdin: bytes | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """`sampan ARGUMENTS`, whatever its exit code."""
        return self.engine.cli(*arguments, stdin=stdin, check=False, timeout=timeout)

    def ok(self, *arguments: str, stdin: bytes | None = None, timeout: float = 60) -> str:
        """`sampan ARGUMENTS` has to succeed: its standard output, stripped."""
        return self.engine.cli(*arguments, stdin=stdin, timeout=timeout).stdout.strip()

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """`sampan ARGUMENTS` in the background, with pipes."""
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-m", "sampan.cli.main", *arguments]
        return subprocess.Popen(command, env=self.engine.environment, **{**streams, **options})

    def docker(
        self, *arguments: str, stdin: bytes | None = None, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """The real docker command line."""
        done = subprocess.run(
            [DOCKER, *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=self.engine.environment,
            timeout=timeout,
            check=False,
        )
        out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        assert not check or done.returncode == 0, (
            f"docker {' '.join(arguments)}: {done.returncode}\n{out}{err}"
        )
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def import_busybox(self) -> None:
        self.engine.cli("import", "-c", 'CMD ["sh"]', "-", BUSYBOX, stdin=busybox_tar())

    def clean(self) -> None:
        """Containers, networks and volumes of a test go; images stay."""
        for container in self.api.api.containers(all=True):
            self.api.api.remove_container(container["Id"], force=True, v=True)
        for network in self.api.api.networks(filters={"type": "custom"}):
            self.api.api.remove_network(network["Id"])
        for volume in self.api.api.volumes().get("Volumes") or []:
            self.api.api.remove_volume(volume["Name"], force=True)

    def close(self) -> None:
        if self._api is not None:
            self._api.close()


def _make(directory: Path, *, run_dir: Path | None = None, log: Path | None = None, **options: Any) -> Sampan:
    """`run_dir`, `log`: elsewhere than below `directory`."""
    engine = EngineProcess(directory, **options)
    if run_dir is not None:
        engine.run_dir, engine.socket = run_dir, run_dir / "sampan.sock"
    engine.log = log or engine.log
    try:
        engine.start()
        sampan = Sampan(engine)
        sampan.import_busybox()
    except BaseException:
        engine.stop()
        raise
    return sampan


@pytest.fixture(scope="session")
def shared_sampan() -> Iterator[Sampan]:
    directory = Path(tempfile.mkdtemp(prefix="sampan-e2e-"))
    sampan = _make(directory)
    try:
        yield sampan
    finally:
        sampan.close()
        sampan.engine.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def sampan(shared_sampan: Sampan) -> Iterator[Sampan]:
    """The shared engine; what a test makes with it, but its images, is removed. No test may make it stumble."""
    offset = shared_sampan.engine.log.stat().st_size
    yield shared_sampan
    shared_sampan.clean()
    with open(shared_sampan.engine.log, "rb") as log:
        log.seek(offset)
        said = log.read().decode("utf-8", "replace")
    assert "Traceback" not in said, said


@pytest.fixture
def fresh_sampan() -> Iterator[Sampan]:
    """An engine for one test, which may kill it; afterwards nothing of it may be left on the host."""
    directory = Path(tempfile.mkdtemp(prefix="sampan-crash-"))
    sampan = _make(directory)
    try:
        yield sampan
    finally:
        sampan.close()
        sampan.engine.stop()
        shutil.rmtree(directory, ignore_errors=True)
    left = leftovers(sampan.engine)
    assert left == []


@pytest.fixture
def make_sampan() -> Callable[..., Sampan]:
    """Starts an engine with busybox in a directory of the test's; ending it is the test's business."""
    return _make


@pytest.fixture(scope="session")
def session_registry() -> Iterator[RealRegistry]:
    directory = Path(tempfile.mkdtemp(prefix="sampan-registry-"))
    try:
        with RealRegistry(directory) as registry:
            yield registry
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class SlowProxy:
    """A TCP proxy in front of a registry that lets `budget` bytes of answers through, then holds the rest back.

    `reached` is set when the budget is used up. With `cuts` above zero that many connections are closed instead.
    `passed` counts bytes of answers.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.budget: int | None = None
        self.cuts = 0
        self.passed = 0
        self.requests: list[str] = []
        self.reached = threading.Event()
        self.released = threading.Event()
        self._closing = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self._closing = True
        self.released.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(65536):
                self.requests += [
                    line
                    for line in data.decode("latin-1").split("\r\n")
                    if line.startswith(("GET ", "Range:", "range:"))
                ]
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            server.close()

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(16384):
                if self.budget is not None and self.passed + len(data) > self.budget:
                    self.reached.set()
                    if self.cuts > 0:
                        self.cuts -= 1
                        self.budget = None if self.cuts == 0 else self.budget
                        break
                    self.released.wait(60)
                client.sendall(data)
                self.passed += len(data)
        except OSError:
            pass
        finally:
            for end in (client, server):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                end.close()


@pytest.fixture
def slow_proxy(session_registry: Any) -> Iterator[SlowProxy]:
    proxy = SlowProxy(session_registry.port)
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.fixture
def wait_until() -> Callable[..., None]:
    return until


@pytest.fixture
def wait_until_empty() -> Callable[..., None]:
    return until_empty


def until(check: Callable[[], object], what: str = "the condition", timeout: float = 60) -> None:
    """Poll with a deadline: for what sends no event to others."""
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true in {timeout} s")
        time.sleep(0.02)


def until_empty(find: Callable[[], list[str]], what: str, timeout: float = 60) -> None:
    """Poll until `find` finds nothing; fails with what it finds."""
    deadline = time.monotonic() + timeout
    while found := find():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: {found}")
        time.sleep(0.05)


def leftovers(engine: EngineProcess) -> list[str]:
    """Everything on the host that still belongs to the engine: processes, mounts, control groups, links."""
    return [*processes_of(engine), *mounts_of(engine), *cgroups_of(engine), *links_of(engine)]


def processes_of(engine: EngineProcess) -> list[str]:
    """Processes whose command line or current directory or open files are below the engine's directory."""
    found = []
    mark = str(engine.directory)
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):
            continue
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            groups = (process / "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if mark in command or engine.cgroup_parent in groups:
            found.append(f"process {process.name}: {command}")
    return found


def mounts_of(engine: EngineProcess) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [f"mount {line}" for line in lines if str(engine.directory) in line]


def cgroups_of(engine: EngineProcess) -> list[str]:
    """The engine's control group and its containers', in any hierarchy."""
    root = Path("/sys/fs/cgroup")
    name = engine.cgroup_parent.lstrip("/")
    return [f"cgroup {path}" for path in (root / name, *root.glob(f"*/{name}")) if path.is_dir()]


def links_of(engine: EngineProcess) -> list[str]:
    """Network links enslaved to the engine's bridge, or the bridge itself."""
    out = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    return [f"link {line}" for line in out.splitlines() if engine.bridge in line]


def problems(sampan: Any) -> list[str]:
    """Compare what the engine says with what is on disk and on the host; empty when they agree."""
    engine = sampan.engine
    found = []
    containers = sampan.api.api.containers(all=True)
    ids = {container["Id"] for container in containers}
    running = {container["Id"] for container in containers if container["State"] == "running"}
    for container in containers:
        state = sampan.api.api.inspect_container(container["Id"])["State"]
        if state["Status"] != container["State"]:
            found.append(f"{container['Id']}: list and inspect differ")
        if state["Status"] == "running" and not Path(f"/proc/{state['Pid']}").exists():
            found.append(f"{container['Id']} runs without a process")
    expected = {
        "snapshots": (engine.root / "snapshots", ids),
        "container directories": (engine.root / "containers", ids),
        "run directories": (engine.run_dir / "containers", running),
    }
    for what, (directory, wanted) in expected.items():
        there = set(os.listdir(directory)) if directory.exists() else set()
        if not there <= ids or not wanted & running <= there:
            found.append(f"{what}: {sorted(there ^ wanted)}")
    for what, there in (("control groups", _groups(engine)), ("build directories", _builds(engine))):
        if there - running:
            found.append(f"{what} of nobody: {sorted(there - running)}")
    veths = subprocess.run(
        ["ip", "-o", "link", "show", "master", engine.bridge], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    on_bridge = [
        each
        for each in containers
        if each["Id"] in running and "bridge" in each["NetworkSettings"]["Networks"]
    ]
    if len(veths) != len(on_bridge):
        found.append(f"{len(veths)} links on the bridge for {len(on_bridge)} containers")
    mounted = Path("/proc/self/mountinfo").read_text()
    if str(engine.directory) in mounted:
        found.append("mounts on the host")
    return found + _layers(sampan)


def _groups(engine: Any) -> set[str]:
    parents = Path("/sys/fs/cgroup").glob(f"*{engine.cgroup_parent}")
    return {child.name for parent in parents for child in parent.iterdir() if child.is_dir()}


def _builds(engine: Any) -> set[str]:
    directory = engine.root / "builds"
    return set(os.listdir(directory)) if directory.exists() else set()


def _layers(sampan: Any) -> list[str]:
    """Every layer of every image is there, and nothing half-made lies about under a layer's name."""
    directory = sampan.engine.root / "layers"
    there = {name for name in os.listdir(directory) if len(name) == 64}
    found = [f"layer {name} is incomplete" for name in there if not os.listdir(directory / name)]
    for image in sampan.api.images.list(all=True):
        for diff_id in image.attrs["RootFS"].get("Layers") or ():
            if diff_id.removeprefix("sha256:") not in there:
                found.append(f"{image.id} lacks {diff_id}")
    return found


@pytest.fixture
def find_problems() -> Callable[[Any], list[str]]:
    return problems
