"""Daemons that want what another one has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampan.testing.engine import EngineProcess

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("taken", "words"),
    [
        ("root", "is in use by another sampan daemon (pid {pid})"),
        ("run", "another sampan daemon (pid {pid}) uses {run}"),
        ("socket", "another daemon listens at {socket} already"),
    ],
)
def test_a_second_daemon_is_told_and_takes_nothing_away(
    sampan: Any, tmp_path: Path, taken: str, words: str
) -> None:
    first: EngineProcess = sampan.engine
    second = EngineProcess(tmp_path / "second")
    if taken == "root":
        second.root = first.root
    elif taken == "run":
        second.run_dir = first.run_dir
    else:
        second.options = ("--host", first.host)
    with pytest.raises(RuntimeError) as caught:
        second.start()
    assert words.format(pid=first.pid, run=first.run_dir, socket=first.socket) in str(caught.value)
    assert first.socket.is_socket()
    assert sampan.ok("run", "--rm", "busybox", "echo", "still here") == "still here"
