"""`sampan-runtime run` and `exec` in the foreground: waiting, forwarding signals, copying to and from a terminal."""

from __future__ import annotations

import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sampan.linux import terminal
from sampan.runtime.reaper import exit_code_of

_FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
)
_CHUNK = 32 * 1024


def wait(pid: int, master: int = -1) -> int:
    """Wait for our child `pid`; with a terminal's `master`, copy between it and our standard streams. The exit code."""

    def forward(number: int, frame: FrameType | None) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        if master >= 0:
            with _raw_input():
                _copy(master)
        _, status = os.waitpid(pid, 0)
        return exit_code_of(status)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _raw_input() -> Iterator[None]:
    """Our own terminal passes every key on while it lasts; nothing when standard input is none."""
    if not os.isatty(0):
        yield
        return
    saved = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


def _copy(master: int) -> None:
    """Until the terminal's other side is closed by everybody."""

    def resize(*_: object) -> None:
        if os.isatty(0):
            size = os.get_terminal_size(0)
            terminal.set_size(master, size.lines, size.columns)

    resize()
    before = signal.signal(signal.SIGWINCH, resize)
    sources = [0, master]
    try:
        while True:
            for source in select.select(sources, [], [])[0]:
                if source == 0:
                    data = os.read(0, _CHUNK)
                    if data:
                        _write_all(master, data)
                    else:
                        sources.remove(0)
                    continue
                try:
                    data = os.read(master, _CHUNK)
                except OSError as error:
                    if not terminal.is_hangup(error):
                        raise
                    return
                if not data:
                    return
                _write_all(1, data)
    finally:
        signal.signal(signal.SIGWINCH, before)
        os.close(master)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
