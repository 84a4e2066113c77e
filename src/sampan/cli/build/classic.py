"""Docker's stream as it was before BuildKit.

dockerd speaks it, and DOCKER_BUILDKIT=0 asks for it.
"""

from __future__ import annotations

import sys

from sampan.cli import units
from sampan.cli.progress import ProgressDisplay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TextIO


class Sending:
    """Counts the bytes of a context on their way, shown on a terminal as they go (`live`)."""

    def __init__(self, out: TextIO, *, live: bool) -> None:
        self._out = out
        self._live = live and out.isatty()
        self.total = 0

    def pieces(self, body: Iterable[bytes]) -> Iterator[bytes]:
        reported = 0
        for data in body:
            self.total += len(data)
            if self._live and self.total - reported >= 1 << 19:
                reported = self.total
                self._report("\r")
            yield data

    def end(self) -> None:
        self._report("\r\n" if self._live else "\n")

    def _report(self, end: str) -> None:
        size = units.human_size(self.total)
        self._out.write(f"Sending build context to Docker daemon  {size:>7}{end}")
        self._out.flush()


class ClassicOutput:
    """Shows the stream's messages; `quiet` keeps the output back, and a failed build shows it after all."""

    def __init__(
        self, out: TextIO, sending: Sending | None, *, quiet: bool, begin: Callable[[], None]
    ) -> None:
        """`begin` is called before the first message, which tells that the engine speaks so."""
        self._sending = sending
        self._begin: Callable[[], None] | None = begin
        self._quiet = quiet
        self._kept: list[str] = []
        self._display = ProgressDisplay(out)
        self.last = ""
        """The last line of output: with `q=1` some engines say the image's ID there and nowhere else."""

    @property
    def used(self) -> bool:
        return self._begin is None

    def start(self) -> None:
        if self._begin is not None:
            self._begin()
            self._begin = None
            if self._sending is not None and not self._quiet:
                self._sending.end()

    def show(self, message: dict[str, Any]) -> None:
        """Show one message. Raises `Failure` for one that reports an error."""
        self.start()
        text = message.get("stream")
        if isinstance(text, str):
            self.last = text.strip() or self.last
            if self._quiet:
                self._kept.append(text)
                return
        if "error" in message or "errorDetail" in message:
            sys.stderr.write("".join(self._kept))
        elif self._quiet:
            return
        self._display.show(message)
