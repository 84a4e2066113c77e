"""What a shim needs of a log driver; the drivers themselves live above this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sampan.runtime.loop import Loop
from sampan.runtime.messages import LogTarget


class LogSink(Protocol):
    """What is not overridden is right for a sink that records at once."""

    def write(self, stream: int, data: bytes, time_ns: int) -> None:
        """Record `data` as read from the container: `stream` 1 (output) or 2 (error), at `time_ns` (Unix time, ns)."""

    def close(self) -> None:
        """Record what is still held back (an unfinished line), and end; see `patience`."""

    def join(self, loop: Loop, changed: Callable[[], None]) -> None:
        """Called once: work that takes time is done from `loop`; `changed` is called when `congested` is another."""
        return

    @property
    def congested(self) -> bool:
        """The container has to wait: nothing should be written now."""
        return False

    @property
    def patience(self) -> float | None:
        """None, or the seconds that the sink is to be given after `close` for what it has not delivered yet."""
        return None

    def give_up(self) -> None:
        """After `close`: the time is over."""
        return


LogFactory = Callable[[LogTarget], LogSink]
