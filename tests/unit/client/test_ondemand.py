"""An engine is started when it is needed: once, and with its log when it fails."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.client import ondemand
from sampan.client.ondemand import start_daemon
from sampan.errors import Unavailable

ENGINE = """
import os, socket, sys
with open(sys.argv[2], "a") as log:
    log.write(str(os.getpid()) + "\\n")
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
fd = int(os.environ["SAMPAN_READY_FD"])
os.write(fd, b"x")
os.close(fd)
s.accept()
while True:
    s.accept()
"""
ABSENT = FileNotFoundError(errno.ENOENT, "No such file or directory")


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file in which each engine that is started writes its process ID; they are ended afterwards."""
    pids = tmp_path / "pids"
    monkeypatch.setattr(
        ondemand,
        "daemon_command",
        lambda path: [sys.executable, "-I", "-c", ENGINE, path, str(pids)],
    )
    yield pids
    if pids.exists():
        for line in pids.read_text().split():
            os.kill(int(line), signal.SIGKILL)


def test_the_engine_listens_when_the_start_returns(tmp_path: Path, started: Path) -> None:
    path = str(tmp_path / "run/s.sock")
    start_daemon(path, ABSENT)
    assert ondemand.listens(path)


def test_two_commands_at_once_start_one_engine(tmp_path: Path, started: Path) -> None:
    path = str(tmp_path / "s.sock")
    threads = [threading.Thread(target=start_daemon, args=(path, ABSENT)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started.read_text().split()) == 1


def test_an_engine_that_fails_is_reported_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "daemon.log").write_text("of yesterday\n")
    script = "import sys; sys.exit('cannot open the database')"
    monkeypatch.setattr(ondemand, "daemon_command", lambda path: [sys.executable, "-I", "-c", script])
    with pytest.raises(Unavailable, match="cannot open the database") as caught:
        start_daemon(str(tmp_path / "s.sock"), ABSENT)
    assert "yesterday" not in caught.value.message


def test_a_socket_that_may_not_be_used_starts_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Permission denied"):
        start_daemon(str(tmp_path / "s"), PermissionError(errno.EACCES, "Permission denied"))


def test_the_command_names_a_socket_that_is_not_the_default_one() -> None:
    assert ondemand.daemon_command("/run/sampan/sampan.sock")[-1] == "daemon"
    assert ondemand.daemon_command("/x")[-2:] == ["--host", "unix:///x"]
