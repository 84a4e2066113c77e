"""What a shim needs of a log driver; the drivers themselves live above this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sampan.runtime.messages import LogTarget


class LogSink(Protocol):
    def write(self, stream: int, data: bytes, time_ns: int) -> None:
        """Record `data` as read from the container: `stream` 1 (output) or 2 (error), at `time_ns` (Unix time, ns)."""

    def close(self) -> None:
        """Record what is still held back (an unfinished line), and end."""


LogFactory = Callable[[LogTarget], LogSink]
