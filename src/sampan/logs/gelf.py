"""The driver `gelf`: the Graylog Extended Log Format 1.1 over UDP (compressed, in chunks) or TCP (NUL-terminated).

https://go2docs.graylog.org/current/getting_in_log_data/gelf.html
"""

from __future__ import annotations

import errno
import os
import re
import time
import zlib
from collections.abc import Mapping, Sequence

import msgspec

from sampan.errors import Invalid
from sampan.logs.datagrams import Datagrams
from sampan.logs.entry import LogEntry, LogSource
from sampan.logs.option_values import host_and_port, refuse_unknown, split_address
from sampan.logs.stream_connection import StreamConnection
from sampan.logs.undelivered import Losses, Undelivered, deliver_lines

_OPTIONS = (
    "gelf-address",
    "gelf-compression-level",
    "gelf-compression-type",
    "gelf-tcp-max-reconnect",
    "gelf-tcp-reconnect-delay",
)
_WINDOW = {"gzip": 31, "zlib": 15}
"""zlib's window bits, which also choose the container format."""

_BEST_SPEED = 1
_DATAGRAM = 1420
_CHUNK_HEAD = 12
_CHUNK_DATA = _DATAGRAM - _CHUNK_HEAD
_MAX_CHUNKS = 128
_ERROR, _INFO = 3, 6
_LONGEST_DELAY = 60
_NOT_IN_A_NAME = re.compile(r"[^\w.-]", re.ASCII)


class Settings(msgspec.Struct, frozen=True):
    """`reconnect_delay` in seconds."""

    scheme: str
    host: str
    port: int
    compression: str = "gzip"
    level: int = _BEST_SPEED
    max_reconnect: int = 3
    reconnect_delay: int = 1


def check_options(options: Mapping[str, str]) -> None:
    """Raises `Invalid` in Docker's words."""
    settings(options)
    for name in options:
        try:
            refuse_unknown("gelf", {name: ""}, _OPTIONS)
        except Invalid as error:
            raise Invalid(f'unknown log opt "{name}" for gelf log driver') from error


def settings(options: Mapping[str, str]) -> Settings:
    """Raises `Invalid`."""
    chosen = _address(options.get("gelf-address", ""))
    for name in ("gelf-compression-level", "gelf-compression-type"):
        if name in options and chosen.scheme != "udp":
            raise Invalid("compression is only supported on UDP")
    for name in ("gelf-tcp-max-reconnect", "gelf-tcp-reconnect-delay"):
        if name in options and chosen.scheme != "tcp":
            raise Invalid(f'"{name}" is only valid for TCP')
    compression = options.get("gelf-compression-type", chosen.compression)
    if compression not in (*_WINDOW, "none"):
        raise _unknown("gelf-compression-type", compression)
    level = options.get("gelf-compression-level", str(chosen.level))
    if not re.fullmatch(r"-1|\+?[0-9]", level, re.ASCII):
        raise _unknown("gelf-compression-level", level)
    return msgspec.structs.replace(
        chosen,
        compression=compression,
        level=int(level),
        max_reconnect=_count(options, "gelf-tcp-max-reconnect", chosen.max_reconnect),
        reconnect_delay=_count(options, "gelf-tcp-reconnect-delay", chosen.reconnect_delay),
    )


def _unknown(name: str, value: str) -> Invalid:
    return Invalid(f'unknown value "{value}" for log opt "{name}" for gelf log driver')


def _count(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Invalid(f'"{name}" must be a positive integer')
    return int(text)


def _address(text: str) -> Settings:
    if not text:
        raise Invalid("gelf-address is a required parameter")
    parts = split_address(text)
    if parts is None or parts[0] not in ("udp", "tcp"):
        raise Invalid(f"gelf-address should be in form proto://address, got {text}")
    host, port = host_and_port(parts[1].partition("/")[0], text)
    if port is None:
        raise Invalid("gelf: please provide gelf-address as proto://host:port")
    return Settings(parts[0], host or "localhost", port)


def additional_fields(source: LogSource) -> dict[str, str]:
    """The fields of every message of a container. Its own win over labels and variables of the same name.

    Names have the characters that GELF allows them; `_id` is not allowed, so that such a label is `__id`.
    """
    fields: dict[str, str] = {}
    for key, value in source.attributes.items():
        name = _NOT_IN_A_NAME.sub("_", key)
        name = name if name.startswith("_") else "_" + name
        fields["__id" if name == "_id" else name] = value
    return fields | {
        "_container_id": source.id,
        "_container_name": source.name.removeprefix("/"),
        "_image_id": source.image_id,
        "_image_name": source.image_name,
        "_command": source.command,
        "_tag": source.tag,
        "_created": source.created,
    }


def message(host: str, fields: Mapping[str, str], entry: LogEntry) -> bytes:
    """Pure: one message as JSON. Bytes that are no UTF-8 become U+FFFD, as with Docker; time in milliseconds."""
    return msgspec.json.encode(
        {
            "version": "1.1",
            "host": host,
            "short_message": entry.line.decode("utf-8", "replace"),
            "timestamp": entry.time_ns // 10**6 / 1000,
            "level": _ERROR if entry.stream == 2 else _INFO,
            **fields,
        }
    )


def datagrams(payload: bytes, id: bytes) -> list[bytes]:
    """Pure: the payload in one datagram, or in chunks of message `id` (8 bytes). Empty when it needs too many."""
    if len(payload) <= _DATAGRAM:
        return [payload]
    total = -(-len(payload) // _CHUNK_DATA)
    if total > _MAX_CHUNKS:
        return []
    head = b"\x1e\x0f" + id
    return [
        head + bytes((number, total)) + payload[number * _CHUNK_DATA : (number + 1) * _CHUNK_DATA]
        for number in range(total)
    ]


class GelfDestination:
    """Sends entries to one server. Empty lines are no messages, as with Docker."""

    def __init__(self, chosen: Settings, source: LogSource) -> None:
        self.losses = Losses()
        self._settings = chosen
        self._host = source.host
        self._fields = additional_fields(source)
        address = (chosen.host, chosen.port)
        self._datagrams = Datagrams(address) if chosen.scheme == "udp" else None
        self._stream = StreamConnection(address) if chosen.scheme == "tcp" else None

    def connect(self) -> None:
        """Raises OSError when the server does not answer."""
        if self._stream is not None:
            self._stream.connect()
        elif self._datagrams is not None:
            self._datagrams.connect()

    def send(self, entries: Sequence[LogEntry]) -> None:
        """Raises `Undelivered`; over TCP after the reconnections that the options allow."""
        deliver_lines(entries, self._deliver)

    def _deliver(self, entries: Sequence[LogEntry]) -> None:
        if self._stream is not None:
            self._send_stream(self._stream, entries)
        else:
            self._send_datagrams(entries)

    def close(self) -> None:
        """What a slow server has half of is finished, or counted as a loss."""
        if self._stream is not None and (left := self._stream.end()):
            self.losses.count(1, left)
        if self._datagrams is not None:
            self._datagrams.close()

    def _send_stream(self, stream: StreamConnection, entries: Sequence[LogEntry]) -> None:
        records = [message(self._host, self._fields, entry) + b"\0" for entry in entries]
        done, tries = 0, 0
        while True:
            try:
                stream.write(records[done:])
                return
            except Undelivered as error:
                tries = 1 if error.delivered else tries + 1
                done += error.delivered
                if tries > self._settings.max_reconnect or isinstance(error.__cause__, TimeoutError):
                    error.delivered = done
                    raise
            time.sleep(min(self._settings.reconnect_delay, _LONGEST_DELAY))

    def _send_datagrams(self, entries: Sequence[LogEntry]) -> None:
        assert self._datagrams is not None
        for done, entry in enumerate(entries):
            payload = self._compressed(message(self._host, self._fields, entry))
            parts = datagrams(payload, os.urandom(8))
            if not parts:
                self.losses.add((entry,))
            try:
                for part in parts:
                    self._datagrams.send(part)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise Undelivered(error.strerror or str(error), delivered=done) from error
                self.losses.add((entry,))

    def _compressed(self, text: bytes) -> bytes:
        window = _WINDOW.get(self._settings.compression)
        if window is None:
            return text
        compressor = zlib.compressobj(self._settings.level, zlib.DEFLATED, window)
        return compressor.compress(text) + compressor.flush()


def open(options: Mapping[str, str], source: LogSource) -> GelfDestination:
    """Raises `Invalid`, and OSError when the server does not answer."""
    destination = GelfDestination(settings(options), source)
    try:
        destination.connect()
    except OSError as error:
        destination.close()
        address = options.get("gelf-address", "").partition("://")[2]
        raise OSError(
            error.errno, f"gelf: cannot connect to GELF endpoint: {address} {error.strerror}"
        ) from error
    return destination
