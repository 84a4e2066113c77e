"""How far a build has come: its steps, out of the engine's SolveStatus values. Pure; displays read it."""

from __future__ import annotations

from sampan.cli.build.text import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.build.status import Log, SolveStatus, Transfer, Vertex, Warning

TAIL = 100
"""Lines of a step's output that are kept: for the window while it runs, and for the message when it fails."""
LONGEST_LINE = 65536
"""Bytes; a line without end must not fill the memory."""
_LOCAL_WORK = ("extract", "export", "unpack", "verif", "writ", "nam")
"""How transfers begin that move no byte over a network."""


class Step:
    """Times: `started`, `spoke` (last) and `completed` by the engine's clock, `seen` (first heard of) by ours."""

    __slots__ = (
        "_moved", "cached", "completed", "digest", "error", "fresh", "name", "notes", "number", "partial", "reasons",
        "seen", "spoke", "started", "tail", "transfers", "warnings",
    )  # fmt: skip

    def __init__(self, digest: str, number: int, name: str, now: float) -> None:
        self.digest = digest
        self.number = number
        self.name = name
        self.started = self.completed = self.spoke = 0.0
        self.seen = now
        self.cached = False
        self.error = ""
        self.transfers: dict[str, Transfer] = {}
        self._moved: dict[str, int] = {}
        self.partial: dict[int, bytes] = {}
        """Of each stream a line that is being written."""
        self.tail: list[tuple[float, str]] = []
        self.fresh: list[tuple[float, str]] = []
        """Lines (seconds since the start, text) since `take`."""
        self.notes: list[str] = []
        """Warnings and reasons that `--progress plain` has not shown yet, each a line."""
        self.warnings: list[str] = []
        self.reasons: list[str] = []
        """Why it was not found in the cache, when that was asked for."""

    @property
    def ended(self) -> bool:
        return bool(self.completed or self.error)

    @property
    def cacheable(self) -> bool:
        """A step of the Dockerfile that is work: not the engine's own, and not a base image."""
        return (
            self.name.startswith("[")
            and not self.name.startswith("[internal]")
            and "] FROM " not in self.name
        )

    @property
    def cancelled(self) -> bool:
        return self.error.endswith(("context canceled", "build cancelled"))

    def passed(self, now: float) -> float:
        """Seconds that it took, or has taken so far; `now` by our clock."""
        if self.completed and self.started:
            return max(self.completed - self.started, 0.0)
        return 0.0 if self.ended else max(now - self.seen, 0.0)

    @property
    def moved(self) -> int:
        """Bytes that came over a network or from the client."""
        return sum(self._moved.values())

    def note_transfer(self, transfer: Transfer) -> None:
        before = self.transfers.get(transfer.id)
        if before is not None and before.name == transfer.name:
            transfer.started = transfer.started or before.started
            transfer.total = transfer.total or before.total
            transfer.current = transfer.current or before.current
        self.transfers[transfer.id] = transfer
        if not (transfer.name or transfer.id).lower().startswith(_LOCAL_WORK):
            self._moved[transfer.id] = max(self._moved.get(transfer.id, 0), transfer.current)

    def take(self) -> list[tuple[float, str]]:
        fresh, self.fresh = self.fresh, []
        return fresh

    def write(self, stream: int, data: bytes, timestamp: float) -> None:
        self.spoke = timestamp
        *whole, rest = (self.partial.pop(stream, b"") + data).split(b"\n")
        if len(rest) > LONGEST_LINE:
            whole.append(rest)
            rest = b""
        if rest:
            self.partial[stream] = rest
        passed = max(timestamp - self.started, 0.0) if timestamp and self.started else 0.0
        self._add([(passed, plain(line.removesuffix(b"\r").decode("utf-8", "replace"))) for line in whole])

    def end_output(self) -> None:
        for stream in list(self.partial):
            self.write(stream, b"\n", self.completed or self.spoke)

    def _add(self, lines: list[tuple[float, str]]) -> None:
        self.tail = (self.tail + lines)[-TAIL:]
        self.fresh += lines

    def last_lines(self, count: int) -> list[str]:
        """The end of the output, a line that is being written included."""
        lines = [text for _, text in self.tail[-count:]]
        lines += [plain(rest[-4096:].decode("utf-8", "replace")) for rest in self.partial.values()]
        return lines[-count:]


class Steps:
    """All steps of a build in the order in which they started."""

    def __init__(self) -> None:
        self.started: list[Step] = []
        self.known: dict[str, str] = {}
        """Digest -> name of every step that was told of, started or not."""
        self.warnings: list[Warning] = []
        self._steps: dict[str, Step] = {}

    def feed(self, status: SolveStatus, now: float) -> list[Step]:
        """Take news in; the steps that it is about. `now`: a monotonic clock's seconds."""
        touched: dict[str, Step] = {}
        for vertex in status.vertexes:
            self._vertex(vertex, now, touched)
        for log in status.logs:
            self._log(log, touched)
        for transfer in status.transfers:
            step = self._steps.get(transfer.vertex)
            if step is not None:
                step.note_transfer(transfer)
                touched[step.digest] = step
        for warning in status.warnings:
            self.warnings.append(warning)
            step = self._steps.get(warning.vertex)
            if step is not None:
                short = plain(warning.short.replace("\n", " "))
                step.warnings.append(short)
                step.notes.append(f"WARN: {short}")
                touched[step.digest] = step
        for vertex in status.vertexes:
            step = self._steps.get(vertex.digest)
            if step is not None and step.ended:
                step.end_output()
        return list(touched.values())

    def forget(self, digest: str) -> None:
        step = self._steps.pop(digest, None)
        if step is not None:
            self.started.remove(step)
            self.known.pop(digest, None)

    def find(self, digest: str) -> Step | None:
        return self._steps.get(digest)

    @property
    def ended(self) -> int:
        return sum(step.ended for step in self.started)

    @property
    def moved(self) -> int:
        return sum(step.moved for step in self.started)

    def _vertex(self, vertex: Vertex, now: float, touched: dict[str, Step]) -> None:
        if not vertex.digest:
            return
        name = plain(vertex.name.replace("\n", " "))
        self.known[vertex.digest] = name
        if not (vertex.started or vertex.completed or vertex.error):
            return
        step = self._steps.get(vertex.digest)
        if step is None:
            step = Step(vertex.digest, len(self.started) + 1, name, now)
            self._steps[vertex.digest] = step
            self.started.append(step)
        step.name = name or step.name
        if step.completed and vertex.started >= step.completed and not (vertex.completed or vertex.error):
            step.completed = (
                0.0  # BuildKit's begin again: each transfer of a context is an interval of its own
            )
        step.started = step.started or vertex.started
        step.completed = vertex.completed or step.completed
        step.cached = vertex.cached or step.cached
        step.error = plain(vertex.error.replace("\n", " ")) or step.error
        touched[step.digest] = step

    def _log(self, log: Log, touched: dict[str, Step]) -> None:
        step = self._steps.get(log.vertex)
        if step is not None:  # nothing is known of others that could be shown
            step.write(log.stream, log.data, log.timestamp)
            touched[step.digest] = step
