"""What RUN's process gets of the flags that limit it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root


@pytest.fixture
def parent(sampan: Any) -> Iterator[str]:
    """A control group for steps, in all hierarchies; whoever names one removes it."""
    path = f"{sampan.engine.cgroup_parent}/of-a-build"
    yield path
    root = Path("/sys/fs/cgroup")
    for directory in (*root.glob(f"*{path}"), root / path.lstrip("/")):
        if directory.is_dir():
            directory.rmdir()


def test_a_step_runs_within_the_builds_limits(sampan: Any, parent: str, tmp_path: Path) -> None:
    script = """FROM busybox
RUN df -m /dev/shm | tail -1 > /shm; ulimit -n > /files; grep example /etc/hosts > /hosts; \\
    ls /sys/class/net > /net; cat /proc/self/cgroup > /cgroup; \\
    cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null > /memory; true
FROM scratch
COPY --from=0 /shm /files /hosts /net /cgroup /memory /
"""
    done = sampan.run(
        "build", "--memory", "64m", "--shm-size", "16m", "--ulimit", "nofile=100:200", "--network", "none",
        "--add-host", "example:10.9.8.7", "--cgroup-parent", parent, "-o", str(tmp_path / "out"), "-",
        stdin=script.encode(), timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = {path.name: path.read_text().split() for path in (tmp_path / "out").iterdir()}
    assert said["shm"][1] == "16"
    assert said["files"] == ["100"]
    assert said["hosts"] == ["10.9.8.7", "example"]
    assert said["net"] == ["lo"]
    assert str(64 << 20) in said["memory"]
    assert any(f"{parent}/" in line for line in said["cgroup"])
