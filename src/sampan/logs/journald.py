"""The driver `journald`: systemd's native journal protocol on its datagram socket.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL. An entry too large for a datagram goes as a sealed memory file.
"""

from __future__ import annotations

import array
import errno
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence

from sampan.linux.memfd import sealed_data
from sampan.logs.entry import LogEntry, LogSource
from sampan.logs.option_values import refuse_unknown
from sampan.logs.partial_lines import PartialLines, Piece
from sampan.logs.undelivered import Losses, Undelivered

SOCKET = "/run/systemd/journal/socket"
_TIMEOUT = 10.0
_ERROR, _INFO = b"3", b"6"
_LONGEST_NAME = 64
_NOT_IN_A_NAME = re.compile(r"[^A-Z0-9_]")
FIXED_FIELDS = re.compile(
    r"MESSAGE|MESSAGE_ID|PRIORITY|IMAGE_NAME|CONTAINER_(?:ID|ID_FULL|NAME|TAG|PARTIAL_\w+|LOG_\w+)"
    r"|SYSLOG_\w+|CODE_\w+|ERRNO|TID|UNIT|USER_UNIT|INVOCATION_ID|USER_INVOCATION_ID|OBJECT_\w+|DOCUMENTATION"
)
"""Names of fields that mean something to the journal or come from the driver."""


def check_options(options: Mapping[str, str]) -> None:
    """Raises `Invalid` in Docker's words."""
    refuse_unknown("journald", options, ())


def field(name: str, value: bytes) -> bytes:
    """Pure: one field. A value with a newline is preceded by its length, so that it cannot end the field."""
    if b"\n" not in value:
        return b"%b=%b\n" % (name.encode(), value)
    return b"%b\n%b%b\n" % (name.encode(), len(value).to_bytes(8, "little"), value)


def field_name(key: str) -> str:
    """Pure: a label's or variable's name as journald takes names, or empty when nothing of it is left.

    Names that mean something to the journal or come from the driver are no label's to set.
    """
    name = _NOT_IN_A_NAME.sub("_", key.upper()).lstrip("_")[:_LONGEST_NAME]
    if FIXED_FIELDS.fullmatch(name) or name[:1].isdigit():
        name = f"LABEL_{name}"[:_LONGEST_NAME]
    return name


def container_fields(source: LogSource) -> bytes:
    """Pure: the fields that every entry of a container has."""
    values = {
        "CONTAINER_ID": source.id[:12],
        "CONTAINER_ID_FULL": source.id,
        "CONTAINER_NAME": source.name.removeprefix("/"),
        "CONTAINER_TAG": source.tag,
        "IMAGE_NAME": source.image_name,
        "SYSLOG_IDENTIFIER": source.tag,
    }
    for key, value in source.attributes.items():
        name = field_name(key)
        if name:
            values[name] = value
    return b"".join(field(name, value.encode("utf-8", "replace")) for name, value in values.items())


def entry_fields(entry: LogEntry, piece: Piece | None, ordinal: int) -> bytes:
    """Pure: the fields of one entry; `ordinal` counts the entries of this destination."""
    fields = [
        field("PRIORITY", _ERROR if entry.stream == 2 else _INFO),
        field("MESSAGE", entry.line),
        field("SYSLOG_TIMESTAMP", _rfc3339(entry.time_ns)),
        field("CONTAINER_LOG_ORDINAL", b"%d" % ordinal),
    ]
    if piece is not None:
        fields.append(field("CONTAINER_PARTIAL_ID", piece.id.encode()))
        fields.append(field("CONTAINER_PARTIAL_ORDINAL", b"%d" % piece.ordinal))
        fields.append(field("CONTAINER_PARTIAL_LAST", b"true" if piece.last else b"false"))
        if not piece.last:
            fields.append(field("CONTAINER_PARTIAL_MESSAGE", b"true"))
    return b"".join(fields)


def _rfc3339(time_ns: int) -> bytes:
    seconds, rest = divmod(time_ns, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09}Z".encode()


class JournaldDestination:
    """Writes entries into the host's journal."""

    def __init__(self, source: LogSource, path: str = SOCKET) -> None:
        self.losses = Losses()
        self._path = path
        self._fields = container_fields(source) + field("CONTAINER_LOG_EPOCH", os.urandom(32).hex().encode())
        self._partial_lines = PartialLines()
        self._ordinal = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_TIMEOUT)

    def check(self) -> None:
        """Raises OSError when nobody reads the journal's socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(self._path)
            except OSError as error:
                raise OSError(error.errno, "journald is not enabled on this host") from error

    def send(self, entries: Sequence[LogEntry]) -> None:
        """Raises `Undelivered`."""
        pieces = self._partial_lines.pieces(entries)
        for place, entry in enumerate(entries):
            try:
                self._send(entry_fields(entry, pieces[place], self._ordinal + 1) + self._fields)
            except OSError as error:
                self._partial_lines.advance(entries[:place], pieces[:place])
                raise Undelivered(f"{self._path}: {error.strerror or error}", delivered=place) from error
            self._ordinal += 1
        self._partial_lines.advance(entries, pieces)

    def close(self) -> None:
        self._socket.close()

    def _send(self, data: bytes) -> None:
        # Not connected: a journald that was started again is found by its path.
        try:
            self._socket.sendto(data, self._path)
            return
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
        descriptor = sealed_data(data, "log entry")
        try:
            rights = array.array("i", [descriptor])
            self._socket.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], 0, self._path)
        finally:
            os.close(descriptor)


def open(options: Mapping[str, str], source: LogSource) -> JournaldDestination:
    """Raises OSError when the host has no journald."""
    destination = JournaldDestination(source)
    try:
        destination.check()
    except BaseException:
        destination.close()
        raise
    return destination
