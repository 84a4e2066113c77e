"""What the engine tells of a build with `progress=rawjson`, as values: BuildKit's SolveStatus, read leniently.

Nothing here raises: what has another type than it should is as good as absent, so that an engine of another
version, or one that lies, spoils a line of the display and not the build's result.
"""

from __future__ import annotations

import binascii

from sampan.cli import units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNREADABLE = b"(output that can't be read)\n"
_MAX = 2**63 - 1
_LISTS = ("vertexes", "statuses", "logs", "warnings")


class Vertex:
    """A step. Times are seconds since 1970, 0.0 for what has not happened."""

    __slots__ = ("cached", "completed", "digest", "error", "name", "started")

    def __init__(self, said: dict[str, Any]) -> None:
        self.digest = _text(said, "digest")
        self.name = _text(said, "name")
        self.started = seconds(_text(said, "started"))
        self.completed = seconds(_text(said, "completed"))
        self.cached = said.get("cached") is True
        self.error = _text(said, "error")


class Transfer:
    """How far something inside a step has come; `current` and `total` in bytes. `name`: what is done to `id`."""

    __slots__ = ("completed", "current", "id", "name", "started", "timestamp", "total", "vertex")

    def __init__(self, said: dict[str, Any]) -> None:
        self.id = _text(said, "id")
        self.vertex = _text(said, "vertex")
        self.name = _text(said, "name")
        self.current = _number(said, "current")
        self.total = _number(said, "total")
        self.timestamp = seconds(_text(said, "timestamp"))
        self.started = seconds(_text(said, "started"))
        self.completed = seconds(_text(said, "completed"))

    @property
    def label(self) -> str:
        """BuildKit's ids say what is done, those of pulls don't."""
        return self.id if self.name in self.id else f"{self.id} {self.name}"


class Log:
    """What a step's process wrote; `stream`: 1 or 2."""

    __slots__ = ("data", "stream", "timestamp", "vertex")

    def __init__(self, said: dict[str, Any]) -> None:
        self.vertex = _text(said, "vertex")
        self.timestamp = seconds(_text(said, "timestamp"))
        self.stream = 2 if _number(said, "stream") == 2 else 1
        self.data = _bytes(said.get("data"))


class Warning:
    """`line` counts from 1; 0 without a place in a file."""

    __slots__ = ("detail", "file", "line", "short", "url", "vertex")

    def __init__(self, said: dict[str, Any]) -> None:
        self.vertex = _text(said, "vertex")
        self.short = _bytes(said.get("short")).decode("utf-8", "replace").strip()
        detail = said.get("detail")
        parts = detail if isinstance(detail, list) else []
        self.detail = [_bytes(part).decode("utf-8", "replace") for part in parts]
        self.url = _text(said, "url")
        self.file = _text(_object(said.get("sourceInfo")), "filename")
        ranges = _objects(said, "range")
        self.line = _number(_object(ranges[0].get("start")), "line") if ranges else 0


class SolveStatus:
    """One line of the stream."""

    __slots__ = ("logs", "transfers", "vertexes", "warnings")

    def __init__(self, said: dict[str, Any]) -> None:
        self.vertexes = [Vertex(each) for each in _objects(said, "vertexes")]
        self.transfers = [Transfer(each) for each in _objects(said, "statuses")]
        self.logs = [Log(each) for each in _objects(said, "logs")]
        self.warnings = [Warning(each) for each in _objects(said, "warnings")]


def is_status(message: Any) -> bool:
    """Whether a line is a SolveStatus, and not a result, an error, or a line of Docker's classic stream."""
    return isinstance(message, dict) and any(name in message for name in _LISTS)


def seconds(timestamp: str) -> float:
    """RFC 3339 to seconds since 1970; 0.0 for what is not one."""
    try:
        whole, nanoseconds = units.parse_rfc3339(timestamp)
    except ValueError:
        return 0.0
    return whole + nanoseconds / 1e9


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    return value if isinstance(value, str) else ""


def _bytes(value: object) -> bytes:
    """Out of base64, as Go's JSON has bytes."""
    try:
        return binascii.a2b_base64(value) if isinstance(value, str) else b""
    except ValueError:  # binascii.Error, or letters that are not ASCII
        return UNREADABLE


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(said: dict[str, Any], name: str) -> int:
    value = said.get(name)
    return min(value, _MAX) if isinstance(value, int) and value > 0 else 0


def _objects(said: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = said.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
