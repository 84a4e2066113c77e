"""Volumes with a limit: project quotas of the file system that the engine's data is on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sampan.linux import project_quota

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"
MAKE = {
    "xfs": (["mkfs.xfs", "-q"], "pquota", 400 << 20),
    "ext4": (["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"], "prjquota", 200 << 20),
}


@pytest.fixture(params=["xfs", "ext4"])
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system that limits projects."""
    command, option, size = MAKE[request.param]
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    with open(image, "wb") as file:
        file.truncate(size)
    subprocess.run([*command, image], check=True)
    place.mkdir()
    # Where the kernel does not load them by itself.
    subprocess.run(["modprobe", "-q", "-a", "loop", request.param, "quota_v2"], check=False)
    mounted = subprocess.run(["mount", "-o", f"loop,{option}", image, place], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"this kernel has no project quotas on {request.param}: {mounted.stderr.strip()[:80]}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_volume_holds_what_it_may_and_others_are_not_touched(
    make_sampan: Callable[..., Any], limited: Path, tmp_path: Path
) -> None:
    sampan = make_sampan(limited / "engine", run_dir=tmp_path / "run", log=tmp_path / "log")
    try:
        sampan.ok("volume", "create", "-o", "size=1m", "small")
        sampan.ok("volume", "create", "-o", "size=2m", "larger")
        sampan.ok("volume", "create", "free")
        write = "dd if=/dev/zero of=/v/f bs=64k count=24 2>&1 | tail -1; wc -c </v/f"
        for name, fits in (("small", False), ("larger", True), ("free", True)):
            said = sampan.ok("run", "--rm", "-v", f"{name}:/v", BUSYBOX, "sh", "-c", write)
            written = int(said.splitlines()[-1])
            assert written == 24 << 16 if fits else 900_000 < written <= 1 << 20, (name, said)
        shown = sampan.ok(
            "volume", "inspect", "--size", "-f", "{{.Options.size}} {{.UsageData.Size}}", "small"
        )
        assert shown.split()[0] == "1m" and 900_000 < int(shown.split()[1]) <= 1 << 20
        path = Path(sampan.ok("volume", "inspect", "-f", "{{.Mountpoint}}", "small"))
        project = project_quota.project_of(path)
        with open_directory(limited) as directory:
            limit, used = project_quota.usage(directory, project)
            assert limit == 1 << 20 and 900_000 < used <= 1 << 20
            sampan.ok("volume", "rm", "small")
            assert project_quota.usage(directory, project) == (0, 0)
    finally:
        sampan.close()
        sampan.engine.stop()


@contextmanager
def open_directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_a_limit_that_nothing_would_keep_is_refused(sampan: Any) -> None:
    engine = sampan.engine
    with open_directory(engine.root) as directory:
        if project_quota.enforced(directory):
            pytest.skip("here it would be kept")
    refused = sampan.run("volume", "create", "-o", "size=1m", "small")
    assert refused.returncode == 1
    assert "create small: quota size requested but no quota support" in refused.stderr
    assert sampan.ok("volume", "ls", "-q") == ""
