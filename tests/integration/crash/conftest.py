"""What has to be true of an engine at rest, whatever happened to it before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
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
