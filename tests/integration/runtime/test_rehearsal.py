"""What the launcher does before it serves leaves nothing behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.runtime.launcher_client import LauncherClient

pytestmark = pytest.mark.root


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[LauncherClient]:
    client = LauncherClient.start(tmp_path / "run", (sys.executable, "-m", "sampan.daemon.launcher"))
    yield client
    client.close()


def test_no_process_file_or_descriptor_of_the_rehearsal_stays(
    launcher: LauncherClient, tmp_path: Path
) -> None:
    assert not (tmp_path / "run" / "rehearsal").exists()
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
    assert children.split() == []
    opened = [os.readlink(entry) for entry in Path(f"/proc/{launcher.pid}/fd").iterdir()]
    assert sum(name.startswith("socket:") for name in opened) == 1
    assert not [name for name in opened if name.startswith(("pipe:", "anon_inode:")) or "rehearsal" in name]


def test_a_rehearsal_that_was_cut_off_is_no_obstacle(tmp_path: Path) -> None:
    left = tmp_path / "run" / "rehearsal"
    left.mkdir(parents=True)
    (left / "shim.sock").write_bytes(b"")
    client = LauncherClient.start(tmp_path / "run", (sys.executable, "-m", "sampan.daemon.launcher"))
    client.close()
    assert not left.exists()
