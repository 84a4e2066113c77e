"""A test run that is ended from outside leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

_RUN = """
import os, signal, sys
from pathlib import Path
import pytest
from sampan.testing.engine import EngineProcess
from sampan.testing.images import busybox_tar

@pytest.fixture
def engine():
    with EngineProcess(Path(sys.argv[-1]) / "engine") as running:
        yield running

def test_waits(engine):
    engine.cli("import", "-", "busybox", stdin=busybox_tar())
    engine.cli("run", "-d", "--name", "left", "busybox", "sleep", "1000")
    Path(os.environ["READY"]).write_text(engine.cgroup_parent)
    signal.pause()
"""


def test_a_run_that_gets_sigterm_takes_its_engine_and_containers_down() -> None:
    place = Path(tempfile.mkdtemp(prefix="sampan-interrupted-"))
    ready = place / "ready"
    os.mkfifo(ready)
    (place / "test_run.py").write_text(_RUN.replace("sys.argv[-1]", repr(str(place))))
    project = Path(__file__).parents[3]
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pyproject.toml")
    run = subprocess.Popen(
        [*command, "--rootdir", project, place / "test_run.py"],
        cwd=project,
        env={**os.environ, "READY": str(ready)},
        stdout=subprocess.DEVNULL,
    )
    try:
        parent = ready.read_text()
        run.send_signal(signal.SIGTERM)
        assert run.wait(60) == pytest.ExitCode.INTERRUPTED
        assert not (place / "engine").exists()
        groups = Path("/sys/fs/cgroup")
        assert [*groups.glob(f"*{parent}"), *groups.glob(parent.lstrip("/"))] == []
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert str(place / "engine") not in listed
    finally:
        run.kill()
        run.wait()
        shutil.rmtree(place)
