"""The json-file log driver's writer: Docker's format, one JSON object a line, with rotation.

It lives in every shim, so it imports next to nothing. A chunk as it came from the container becomes one write(2).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from sampan.logs.lines import PARTIAL_SIZE, Lines
from sampan.logs.rotation import RotatingFile
from sampan.runtime.logsink import LogSink
from sampan.runtime.loop import Loop

__all__ = ["DEFAULT_MAX_FILE", "DEFAULT_MAX_SIZE", "PARTIAL_SIZE", "JsonFileSink", "format_time"]

DEFAULT_MAX_SIZE = 10 * 1000 * 1000
DEFAULT_MAX_FILE = 3

_STREAMS = {1: b"stdout", 2: b"stderr"}
_NANOSECONDS = 1_000_000_000
_FEW = 8
"""So many different characters to be escaped are replaced one after the other."""
_BEGIN = b'{"log":"'
_AT_ONCE = 512 * 1024
"""Bytes of JSON of more than one record that are made and written at once: a shim's memory does not shrink again."""
_AROUND = 80
"""Bytes of JSON around a line."""
_PORTION = 8 * 1024


def _escapes() -> dict[int, str]:
    """Go's encoder as Docker's json-file uses it: no short forms but \\n and \\r, HTML made harmless."""
    table = {code: f"\\u{code:04x}" for code in (*range(0x20), *map(ord, "<>&"), 0x2028, 0x2029)}
    del table[ord("\n")]  # the separator of records is put in later
    table |= {ord("\r"): "\\r", ord("\\"): "\\\\", ord('"'): '\\"'}
    # Bytes that are not UTF-8, one by one, as `surrogateescape` leaves them.
    return table | dict.fromkeys(range(0xDC80, 0xDD00), "\\ufffd")


_ESCAPES = _escapes()
_PLAIN = bytes(code for code in range(0x80) if code not in _ESCAPES)
_RARE = (b"\xe2\x80\xa8", b"\xe2\x80\xa9")
"""U+2028 and U+2029 in UTF-8."""


def encode(data: bytes) -> bytes:
    """The inside of a JSON string, but for newlines, which stay as they are. Plain text costs one look at it."""
    special = data.translate(None, _PLAIN)
    if not special:
        return data
    found = set(special)
    if not special.isascii():
        if not _is_utf8(data) or _RARE[0] in data or _RARE[1] in data:
            return data.decode("utf-8", "surrogateescape").translate(_ESCAPES).encode()
        found = {code for code in found if code < 0x80}
    if len(found) > _FEW:
        return data.decode("utf-8", "surrogateescape").translate(_ESCAPES).encode()
    if 0x5C in found:
        data = data.replace(b"\\", b"\\\\")  # before those that bring backslashes
        found.remove(0x5C)
    for code in found:
        data = data.replace(bytes((code,)), _ESCAPES[code].encode())
    return data


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _portions(piece: bytes) -> Iterator[bytes]:
    """Runs of whole lines; more than one when the lines are so short that their JSON is many times as long."""
    if len(piece) + piece.count(b"\n") * _AROUND <= _AT_ONCE:
        yield piece
        return
    at = 0
    while at < len(piece):
        end = piece.find(b"\n", at + _PORTION) + 1 or len(piece)
        yield piece[at:end]
        at = end


def encode_attributes(attributes: Mapping[str, str]) -> bytes:
    """The member `attrs` with the comma before it, names in order; empty without any."""
    if not attributes:
        return b""

    def text(value: str) -> bytes:
        return encode(value.encode("utf-8", "surrogateescape")).replace(b"\n", b"\\n")

    members = b",".join(b'"%b":"%b"' % (text(key), text(attributes[key])) for key in sorted(attributes))
    return b',"attrs":{%b}' % members


def format_time(time_ns: int) -> str:
    """Go's RFC3339Nano in UTC: no trailing zeros in the fraction. `time_ns`: Unix time in nanoseconds."""
    seconds, fraction = divmod(time_ns, _NANOSECONDS)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else f"{text}Z"


class JsonFileSink(LogSink):
    """Writes `path`, and keeps older files beside it; see `RotatingFile`. `attributes` are recorded with each line."""

    def __init__(
        self,
        path: str,
        max_size: int | None = DEFAULT_MAX_SIZE,
        max_file: int = DEFAULT_MAX_FILE,
        *,
        compress: bool = False,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        self._lines = Lines()
        self._attributes = encode_attributes(attributes) if attributes else b""
        self._file = RotatingFile(path, max_size, max_file, compress=compress)

    def join(self, loop: Loop, changed: object = None) -> None:
        self._file.join(loop)

    def write(self, stream: int, data: bytes, time_ns: int) -> None:
        """See `sampan.runtime.logsink.LogSink`.

        Raises `OSError` when the file can't be written (a full disk): this chunk is lost, the next can be tried.
        """
        records: list[bytes] = []
        size = 0
        for piece in self._lines.feed(stream, data):
            for part in _portions(piece):
                record = self._records(part, stream, time_ns)
                if records and size + len(record) > _AT_ONCE:
                    self._file.append(b"".join(records))
                    records, size = [], 0
                records.append(record)
                size += len(record)
        if records:
            self._file.append(b"".join(records))

    def close(self) -> None:
        """Record unfinished lines, without a newline, and close the file."""
        if self._file.closed:
            return
        try:
            now = time.time_ns()
            for stream, rest in self._lines.flush():
                self._file.append(self._records(rest, stream, now))
        finally:
            self._file.close()

    def _records(self, piece: bytes, stream: int, time_ns: int) -> bytes:
        """The JSON lines of whole lines, or of one part of a line."""
        moment = format_time(time_ns).encode()
        after = b'","stream":"%b"%b,"time":"%b"}\n' % (_STREAMS[stream], self._attributes, moment)
        text = encode(piece)
        if not text.endswith(b"\n"):
            return b"".join((_BEGIN, text, after))
        after = b"\\n" + after
        # The last newline ends the last record and begins none.
        return b"".join((_BEGIN, text[:-1].replace(b"\n", after + _BEGIN), after))
