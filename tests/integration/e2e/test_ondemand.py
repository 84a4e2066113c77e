"""The engine that a command starts when nothing listens."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.root


class Place:
    """Where an engine of this test would be, and commands that talk to it."""

    def __init__(self, directory: Path, **more: object) -> None:
        token = secrets.token_hex(4)
        self.run = directory / "run"
        config = directory / "daemon.json"
        config.write_text(
            json.dumps(
                {
                    "data-root": str(directory / "root"),
                    "exec-root": str(self.run),
                    "bridge": f"smpt{token}",
                    "bip": f"10.199.{int(token[:2], 16)}.1/24",
                    "cgroup-parent": f"/sampan-test-{token}",
                    **more,
                }
            )
        )
        self.environment = {
            **os.environ,
            "SAMPAN_HOST": f"unix://{self.run}/sampan.sock",
            "SAMPAN_DAEMON_CONFIG": str(config),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "sampan.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            text=True,
        )

    def engine_pid(self) -> int | None:
        try:
            return int((self.run / "daemon.pid").read_text() or 0) or None
        except FileNotFoundError:
            return None

    def stop(self) -> None:
        pid = self.engine_pid()
        if pid is None:
            return
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            assert select.select([handle], [], [], 30)[0], "the engine does not end"
        finally:
            os.close(handle)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.stop()


def test_commands_at_once_start_one_engine_and_all_are_answered(place: Place) -> None:
    commands = [place.start("info", "--format", "{{.ID}}") for _ in range(4)]
    results = [(command.communicate(timeout=60), command.returncode) for command in commands]
    assert [code for _, code in results] == [0] * 4, results
    assert len({output for (output, _), _ in results}) == 1
    first = place.engine_pid()
    later = place.start("info", "--format", "{{.ID}}")
    assert later.communicate(timeout=60)[0] == results[0][0][0]
    assert place.engine_pid() == first


def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    place = Place(tmp_path, nonsense=1)
    command = place.start("ps")
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 1
    assert "unknown key 'nonsense'" in errors
    assert place.engine_pid() is None
