"""Reading a container's entries back from the journal, through the host's `journalctl`.

Its export format is binary-safe: https://systemd.io/JOURNAL_EXPORT_FORMATS.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO

from sampan.errors import Unavailable
from sampan.logs.journald import FIXED_FIELDS
from sampan.logs.reader import LogRecord

_MOST_BYTES = 64 * 1024 * 1024
"""Of one field: what the journal itself accepts at most is less."""
_STDERR_PRIORITY = b"3"


def command(
    container_id: str,
    *,
    since_ns: int | None = None,
    until_ns: int | None = None,
    tail: int | None = None,
    follow: bool = False,
    directory: str | None = None,
) -> list[str]:
    """Pure: the command that prints a container's entries; `directory`: of another journal than the host's."""
    words = ["journalctl", "--quiet", "--no-pager", "--output=export", "--all"]
    if directory is not None:
        words.append(f"--directory={directory}")
    if since_ns is not None:
        words.append(f"--since=@{since_ns // 10**9}.{since_ns % 10**9 // 1000:06}")
    if until_ns is not None:
        words.append(f"--until=@{until_ns // 10**9}.{until_ns % 10**9 // 1000:06}")
    if follow:
        words.append("--follow")
    # Following alone would begin with the last ten.
    words.append(f"--lines={'all' if tail is None else tail}")
    return [*words, f"CONTAINER_ID_FULL={container_id}"]


def entries(stream: IO[bytes]) -> Iterator[dict[str, bytes]]:
    """The entries of an export, as their fields. An entry that is cut off at the end is not one."""
    fields: dict[str, bytes] = {}
    while line := stream.readline(_MOST_BYTES):
        if line == b"\n":
            if fields:
                yield fields
            fields = {}
            continue
        if not line.endswith(b"\n"):
            return
        name, equals, value = line[:-1].partition(b"=")
        if not equals:
            size = int.from_bytes(stream.read(8), "little")
            if size > _MOST_BYTES:
                return
            value = stream.read(size)
            if len(value) < size or stream.read(1) != b"\n":
                return
        fields[name.decode("ascii", "replace")] = value


def record(fields: dict[str, bytes]) -> LogRecord | None:
    """Pure: an entry as a log record, with the time that the driver gave it. None for what the driver did not write."""
    message = fields.get("MESSAGE")
    if message is None or "CONTAINER_ID_FULL" not in fields:
        return None
    partial = fields.get("CONTAINER_PARTIAL_MESSAGE") == b"true"
    attributes = {
        name: value.decode("utf-8", "replace")
        for name, value in fields.items()
        if not name.startswith("_") and not FIXED_FIELDS.fullmatch(name)
    }
    return LogRecord(
        stream=2 if fields.get("PRIORITY") == _STDERR_PRIORITY else 1,
        time=_time(fields),
        line=message if partial else message + b"\n",
        attributes=attributes or None,
    )


def _time(fields: dict[str, bytes]) -> str:
    written = fields.get("SYSLOG_TIMESTAMP", b"").decode("ascii", "replace")
    if written.endswith("Z"):
        return written
    microseconds = int(fields.get("__REALTIME_TIMESTAMP", b"0"))
    moment = datetime.fromtimestamp(microseconds // 10**6, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{microseconds % 10**6:06}000Z"


def start(words: list[str]) -> subprocess.Popen[bytes]:
    """Run `command`. Raises `Unavailable` when the host has no journalctl."""
    try:
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise Unavailable("journalctl is not on this host, so its journal can't be read") from error


def records(child: subprocess.Popen[bytes]) -> Iterator[LogRecord]:
    """What a started `command` prints, until it ends. Blocks; ends it when the iterator is closed."""
    assert child.stdout is not None
    try:
        for fields in entries(child.stdout):
            found = record(fields)
            if found is not None:
                yield found
    finally:
        child.kill()
        child.stdout.close()
        child.wait()


def read(
    container_id: str, *, since_ns: int | None = None, until_ns: int | None = None, tail: int | None = None
) -> Iterator[LogRecord]:
    """A container's records, oldest first. Blocks. Times are Unix time in nanoseconds. Raises `Unavailable`."""
    yield from records(start(command(container_id, since_ns=since_ns, until_ns=until_ns, tail=tail)))
