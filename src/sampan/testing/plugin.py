"""A pytest plugin (`-p sampan.testing.plugin`): a run that is told to end takes down what it has started."""

from __future__ import annotations

import signal
from types import FrameType


def pytest_configure() -> None:
    """SIGTERM, as from timeout(1) or a CI job that is cancelled, ends a run as Ctrl-C does: fixtures are taken down."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would end the cleaning up
    raise KeyboardInterrupt
