"""What the steps of a build say while they are at work: events, in the order that `events.py` promises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sampan.build.events import (
    Explanation,
    StepNote,
    UsedSource,
    Vertex,
    VertexLog,
    VertexStatus,
    VertexWarning,
)
from sampan.build.solver.cache import key_of
from sampan.build.worker import Report
from sampan.oci.digest import Digest
from sampan.registry.progress import Progress

INTERNAL = -1
"""The stage of what belongs to none."""


@dataclass(frozen=True, slots=True)
class Name:
    vertex: Digest
    text: str = ""
    """Empty for an instruction that is no vertex: it changes the configuration only."""
    inputs: tuple[Digest, ...] = ()


def vertex_digest(*parts: str) -> Digest:
    """Tells vertices of a build apart; it says nothing of their content."""
    return Digest("sha256:" + key_of("vertex", parts))


@dataclass(slots=True)
class Voice:
    """Of one vertex, or of an instruction that is none (`name` is empty then)."""

    report: Report
    name: Name
    stage: int = INTERNAL
    cached: bool = False
    _started: str = ""
    _transfers: dict[str, str] = field(default_factory=dict)
    """Of transfers under way: when each began."""

    @property
    def vertex(self) -> Digest:
        return self.name.vertex

    def start(self) -> None:
        self._started = timestamp()
        if self.name.text:
            self.report(Vertex(self.vertex, self.name.text, self.name.inputs, self._started))

    def end(self, error: str = "") -> None:
        if self.name.text:
            self.report(
                Vertex(
                    self.vertex,
                    self.name.text,
                    self.name.inputs,
                    self._started,
                    timestamp(),
                    self.cached,
                    error,
                )
            )

    def found(self) -> None:
        """The step need not be done: its result was in the cache."""
        self.cached = True
        self.report(StepNote(self.stage, self.vertex, cached=True))

    def running(self, container: str) -> None:
        self.report(StepNote(self.stage, self.vertex, running=container))

    def removed(self, container: str) -> None:
        self.report(StepNote(self.stage, self.vertex, removed=container))

    def image(self, image_id: Digest | None) -> None:
        self.report(StepNote(self.stage, self.vertex, image=image_id or ""))

    def explain(self, reasons: tuple[str, ...]) -> None:
        self.report(Explanation(self.vertex, reasons))

    def log(self, stream: int, data: bytes) -> None:
        self.report(VertexLog(self.vertex, stream, data, timestamp()))

    def warn(self, short: str) -> None:
        self.report(VertexWarning(self.vertex, short))

    def used(self, uri: str, algorithm: str, digest: str, platform: str = "") -> None:
        """`uri` has no credentials in it; `platform` is an image's."""
        self.report(UsedSource(self.vertex, uri, algorithm, digest, platform))

    def transfer(self, progress: Progress) -> None:
        """Something that is pulled or downloaded."""
        now = timestamp()
        identity = progress.id or progress.status
        if not identity:
            return
        started = self._transfers.setdefault(f"{identity} {progress.status}", now)
        whole = progress.current >= progress.total
        self.report(
            VertexStatus(
                identity,
                self.vertex,
                progress.status,
                progress.current,
                progress.total,
                now,
                started,
                now if whole else "",
            )
        )

    def moved(self, what: str, current: int, *, done: bool = False) -> None:
        """So many bytes of something whose size nobody knows before: "transferring context:"."""
        now = timestamp()
        started = self._transfers.setdefault(what, now)
        self.report(
            VertexStatus(
                what,
                self.vertex,
                current=current,
                timestamp=now,
                started=started,
                completed=now if done else "",
            )
        )

    def did(self, what: str) -> None:
        """Something small, done: "naming to …"."""
        now = timestamp()
        self.report(VertexStatus(what, self.vertex, timestamp=now, started=now, completed=now))


@contextlib.contextmanager
def speaking(report: Report, name: Name, stage: int = INTERNAL) -> Iterator[Voice]:
    """The vertex starts, and ends with the body: with its error when it raises one."""
    voice = Voice(report, name, stage)
    voice.start()
    try:
        yield voice
    except Exception as error:
        voice.end(str(error) or type(error).__name__)
        raise
    voice.end()


def internal(report: Report, text: str) -> contextlib.AbstractContextManager[Voice]:
    """A vertex that no line of the Dockerfile asks for: `[internal] load build context`, `exporting to image`."""
    return speaking(report, Name(vertex_digest(text), text))


def timestamp() -> str:
    """Now, as Docker writes it: RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
