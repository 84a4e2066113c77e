"""The json-file log driver's writer: Docker's format, one JSON object a line, with rotation.

It lives in every shim, so it imports next to nothing. A chunk as it came from the container becomes one write(2).
"""

from __future__ import annotations

import os
import time

DEFAULT_MAX_SIZE = 10 * 1000 * 1000
DEFAULT_MAX_FILE = 3
PARTIAL_SIZE = 16 * 1024
"""A longer line is recorded in pieces of this many bytes; only the last has a newline (as Docker does)."""

_STREAMS = {1: "stdout", 2: "stderr"}
_NANOSECONDS = 1_000_000_000


def _escapes() -> dict[int, str]:
    """Go's encoder as Docker's json-file uses it: no short forms but \\n and \\r, HTML made harmless."""
    table = {code: f"\\u{code:04x}" for code in (*range(0x20), *map(ord, "<>&"), 0x2028, 0x2029)}
    del table[ord("\n")]  # the separator of records is put in later
    table |= {ord("\r"): "\\r", ord("\\"): "\\\\", ord('"'): '\\"'}
    # Bytes that are not UTF-8, one by one, as `surrogateescape` leaves them.
    return table | dict.fromkeys(range(0xDC80, 0xDD00), "\\ufffd")


_ESCAPES = _escapes()


def encode_text(data: bytes) -> str:
    """The inside of a JSON string, but for newlines, which stay as they are."""
    return data.decode("utf-8", "surrogateescape").translate(_ESCAPES)


def format_time(time_ns: int) -> str:
    """Go's RFC3339Nano in UTC: no trailing zeros in the fraction. `time_ns`: Unix time in nanoseconds."""
    seconds, fraction = divmod(time_ns, _NANOSECONDS)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else f"{text}Z"


class JsonFileSink:
    """Writes `path`, and keeps `path`.1 (newer) to `path`.N-1 (older).

    `max_size` in bytes, None for no rotation: a file that has reached it is not written to any more, so that it can
    exceed it by one chunk. `max_file` counts the current file too. Opening repairs a line that a crash left half
    written. One writer at a time; not thread-safe.
    """

    def __init__(
        self, path: str, max_size: int | None = DEFAULT_MAX_SIZE, max_file: int = DEFAULT_MAX_FILE
    ) -> None:
        self._path = path
        self._max_size = max_size
        self._max_file = max(1, max_file)
        self._pending: dict[int, bytes] = {}
        self._torn = False
        self._descriptor = -1
        self._size = 0
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._descriptor).st_size
        self._torn = self._size > 0 and os.pread(self._descriptor, 1, self._size - 1) != b"\n"

    def write(self, stream: int, data: bytes, time_ns: int) -> None:
        """See `sampan.runtime.logsink.LogSink`.

        Raises `OSError` when the file can't be written (a full disk): this chunk is lost, the next can be tried.
        """
        pending = self._pending.pop(stream, b"")
        if pending:
            data = pending + data
        if len(data) >= PARTIAL_SIZE:
            pieces, rest = _split(data)
        else:
            end = data.rfind(b"\n") + 1
            pieces, rest = [data[:end]] if end else [], data[end:]
        if rest:
            self._pending[stream] = rest
        if pieces:
            self._append("".join(_records(piece, stream, time_ns) for piece in pieces).encode())

    def close(self) -> None:
        """Record unfinished lines, without a newline, and close the file."""
        if self._descriptor < 0:
            return
        try:
            now = time.time_ns()
            for stream, rest in sorted(self._pending.items()):
                self._append(_records(rest, stream, now).encode())
        finally:
            self._pending.clear()
            os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, record: bytes) -> None:
        try:
            if self._max_size is not None and self._size >= self._max_size:
                self._rotate()
            if self._torn:
                record = b"\n" + record
            while record:
                # Less than everything is written when the disk is full.
                self._torn = True
                written = os.write(self._descriptor, record)
                self._size += written
                record = record[written:]
            self._torn = False
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from error

    def _rotate(self) -> None:
        """Each file takes the name of the next older; the oldest goes. Readers follow by descriptor."""
        if self._max_file == 1:
            os.ftruncate(self._descriptor, 0)
            self._size, self._torn = 0, False
            return
        # Without a current file the last try had come this far: the older ones have their new names already.
        for number in range(self._max_file - 1, 0, -1) if os.path.lexists(self._path) else ():
            newer = self._path if number == 1 else f"{self._path}.{number - 1}"
            try:
                os.rename(newer, f"{self._path}.{number}")
            except FileNotFoundError:
                pass
        full = self._descriptor
        self._open()  # when this fails (a full disk) the old descriptor is still the one that is closed at the end
        os.close(full)


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """Runs of whole lines and pieces of lines that are too long, in order; and what is to be kept back."""
    pieces: list[bytes] = []
    start = at = 0
    while True:
        newline = data.find(b"\n", at)
        end = len(data) if newline < 0 else newline
        if end - at >= PARTIAL_SIZE:
            if at > start:
                pieces.append(data[start:at])
            pieces.append(data[at : at + PARTIAL_SIZE])
            start = at = at + PARTIAL_SIZE
        elif newline < 0:
            if at > start:
                pieces.append(data[start:at])
            return pieces, data[at:]
        else:
            at = newline + 1


def _records(piece: bytes, stream: int, time_ns: int) -> str:
    """The JSON lines of whole lines, or of one part of a line."""
    text = encode_text(piece)
    after = f'","stream":"{_STREAMS[stream]}","time":"{format_time(time_ns)}"}}\n'
    if not text.endswith("\n"):
        return f'{{"log":"{text}{after}'
    between = f'\\n{after}{{"log":"'
    # Every newline ends a record; what follows the last one opens a record that is not there.
    return '{"log":"' + text.replace("\n", between)[: -len('{"log":"')]
