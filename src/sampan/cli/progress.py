"""The engine's JSON progress messages, as Docker's client shows them: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys

from sampan.cli import units
from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TextIO

_BAR = 50
_DEFAULT_WIDTH = 200


class ProgressDisplay:
    """Shows messages with an id on one line each, rewritten in place when the output is a terminal."""

    def __init__(self, out: TextIO, *, terminal: bool | None = None, width: int | None = None) -> None:
        self._out = out
        self.terminal = out.isatty() if terminal is None else terminal
        self._width = width
        self._lines: dict[str, int] = {}

    def show(self, message: dict[str, Any]) -> None:
        """Show one message. Raises `Failure` for one that reports an error."""
        error = message.get("errorDetail") or message.get("error")
        if error:
            detail = error if isinstance(error, dict) else {"message": str(error)}
            raise Failure(str(detail.get("message") or message.get("error")), _error_status(detail))
        identity = message.get("id") or ""
        has_progress = bool(message.get("progressDetail") or message.get("progress"))
        if not identity:
            self._lines.clear()
            self._out.write(self._text(message, in_place=False))
        elif self.terminal and (has_progress or identity in self._lines or "progressDetail" in message):
            self._rewrite(identity, message)
        else:
            self._out.write(self._text(message, in_place=False))
        self._out.flush()

    def _rewrite(self, identity: str, message: dict[str, Any]) -> None:
        if identity not in self._lines:
            self._lines[identity] = len(self._lines)
            self._out.write("\n")
        up = len(self._lines) - self._lines[identity]
        self._out.write(f"\x1b[{up}A" + self._text(message, in_place=True) + f"\x1b[{up}B")

    def _text(self, message: dict[str, Any], *, in_place: bool) -> str:
        if "stream" in message:
            return str(message["stream"])
        end = "\n"
        clear = ""
        bar = self._bar(message)
        if in_place:
            clear, end = "\x1b[2K\r", "\r"
        elif bar:
            return ""  # no bars outside a terminal
        prefix = f"{message['id']}: " if message.get("id") else ""
        source = f"(from {message['from']}) " if message.get("from") else ""
        text = f"{source}{message.get('status', '')}"
        return f"{clear}{prefix}{text} {bar}{end}" if bar else f"{clear}{prefix}{text}{end}"

    def _bar(self, message: dict[str, Any]) -> str:
        detail = message.get("progressDetail") or {}
        current, total = detail.get("current") or 0, detail.get("total") or 0
        if current <= 0 and total <= 0:
            return ""
        return progress_bar(current, total, self._columns() if self.terminal else _DEFAULT_WIDTH)

    def _columns(self) -> int:
        if self._width is None:
            from sampan.cli.terminal import size

            self._width = size()[1] or _DEFAULT_WIDTH
        return self._width


def progress_bar(current: int, total: int, width: int) -> str:
    """ "[=====>     ]  5MB/10MB", the bar left out on narrow terminals."""
    done = units.human_size(current)
    if total <= 0:
        return f"{done:>8}"
    half = min(current * 100 // total, 100) // 2
    bar = ""
    if width > 110:
        spaces = " " * (_BAR - half) if half < _BAR else ""
        bar = f"[{'=' * half}>{spaces}] "
    if current > total:
        return f"{bar}{done:>8}"
    return f"{bar}{done:>8}/{units.human_size(total)}"


def _error_status(detail: dict[str, Any]) -> int:
    code = detail.get("code")
    return int(code) if isinstance(code, int) and 0 < code < 256 else 1


def show_all(
    messages: Iterable[dict[str, Any]],
    out: TextIO | None = None,
    *,
    aux: Callable[[Any], None] | None = None,
) -> None:
    """Show a whole stream of messages; `aux` receives the results that come along in it."""
    display = ProgressDisplay(out or sys.stdout)
    for message in messages:
        if "aux" in message:
            if aux is not None:
                aux(message["aux"])
            continue
        display.show(message)
