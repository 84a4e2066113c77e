"""The driver `fluentd`: the forward protocol, version 1, over TCP, TLS or a Unix socket.

https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1. A single entry goes in Message mode, several
that were waiting go in Forward mode; servers understand both. The container's bytes go as they are.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from sampan.errors import Invalid
from sampan.logs.background import Background
from sampan.logs.entry import LogEntry, LogSource
from sampan.logs.option_values import (
    host_and_port,
    parse_bool,
    parse_duration,
    parse_size,
    parse_unsigned,
    refuse_unknown,
    split_address,
)
from sampan.logs.partial_lines import PartialLines, Piece
from sampan.logs.stream_connection import STALL_TIMEOUT, StreamConnection
from sampan.logs.undelivered import Losses, Undelivered

if TYPE_CHECKING:
    import ssl

_DEFAULT_BUFFER = 1024 * 1024
_DEFAULT_RETRY_WAIT = 1.0
_RETRY_GROWTH = 1.5
_MAX_RETRY_WAIT = 60.0
_MAX_RETRIES = 2**31 - 1
_RECONNECT_BOUNDS = (0.1, 10.0)
_ACK_TIMEOUT = 30.0
_ACK_LIMIT = 4096
_CHUNK_SIZE = 256 * 1024
_LONGEST_PAUSE = 1.0
_BACKGROUND_BYTES = 64 * 1024 * 1024
_EVENT_TIME = 0
_PIECE_FIELDS = frozenset(("partial_message", "partial_id", "partial_ordinal", "partial_last"))
_OPTIONS = (
    "fluentd-address",
    "fluentd-async",
    "fluentd-async-connect",
    "fluentd-async-reconnect-interval",
    "fluentd-buffer-limit",
    "fluentd-max-retries",
    "fluentd-read-timeout",
    "fluentd-request-ack",
    "fluentd-retry-wait",
    "fluentd-sub-second-precision",
    "fluentd-write-timeout",
)

_Value = TypeVar("_Value")


class Settings(msgspec.Struct, frozen=True):
    """Times in seconds; `buffer_limit` in entries, of a destination that works in the background."""

    scheme: str = "tcp"
    host: str = "127.0.0.1"
    port: int = 24224
    path: str = ""
    background: bool = False
    buffer_limit: int = _DEFAULT_BUFFER
    retry_wait: float = _DEFAULT_RETRY_WAIT
    max_retries: int = _MAX_RETRIES
    reconnect_interval: float = 0.0
    sub_second: bool = False
    acknowledged: bool = False
    write_timeout: float = 0.0
    read_timeout: float = 0.0


def check_options(options: Mapping[str, str]) -> None:
    """Raises `Invalid` in Docker's words."""
    refuse_unknown("fluentd", options, _OPTIONS)
    settings(options)


def settings(options: Mapping[str, str]) -> Settings:
    """Raises `Invalid`."""

    def given(name: str, parse: Callable[[str], _Value], default: _Value) -> _Value:
        text = options.get(f"fluentd-{name}", "")
        return parse(text) if text else default

    if options.get("fluentd-async") and options.get("fluentd-async-connect"):
        raise Invalid(
            "conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect'",
            hint="fluentd-async-connect is the older name",
        )
    return msgspec.structs.replace(
        _address(options.get("fluentd-address", "")),
        background=given("async", parse_bool, False) or given("async-connect", parse_bool, False),
        buffer_limit=given("buffer-limit", parse_size, _DEFAULT_BUFFER),
        retry_wait=given("retry-wait", parse_duration, _DEFAULT_RETRY_WAIT),
        max_retries=min(given("max-retries", parse_unsigned, _MAX_RETRIES), _MAX_RETRIES),
        reconnect_interval=given("async-reconnect-interval", _reconnect_interval, 0.0),
        sub_second=given("sub-second-precision", parse_bool, False),
        acknowledged=given("request-ack", parse_bool, False),
        write_timeout=given("write-timeout", parse_duration, 0.0),
        read_timeout=given("read-timeout", parse_duration, 0.0),
    )


def _reconnect_interval(text: str) -> float:
    seconds = parse_duration(text)
    low, high = _RECONNECT_BOUNDS
    if seconds and not low <= seconds <= high:
        raise Invalid(
            "invalid value for fluentd-async-reconnect-interval: "
            f'value ("{text}") must be between 100ms and 10s'
        )
    return seconds


def _address(text: str) -> Settings:
    if not text:
        return Settings()
    scheme, rest = split_address(text) or ("tcp", text)
    wrong = f"invalid fluentd-address {text}: "
    if scheme == "unix":
        if not rest.strip("/"):
            raise Invalid(wrong + "path is empty")
        return Settings(scheme=scheme, path=rest)
    if scheme not in ("tcp", "tls"):
        raise Invalid(wrong + f"unsupported scheme: '{scheme}'")
    if "/" in rest:
        raise Invalid(wrong + "should not contain a path element")
    try:
        host, port = host_and_port(rest, text)
    except Invalid as error:
        raise Invalid(wrong + error.message) from error
    default = Settings()
    return Settings(scheme=scheme, host=host or default.host, port=default.port if port is None else port)


def _text(data: bytes) -> msgspec.Raw:
    """A msgpack string of these bytes, whether they are UTF-8 or not, as the forward protocol allows."""
    size = len(data)
    if size < 32:
        head = bytes((0xA0 | size,))
    elif size < 1 << 8:
        head = bytes((0xD9, size))
    elif size < 1 << 16:
        head = b"\xda" + size.to_bytes(2, "big")
    else:
        head = b"\xdb" + size.to_bytes(4, "big")
    return msgspec.Raw(head + data)


def _when(time_ns: int, sub_second: bool) -> int | msgspec.msgpack.Ext:
    seconds, rest = divmod(time_ns, 10**9)
    if not sub_second:
        return seconds
    return msgspec.msgpack.Ext(
        _EVENT_TIME, (seconds % (1 << 32)).to_bytes(4, "big") + rest.to_bytes(4, "big")
    )


def _record(source: LogSource, entry: LogEntry, piece: Piece | None) -> dict[str, str | msgspec.Raw]:
    """The container's own fields win over labels and variables of the same name."""
    record: dict[str, str | msgspec.Raw] = {
        name: value for name, value in source.attributes.items() if name not in _PIECE_FIELDS
    }
    record["container_id"] = source.id
    record["container_name"] = "/" + source.name.lstrip("/")
    record["source"] = "stderr" if entry.stream == 2 else "stdout"
    record["log"] = _text(entry.line)
    if piece is not None:
        record["partial_message"] = "true"
        record["partial_id"] = piece.id
        record["partial_ordinal"] = str(piece.ordinal)
        record["partial_last"] = "true" if piece.last else "false"
    return record


class Chunk(msgspec.Struct, frozen=True):
    """One message of the protocol; `id` is what the server acknowledges, empty when it is not asked to."""

    data: bytes
    entries: int
    id: str


class _Acknowledgement(msgspec.Struct):
    ack: str


def chunks(
    chosen: Settings, source: LogSource, entries: Sequence[LogEntry], pieces: Sequence[Piece | None]
) -> list[Chunk]:
    """Entries as messages of about a quarter of a megabyte. Pure but for the chunks' random ids."""
    encode = msgspec.msgpack.encode
    found: list[Chunk] = []
    events: list[msgspec.Raw] = []
    size = 0

    def finish() -> None:
        id = base64.b64encode(os.urandom(16)).decode() if chosen.acknowledged else ""
        option = {"chunk": id} if id else {}
        data = encode((source.tag, events, option))
        if len(events) == 1:  # [tag, time, record, option]: the event's two members without their array
            data = b"\x94" + encode(source.tag) + bytes(events[0])[1:] + encode(option)
        found.append(Chunk(data, len(events), id))
        events.clear()

    for entry, piece in zip(entries, pieces, strict=True):
        event = encode((_when(entry.time_ns, chosen.sub_second), _record(source, entry, piece)))
        if events and size + len(event) > _CHUNK_SIZE:
            finish()
            size = 0
        events.append(msgspec.Raw(event))
        size += len(event)
    if events:
        finish()
    return found


class FluentdDestination:
    """Sends entries to one server, whose acknowledgement it awaits if told to."""

    def __init__(self, chosen: Settings, source: LogSource) -> None:
        self.losses = Losses()
        self._settings = chosen
        self._source = source
        self._partial_lines = PartialLines()
        address = chosen.path if chosen.scheme == "unix" else (chosen.host, chosen.port)
        self._stream = StreamConnection(
            address,
            tls=_tls_context if chosen.scheme == "tls" else None,
            stall_timeout=chosen.write_timeout or STALL_TIMEOUT,
        )
        self._failures = 0
        self._not_before = 0.0
        self._reconnect_at = 0.0

    def connect(self) -> None:
        """Raises OSError when the server does not answer."""
        self._stream.connect()

    def send(self, entries: Sequence[LogEntry]) -> None:
        """Raises `Undelivered`, until `fluentd-max-retries` is used up: then the entries are given up."""
        self._pause()
        if self._settings.reconnect_interval and time.monotonic() >= self._reconnect_at:
            self._stream.close()  # the address may lead to another server now
            self._reconnect_at = time.monotonic() + self._settings.reconnect_interval
        pieces = self._partial_lines.pieces(entries)
        done = 0
        try:
            for chunk in chunks(self._settings, self._source, entries, pieces):
                self._deliver(chunk)
                done += chunk.entries
        except OSError as error:
            self._partial_lines.advance(entries[:done], pieces[:done])
            if self._given_up(progress=done > 0):
                self.losses.add(entries[done:])
                self._partial_lines.advance(entries[done:], pieces[done:])
                return
            raise Undelivered(error.strerror or str(error), delivered=done) from error
        self._failures = 0
        self._partial_lines.advance(entries, pieces)

    def close(self) -> None:
        """What a slow server has half of is finished, or counted as a loss."""
        if left := self._stream.end():
            self.losses.count(1, left)

    def _deliver(self, chunk: Chunk) -> None:
        """Raises OSError when not the whole chunk is delivered, or was acknowledged."""
        try:
            self._stream.write([chunk.data])
        except Undelivered as error:
            if error.delivered and not chunk.id:
                return  # the server is slow and has a part; the connection owes it the rest
            self._stream.forget()
            raise
        if chunk.id:
            try:
                self._await_acknowledgement(chunk.id)
            except OSError:
                self._stream.forget()
                raise

    def _await_acknowledgement(self, id: str) -> None:
        timeout = self._settings.read_timeout or _ACK_TIMEOUT
        deadline = time.monotonic() + timeout
        answer = b""
        while len(answer) < _ACK_LIMIT:
            answer += self._stream.receive(_ACK_LIMIT, max(deadline - time.monotonic(), 0.001))
            try:
                said = msgspec.msgpack.decode(answer, type=_Acknowledgement).ack
            except (UnicodeDecodeError, RecursionError):
                break  # nothing that comes will make an answer of it
            except msgspec.DecodeError:
                continue  # not all of it has come, or never will
            if said != id:
                break
            return
        raise ConnectionError(f"{self._stream.name}: the server did not acknowledge what it was sent")

    def _pause(self) -> None:
        """The time between two attempts that the options ask for. Raises `Undelivered` when more of it is left."""
        left = self._not_before - time.monotonic()
        if left > 0:
            time.sleep(min(left, _LONGEST_PAUSE))
            if left > _LONGEST_PAUSE:
                raise Undelivered(f"{self._stream.name}: waiting to try again")

    def _given_up(self, *, progress: bool) -> bool:
        """Counts a failure, and says whether it was the last that is allowed."""
        self._failures = 1 if progress else self._failures + 1
        if self._failures > self._settings.max_retries:
            self._failures = 0
            self._not_before = 0.0
            return True
        growth = _RETRY_GROWTH ** min(self._failures - 1, 32)
        self._not_before = time.monotonic() + min(self._settings.retry_wait * growth, _MAX_RETRY_WAIT)
        return False


def open(options: Mapping[str, str], source: LogSource) -> FluentdDestination | Background:
    """Raises `Invalid`, and OSError when the server does not answer and `fluentd-async` is not set."""
    chosen = settings(options)
    destination = FluentdDestination(chosen, source)
    if chosen.background:
        return Background(destination, max_entries=chosen.buffer_limit, max_bytes=_BACKGROUND_BYTES)
    try:
        destination.connect()
    except BaseException:
        destination.close()
        raise
    return destination


def _tls_context() -> ssl.SSLContext:
    """Trusts what the host trusts, as Docker's does: there is no option for a certificate."""
    import ssl

    return ssl.create_default_context()
