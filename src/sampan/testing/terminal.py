"""A command of `sampan` on a terminal of its own, as a person would run it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

SECONDS = 30.0
"""How long a terminal may be silent when something is waited for."""


class TerminalProcess:
    """`seen`: everything that was written to the terminal, as far as it was read."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self.seen = b""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read_until(self, wanted: bytes) -> None:
        """Raises AssertionError with what was seen when the terminal falls silent or is closed before."""
        while wanted not in self.seen:
            if not self._read():
                raise AssertionError(self.seen.decode("utf-8", "replace"))

    def finish(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        return self.process.wait(SECONDS)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], SECONDS)
        try:
            data = os.read(self._master, 65536) if ready else b""
        except OSError:  # the other side is closed
            data = b""
        self.seen += data
        return bool(data)


@contextmanager
def on_terminal(
    environment: Mapping[str, str], *arguments: str, rows: int = 40, columns: int = 100
) -> Iterator[TerminalProcess]:
    """`sampan ARGUMENTS`; killed in the end when it still runs."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "sampan.cli.main", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**environment, "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield TerminalProcess(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)
