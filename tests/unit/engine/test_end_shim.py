"""A start that is undone waits for its shim, but not for ever."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from sampan.engine.containers.runner import end_shim
from sampan.runtime.messages import SHIM_SOCKET

_STOPPED = (
    "import os, signal, socket, sys\n"
    "listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
    "listener.bind(sys.argv[1]); listener.listen(64); print(flush=True)\n"
    "os.kill(os.getpid(), signal.SIGSTOP)\n"
)


class Group:
    """A control group that notes what is done to it."""

    def __init__(self, *, there: bool = True) -> None:
        self.done: list[str] = []
        self._there = there

    def exists(self) -> bool:
        return self._there

    def kill_all(self) -> None:
        self.done.append("killed")

    def remove(self) -> None:
        self.done.append("removed")


def test_a_shim_that_is_stopped_is_killed_with_its_control_group(tmp_path: Path) -> None:
    group: Any = Group()
    command = [sys.executable, "-c", _STOPPED, str(tmp_path / SHIM_SOCKET)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end_shim(tmp_path, group, timeout=0.05)
        assert process.wait(10) == -signal.SIGKILL
    assert group.done == ["killed", "removed"]


def test_where_no_shim_listens_what_is_left_in_the_control_group_is_ended(tmp_path: Path) -> None:
    left: Any = Group()
    end_shim(tmp_path, left, timeout=0.05)
    assert left.done == ["killed", "removed"]
    gone: Any = Group(there=False)
    end_shim(tmp_path, gone, timeout=0.05)
    assert gone.done == []
