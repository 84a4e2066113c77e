"""`--progress plain`: BuildKit's lines, for CI logs. Steps that run at the same time are told in turns.

Pure: `PlainProgress` takes news and gives text. A step that has begun to speak goes on speaking; others wait until
it has ended or `PATIENCE` is over, so that the lines of a parallel build can be read.
"""

from __future__ import annotations

from sampan.cli import units
from sampan.cli.build.steps import Step, Steps
from sampan.cli.build.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.build.status import SolveStatus, Transfer

PATIENCE = 2.0
"""Seconds that a step may be kept waiting with what it has to say."""
BETWEEN_BYTES = 5.0
"""Seconds between two lines about the same transfer while it goes on."""


class _Waiting:
    """What a step has to say, and since when (our clock)."""

    __slots__ = ("lines", "since")

    def __init__(self, since: float) -> None:
        self.lines: list[str] = []
        self.since = since


class PlainProgress:
    def __init__(self, steps: Steps | None = None) -> None:
        self.steps = steps or Steps()
        self._waiting: dict[str, _Waiting] = {}
        self._numbers: dict[str, int] = {}
        self._speaking = ""
        self._told: set[str] = set()
        """Steps whose end was told."""
        self._transfers: dict[tuple[str, str, str], float] = {}
        """When something was last said about a transfer; infinity when its end was."""

    def feed(self, status: SolveStatus, now: float) -> str:
        """Take news in; the text to be written now. `now`: a monotonic clock's seconds."""
        for step in self.steps.feed(status, now):
            self._queue(step, now)
        return self.tick(now)

    def tick(self, now: float) -> str:
        """What becomes due without news: called every second or so."""
        lines: list[str] = []
        while digest := self._next(now):
            self._speak(digest, lines)
        return "".join(line + "\n" for line in lines)

    def finish(self, now: float, *, failed: bool = False) -> str:
        """The rest, when the stream has ended. `failed`: steps that have not ended never will."""
        for step in self.steps.started if failed else ():
            if step.digest not in self._told:
                step.end_output()
                self._queue(step, now)
                self._told.add(step.digest)
                self._waiting[step.digest].lines.append("CANCELED")
        text = self.tick(now)
        while self._waiting:
            text += self.tick(now + PATIENCE)
        return text

    def _queue(self, step: Step, now: float) -> None:
        waiting = self._waiting.get(step.digest)
        if waiting is None:
            waiting = self._waiting[step.digest] = _Waiting(now)
        for transfer in step.transfers.values():
            line = self._transfer(step, transfer, now)
            if line:
                waiting.lines.append(line)
        waiting.lines += step.notes
        step.notes.clear()
        waiting.lines += [f"{passed:.3f} {text}" for passed, text in step.take()]
        if not step.ended:
            self._told.discard(step.digest)
        elif step.digest not in self._told:
            self._told.add(step.digest)
            waiting.lines.append(_end(step, now))

    def _transfer(self, step: Step, transfer: Transfer, now: float) -> str:
        key = (step.digest, transfer.id, transfer.name)
        last = self._transfers.get(key)
        if last is not None and not transfer.completed and now - last < BETWEEN_BYTES:
            return ""
        if last == float("inf"):
            return ""
        self._transfers[key] = float("inf") if transfer.completed else now
        return transfer_text(transfer)

    def _next(self, now: float) -> str:
        """Whose turn it is; "" when nobody's."""
        if self._speaking in self._waiting:
            return self._speaking
        if not self._waiting:
            return ""
        oldest = min(self._waiting, key=lambda digest: self._waiting[digest].since)
        due = not self._speaking or now - self._waiting[oldest].since >= PATIENCE
        return oldest if due else ""

    def _speak(self, digest: str, lines: list[str]) -> None:
        waiting = self._waiting.pop(digest)
        number = self._numbers.get(digest)
        if self._speaking != digest:
            if self._speaking:
                lines.append(f"#{self._numbers[self._speaking]} ...")
            if self._numbers:
                lines.append("")
            number = self._numbers.setdefault(digest, len(self._numbers) + 1)
            step = self.steps.find(digest)
            lines.append(f"#{number} {step.name if step is not None else ''}")
        lines += [f"#{number} {line}" for line in waiting.lines]
        self._speaking = "" if digest in self._told else digest


def _end(step: Step, now: float) -> str:
    if step.cancelled:
        return "CANCELED"
    if step.error:
        return f"ERROR: {step.error}"
    return "CACHED" if step.cached else f"DONE {step.passed(now):.1f}s"


def transfer_text(transfer: Transfer) -> str:
    """ "sha256:ab12 1.2MB / 3.4MB 0.5s done"."""
    parts = [plain(transfer.label)]
    if transfer.total:
        parts.append(f"{units.human_size(transfer.current)} / {units.human_size(transfer.total)}")
    elif transfer.current:
        parts.append(units.human_size(transfer.current))
    until = transfer.completed or transfer.timestamp
    if transfer.started and until - transfer.started > 0.01:
        parts.append(f"{until - transfer.started:.1f}s")
    if transfer.completed and (len(parts) > 1 or not transfer.name):
        parts.append("done")  # "Pull complete" says so itself
    return " ".join(parts)
