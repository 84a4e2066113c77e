"""Shows a build while it goes on, on standard error: `--progress tty`, `plain`, `quiet` and `rawjson`.

The engine's answer is read here; what it means is in `steps`, how it looks in `frame`, `plain` and `failed`.
"""

from __future__ import annotations

import os
import select
import time

from sampan.cli import units
from sampan.cli.build.explain import note_reasons
from sampan.cli.build.failed import BuildFailed, build_failed
from sampan.cli.build.frame import final_frame, running_frame
from sampan.cli.build.modes import CLASSIC
from sampan.cli.build.plain import PlainProgress
from sampan.cli.build.screen import Screen
from sampan.cli.build.status import SolveStatus, is_status
from sampan.cli.build.steps import Steps
from sampan.cli.build.text import plain
from sampan.cli.failure import Exit
from sampan.cli.streams import write_all
from sampan.client.codec import StreamDecoder, dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Any

    from sampan.cli.build.classic import ClassicOutput
    from sampan.client.connection import Response

FRAME_SECONDS = 0.1
"""Between two frames."""
SLOW_UPLOAD = 0.3
"""Seconds after which a context on its way is shown."""
_ERR = 2


class Display:
    """One build on one terminal or log. Used as a context manager it leaves the terminal as it was."""

    def __init__(self, mode: str, environment: Mapping[str, str]) -> None:
        self.steps = Steps()
        self._mode = mode
        self._plain = PlainProgress(self.steps)
        self._screen = Screen(colour=not environment.get("NO_COLOR"))
        self._began = time.monotonic()
        self._drawn = 0.0
        self._open = False

    def __enter__(self) -> Display:
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.end(failed=kind is not None)
        if isinstance(error, BuildFailed) and self._mode not in (CLASSIC, "rawjson"):
            self._write(error.told)
        elif isinstance(error, KeyboardInterrupt | Exit) and self._mode != CLASSIC:
            self._write("ERROR: failed to solve: Canceled: context canceled\n")

    def silence(self) -> None:
        """The engine speaks Docker's classic language, which others show: nothing of the display stays."""
        if self._mode == "tty":
            self._write(self._screen.close([], _size()))
        self._open, self._mode = False, CLASSIC

    def uploading(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of a context, shown on their way when that takes long."""
        total = 0
        for data in body:
            total += len(data)
            yield data
            if self._mode == "tty" and time.monotonic() - self._began > SLOW_UPLOAD:
                self._upload(total)

    def feed(self, message: dict[str, Any]) -> None:
        now = time.monotonic()
        if self._mode == "plain":
            self._write(self._plain.feed(SolveStatus(message), now))
            return
        if self._mode == "rawjson":
            self._write(dumps(message) + "\n")
        for step in self.steps.feed(SolveStatus(message), now):
            step.fresh.clear()

    def tick(self) -> None:
        """Called several times a second."""
        now = time.monotonic()
        if self._mode == "plain":
            self._write(self._plain.tick(now))
        elif self._mode == "tty" and now - self._drawn >= FRAME_SECONDS:
            self._drawn = now
            size = _size()
            frame = running_frame(self.steps, now, max(size[0] - 1, 1), now - self._began)
            self._write(self._screen.draw(frame, size))

    def end(self, *, failed: bool) -> None:
        """The last word on all steps."""
        if not self._open:
            return
        self._open = False
        now = time.monotonic()
        if self._mode == "plain":
            self._write(self._plain.finish(now, failed=failed))
        elif self._mode == "tty" and (self.steps.started or self._drawn):
            frame = final_frame(self.steps, now, now - self._began, failed=failed)
            self._write(self._screen.close(frame, _size()))

    def summary(self, image: str, names: list[str]) -> None:
        """After a build that succeeded: time, cached steps, bytes, image, warnings."""
        if self._mode in ("tty", "plain"):
            passed = time.monotonic() - self._began
            self._write("\n" + summary_text(self.steps, passed, image, names))

    def _upload(self, total: int) -> None:
        step = {"digest": "upload", "name": "[internal] send build context", "started": _rfc3339(time.time())}
        progress = {"vertex": "upload", "id": "transferring context:", "current": total}
        self.steps.feed(SolveStatus({"vertexes": [step], "statuses": [progress]}), time.monotonic())
        self.tick()

    def uploaded(self) -> None:
        """The context is with the engine, which tells of it itself from now on."""
        self.steps.forget("upload")

    @staticmethod
    def _write(text: str) -> None:
        if text:
            write_all(_ERR, text.encode("utf-8", "replace"))


def summary_text(steps: Steps, passed: float, image: str, names: list[str]) -> str:
    work = [step for step in steps.started if step.cacheable]
    cached = sum(step.cached for step in work)
    parts = [f"Built in {passed:.1f}s", f"{cached} of {len(work)} steps cached"]
    if steps.moved:
        parts.append(f"{units.human_size(steps.moved, 3)} transferred")
    lines = [", ".join(parts)]
    if image:
        lines.append(f"Image {image}" + (f" named {', '.join(names)}" if names else ""))
    if steps.warnings:
        count = len(steps.warnings)
        lines.append(f"{count} warning{'s' if count > 1 else ''}:")
        for warning in steps.warnings:
            told = not warning.line or warning.short.endswith(f"(line {warning.line})")
            place = "" if told else f" ({plain(warning.file) or 'Dockerfile'}:{warning.line})"
            lines.append(f" - {plain(warning.short)}{place}")
    return "\n".join(lines) + "\n"


def follow(response: Response, display: Display, aux: Callable[[Any], None], classic: ClassicOutput) -> None:
    """Show the whole answer; `aux` receives the results in it.

    An engine that knows nothing of `progress=rawjson` gives itself away with its first message: the stream goes
    to `classic` then. Raises `BuildFailed` when the stream tells of an error, `Failure` in the classic one.
    """
    decoder = StreamDecoder()
    poll = select.poll()
    poll.register(response.fileno(), select.POLLIN)
    display.tick()
    while True:
        if not (response.finished or response.pending or poll.poll(int(FRAME_SECONDS * 1000))):
            display.tick()
            continue
        data = response.read_some()
        for message in decoder.feed(data) if data else decoder.finish():
            _handle(message, display, aux, classic)
        display.tick()
        if not data:
            return


def _handle(message: Any, display: Display, aux: Callable[[Any], None], classic: ClassicOutput) -> None:
    if not isinstance(message, dict):
        return
    if "aux" in message:
        aux(message["aux"])
    elif is_status(message):
        display.feed(message)
    elif "sampan" in message:
        note_reasons(display.steps, message["sampan"])
    elif classic.used or not ("error" in message or "errorDetail" in message):
        classic.show(message)
    else:
        raise build_failed(message, display.steps)


def _size() -> tuple[int, int]:
    """(rows, columns) of the terminal on standard error."""
    try:
        found = os.get_terminal_size(_ERR)
    except OSError:
        return 24, 80
    return found.lines or 24, found.columns or 80


def _rfc3339(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1e6):06d}Z"
