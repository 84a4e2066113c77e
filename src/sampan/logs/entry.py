"""What a log driver is given: pieces of a container's output, and what is known of the container."""

from __future__ import annotations

import msgspec


class LogEntry(msgspec.Struct, frozen=True):
    """A line without its newline, or with `partial` a piece of one that goes on. `stream`: 1 is stdout, 2 stderr."""

    stream: int
    line: bytes
    time_ns: int
    partial: bool = False


class LogSource(msgspec.Struct, frozen=True):
    """The container: `created` as RFC 3339, `tag` expanded, `attributes` the labels and variables that were chosen."""

    id: str
    name: str
    image_id: str
    image_name: str
    command: str
    created: str
    daemon_name: str
    host: str
    tag: str
    attributes: dict[str, str]
