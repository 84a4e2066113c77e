"""A build's events as the lines of Docker's classic stream. Pure.

Stages run at the same time, and a reader of lines wants one after the other: the first stage that has not ended is
heard as it speaks; what later ones say is kept until their turn.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from sampan.api.solve_status import response_of
from sampan.build.events import (
    BuildEvent,
    BuildResult,
    Explanation,
    Failure,
    StageOrder,
    StepNote,
    UsedSecret,
    UsedSource,
    Vertex,
    VertexLog,
    VertexStatus,
    VertexWarning,
)
from sampan.oci.digest import Digest, hex_of

Message = dict[str, object]

MAX_KEPT = 16 << 20
"""Bytes of text that are kept of one stage; what it says beyond is left out, and that is said."""
MAX_WITHHELD = 1 << 20
"""Bytes of the output of a quiet build that are told when it fails."""
_MESSAGE = 100
"""Bytes that a message takes beside its text, roughly."""
_TOLD = ("importing cache manifest", "exporting cache")
"""Vertices without a line in the Dockerfile that are told all the same."""


@dataclass(slots=True)
class _Channel:
    kept: list[Message] = field(default_factory=list)
    size: int = 0
    left_out: int = 0
    ended: bool = False

    def keep(self, message: Message) -> None:
        self.size += _size(message)
        if self.size <= MAX_KEPT:
            self.kept.append(message)
        else:
            self.left_out += _size(message) - _MESSAGE

    def flush(self) -> Iterator[Message]:
        yield from self.kept
        if self.left_out:
            yield _line(f"[{self.left_out} characters of output were left out here]")
        self.kept, self.left_out, self.size = [], 0, 0


class ClassicBuild:
    """`feed` every event; at the end of a build, whatever it was, take what `rest` has kept."""

    def __init__(self) -> None:
        self._open: dict[int, _Channel] = {}
        self._stages: dict[Digest, int] = {}
        self._decoders: dict[tuple[Digest, int], codecs.IncrementalDecoder] = {}

    def feed(self, event: BuildEvent) -> list[Message]:
        """What is to be said now."""
        if isinstance(event, StageOrder):
            fresh = {stage: _Channel() for stage in event.stages}
            if self._open.keys().isdisjoint(fresh):  # those of another platform are built at the same time
                self._open.update(fresh)
                return []
            # A build that begins anew orders its stages again.
            said = self.rest()
            self._open = fresh
            return said
        if isinstance(event, StepNote):
            self._stages[event.vertex] = event.stage
            messages = _noted(event)
            said = self._say(event.stage, messages)
            return said + self._end(event.stage) if event.ended else said
        if isinstance(event, BuildResult):
            aux = {"ID": event.image, **response_of(event)}
            return [{"aux": aux}, *(_line(text) for text in _result(event))]
        if isinstance(event, UsedSource | UsedSecret):
            return []
        if isinstance(event, Failure):
            return self.rest()  # the error comes next
        vertex = event.digest if isinstance(event, Vertex) else event.vertex
        return self._say(self._stages.get(vertex), self._of_vertex(event))

    def rest(self) -> list[Message]:
        """Everything that is kept, in order."""
        said = [message for channel in self._open.values() for message in channel.flush()]
        self._open.clear()
        return said

    def _of_vertex(
        self, event: Vertex | VertexLog | VertexStatus | VertexWarning | Explanation
    ) -> list[Message]:
        if isinstance(event, Vertex):
            if event.completed or event.error:
                return self._last_words(event.digest)
            told = event.started and event.name.startswith(_TOLD)
            return [_line(event.name)] if told else []
        if isinstance(event, Explanation):
            return [_line(f" ---> Not cached: {reason}") for reason in event.reasons]
        if isinstance(event, VertexWarning):
            # What a check finds on a line of the Dockerfile the classic builder does not know.
            return [] if event.line else [_line(f"[Warning] {event.short}")]
        if isinstance(event, VertexStatus):
            return _transfer(event) if event.name else []
        decoder = self._decoders.get((event.vertex, event.stream))
        if decoder is None:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            self._decoders[event.vertex, event.stream] = decoder
        return _text(decoder.decode(event.data))

    def _last_words(self, vertex: Digest) -> list[Message]:
        messages: list[Message] = []
        for stream in (1, 2):
            decoder = self._decoders.pop((vertex, stream), None)
            if decoder is not None:
                messages += _text(decoder.decode(b"", final=True))
        return messages

    def _say(self, stage: int | None, messages: list[Message]) -> list[Message]:
        """Of a stage that was never opened, or has ended: now."""
        channel = self._open.get(stage) if stage is not None else None
        if channel is None or next(iter(self._open)) == stage:
            return messages
        for message in messages:
            channel.keep(message)
        return []

    def _end(self, stage: int) -> list[Message]:
        """The stage says nothing more; those behind it that ended earlier are heard now."""
        if stage not in self._open:
            return []
        self._open[stage].ended = True
        said: list[Message] = []
        while self._open:
            first, channel = next(iter(self._open.items()))
            said += channel.flush()
            if not channel.ended:
                break
            del self._open[first]
        return said


class Withheld:
    """What a quiet build does not say unless it fails: of much, the end."""

    def __init__(self, limit: int = MAX_WITHHELD) -> None:
        self._limit = limit
        self._kept: deque[Message] = deque()
        self._size = 0
        self._left_out = 0

    def keep(self, messages: list[Message]) -> None:
        for message in messages:
            if "stream" in message:
                self._kept.append(message)
                self._size += _size(message)
        while self._size > self._limit:
            gone = self._kept.popleft()
            self._size -= _size(gone)
            self._left_out += len(str(gone.get("stream", "")))

    def told(self) -> list[Message]:
        before = _line(f"[{self._left_out} characters of output were left out here]")
        return [before, *self._kept] if self._left_out else list(self._kept)


def _size(message: Message) -> int:
    return len(str(message.get("stream", ""))) + _MESSAGE


def _noted(note: StepNote) -> list[Message]:
    lines = []
    if note.number:
        lines.append(f"Step {note.number}/{note.total} : {note.text}")
    if note.triggers:
        word = "trigger" if note.triggers == 1 else "triggers"
        lines.append(f"# Executing {note.triggers} build {word}")
    if note.cached:
        lines.append(" ---> Using cache")
    if note.running:
        lines.append(f" ---> Running in {note.running}")
    if note.removed:
        lines.append(f" ---> Removed intermediate container {note.removed}")
    if note.image is not None:
        lines.append(f" ---> {_short(note.image)}")
    return [_line(line) for line in lines]


def _result(result: BuildResult) -> list[str]:
    if not result.image:
        return []
    return [
        f"Successfully built {_short(result.image)}",
        *(f"Successfully tagged {tag}" for tag in result.tags),
    ]


def _transfer(status: VertexStatus) -> list[Message]:
    message: Message = {"status": status.name}
    if status.id != status.name:
        message["id"] = status.id
    if status.current or status.total:
        message["progressDetail"] = {"current": status.current, "total": status.total}
    return [message]


def _short(image_id: str) -> str:
    return hex_of(Digest(image_id))[:12] if image_id else ""


def _line(text: str) -> Message:
    return {"stream": text + "\n"}


def _text(text: str) -> list[Message]:
    return [{"stream": text}] if text else []
