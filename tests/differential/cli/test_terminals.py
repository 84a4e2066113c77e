"""Terminals: raw mode and back, the size, detaching by keys; on a pseudo-terminal against a real engine."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from typing import Any

import pytest

pytestmark = pytest.mark.root
_DEADLINE = 30.0


class Session:
    """A command on a terminal of its own."""

    def __init__(self, side: Any, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(30, 100)
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [*side.command, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**side.environment, "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
        )
        self.slave = slave
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def expect(self, text: bytes) -> None:
        """Wait until `text` was written after what was expected before."""
        deadline = time.monotonic() + _DEADLINE
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come, only {self.seen!r}"
            self.seen += os.read(self.master, 65536)
        self.seen = self.seen.partition(text)[2]

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def end(self) -> int:
        status = self.process.wait(_DEADLINE)
        assert termios.tcgetattr(self.slave)[:4] == self.before[:4]
        os.close(self.slave)
        os.close(self.master)
        return status


def test_a_shell_on_a_terminal_has_its_size_and_ends_with_its_code(pair: Any) -> None:
    session = Session(pair.sampan, "run", "-it", "--rm", "--network", "none", "busybox", "sh")
    session.expect(b"#")
    session.type(b"stty size; echo x$((40+2))\r")
    session.expect(b"30 100")
    session.expect(b"x42")
    session.resize(40, 120)
    session.process.send_signal(28)  # SIGWINCH
    session.type(b"while [ \"$(stty size)\" != '40 120' ]; do :; done; echo res''ized\r")
    session.expect(b"resized")
    session.type(b"exit 9\r")
    assert session.end() == 9


def test_the_detach_keys_leave_the_container_running(pair: Any) -> None:
    session = Session(pair.sampan, "run", "-it", "--name", "stay", "--network", "none", "busybox", "sh")
    session.expect(b"#")
    session.type(b"\x10\x11")
    assert session.end() == 0
    assert pair.docker.run("inspect", "-f", "{{.State.Running}}", "stay").out == "true\n"
    again = Session(pair.sampan, "attach", "--detach-keys", "a,b", "stay")
    again.expect(b"#")
    again.type(b"echo a-\r")
    again.expect(b"\na-")
    again.type(b"ab")
    again.expect(b"read escape sequence")
    assert again.end() == 1


def test_an_exec_on_a_terminal_passes_control_keys_on(pair: Any) -> None:
    pair.docker.run("run", "-d", "--name", "host", "--network", "none", "busybox", "sleep", "100")
    session = Session(pair.sampan, "exec", "-it", "host", "sh")
    session.expect(b"#")
    session.type(b"sh -c \"echo runn''ing; sleep 100\"\r")
    session.expect(b"running")
    session.type(b"\x03")
    session.expect(b"#")
    session.type(b"echo $?\r")
    session.expect(b"130")
    session.type(b"exit 5\r")
    assert session.end() == 5


def test_signals_are_passed_on_to_a_container_without_terminal(pair: Any) -> None:
    script = "trap 'echo got; exit 33' TERM; echo ready; while :; do sleep 0.1; done"
    process = subprocess.Popen(
        [*pair.sampan.command, "run", "--rm", "--network", "none", "busybox", "sh", "-c", script],
        stdout=subprocess.PIPE,
        env=pair.sampan.environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.stdout.read() == b"got\n"
    assert process.wait(_DEADLINE) == 33
