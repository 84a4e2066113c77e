"""`--progress plain`: BuildKit's lines out of SolveStatus objects, one step at a time, for CI logs.

Pure: `PlainProgress.feed` takes one decoded object of the stream and returns the text to be written.
"""

from __future__ import annotations

import base64
import re
from datetime import datetime

import msgspec

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


class _Vertex(msgspec.Struct, frozen=True):
    digest: str
    name: str
    started: str = ""
    completed: str = ""
    cached: bool = False
    error: str = ""


class _Log(msgspec.Struct, frozen=True):
    vertex: str
    data: str = ""
    timestamp: str = ""


class SolveStatus(msgspec.Struct, frozen=True):
    """One line of the stream, as far as plain text shows it."""

    vertexes: list[_Vertex] = []
    logs: list[_Log] = []


class PlainProgress:
    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self._ended: set[str] = set()
        self._partial: dict[str, bytes] = {}
        self._shown = ""

    def feed(self, status: SolveStatus) -> str:
        """Logs come before ends: an object that holds both ends the step after its output."""
        lines: list[str] = []
        for vertex in status.vertexes:
            if vertex.started and vertex.digest not in self._started:
                self._started[vertex.digest] = _seconds(vertex.started)
                self._names[vertex.digest] = clean(vertex.name)
                self._switch(vertex.digest, lines)
        for log in status.logs:
            self._log(log, lines)
        for vertex in status.vertexes:
            if (vertex.completed or vertex.error) and vertex.digest not in self._ended:
                self._end(vertex, lines)
        return "".join(line + "\n" for line in lines)

    def _switch(self, digest: str, lines: list[str]) -> None:
        if self._shown == digest:
            return
        if self._shown:
            lines += [f"#{self._numbers[self._shown]} ...", ""]
        number = self._numbers.setdefault(digest, len(self._numbers) + 1)
        lines.append(f"#{number} {self._names[digest]}")
        self._shown = digest

    def _log(self, log: _Log, lines: list[str]) -> None:
        if log.vertex not in self._started:
            return  # nothing is known of this step that could be shown
        *whole, rest = (self._partial.pop(log.vertex, b"") + base64.b64decode(log.data)).split(b"\n")
        if len(rest) > 65536:
            whole, rest = [*whole, rest], b""  # a line without end must not fill the memory
        if rest:
            self._partial[log.vertex] = rest
        if whole:
            self._switch(log.vertex, lines)
        passed = _seconds(log.timestamp) - self._started[log.vertex] if log.timestamp else 0.0
        lines += [self._line(log.vertex, passed, raw) for raw in whole]

    def _line(self, digest: str, passed: float, raw: bytes) -> str:
        text = clean(raw.removesuffix(b"\r").decode("utf-8", "replace"))
        return f"#{self._numbers[digest]} {max(passed, 0.0):.3f} {text}"

    def _end(self, vertex: _Vertex, lines: list[str]) -> None:
        self._ended.add(vertex.digest)
        self._names.setdefault(vertex.digest, clean(vertex.name))
        self._switch(vertex.digest, lines)
        started = self._started.get(vertex.digest)
        passed = _seconds(vertex.completed) - started if started is not None and vertex.completed else 0.0
        rest = self._partial.pop(vertex.digest, b"")
        if rest:
            lines.append(self._line(vertex.digest, passed, rest))
        if vertex.error:
            word = f"ERROR: {clean(vertex.error)}"
        else:
            word = "CACHED" if vertex.cached else f"DONE {max(passed, 0.0):.1f}s"
        lines += [f"#{self._numbers[vertex.digest]} {word}", ""]
        self._shown = ""


def clean(text: str) -> str:
    """`text` without anything that moves a cursor or sets a title; tabs stay."""
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in text)


def _seconds(timestamp: str) -> float:
    """RFC 3339 in UTC to seconds since 1970; 0.0 for what is not one."""
    match = _TIME.fullmatch(timestamp)
    if match is None:
        return 0.0
    return datetime.fromisoformat(match[1] + "+00:00").timestamp() + float(f"0.{match[2] or 0}")
