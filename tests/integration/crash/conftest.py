"""What has to be true of an engine at rest, whatever happened to it before."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


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


class SlowProxy:
    """A TCP proxy in front of a registry that lets `budget` bytes of answers through, then holds the rest back.

    `reached` is set when the budget is used up. `passed` counts bytes of answers.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.budget: int | None = None
        self.cut = False
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
                    if self.cut:
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
def pushed(fresh_sampan: Any, session_registry: Any, tmp_path: Path) -> str:
    """An image of 12 MB that can't be compressed, in the registry only: `team/big:1`."""
    (tmp_path / "noise").write_bytes(os.urandom(12 << 20))
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY noise /noise\n")
    name = f"{session_registry.host}/team/big{os.getpid()}-{tmp_path.name.lower()}:1"
    fresh_sampan.ok("build", "-q", "-t", name, str(tmp_path))
    fresh_sampan.ok("push", name)
    fresh_sampan.ok("rmi", name)
    fresh_sampan.ok("builder", "prune", "-af")
    repository: str = name.partition("/")[2]
    return repository


@pytest.fixture
def records() -> Callable[[str], list[dict[str, Any]]]:
    return lambda text: [json.loads(line) for line in text.splitlines()]
