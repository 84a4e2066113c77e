"""Whatever a container writes: each protocol carries it, and no more than it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.errors import Invalid
from sampan.logs import fluentd, gelf, journald, option_values
from sampan.logs.awslogs import events
from sampan.logs.awslogs.events import Assembler
from sampan.logs.partial_lines import PartialLines
from sampan.logs.stream_connection import whole_records
from sampan.logs.syslog import Formatter, Settings
from sampan.testing.log_drivers import entry, source

LINES = st.lists(st.binary(max_size=60), max_size=8)
TEXTS = st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4)


def journal_fields(data: bytes) -> list[tuple[str, bytes]]:
    found = []
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + size], data[9 + size :]
        found.append((name.decode(), value))
    return found


@given(st.binary(max_size=80), TEXTS)
def test_journald_reads_each_field_once_and_as_it_was(line: bytes, attributes: dict[str, str]) -> None:
    made = source(attributes=attributes)
    fields = journal_fields(journald.entry_fields(entry(line), None, 1) + journald.container_fields(made))
    names = [name for name, _ in fields]
    assert dict(fields)["MESSAGE"] == line
    assert len(names) == len(set(names))
    for (
        name
    ) in names:  # as systemd-journald requires: letters, digits, underscores; neither of the latter first
        assert name.isascii() and name.replace("_", "A").isalnum() and name.upper() == name
        assert name[0].isalpha() and len(name) <= 64


@given(LINES, st.text(max_size=20))
def test_syslog_records_on_a_stream_are_as_many_as_the_lines(lines: list[bytes], tag: str) -> None:
    formatter = Formatter(Settings(format="rfc5424"), "vm", tag, 1)
    stream = b"".join(formatter.message(entry(line)) for line in lines)
    assert stream.count(b"\n") == len(lines)
    assert all(record.startswith(b"<30>1 ") for record in stream.split(b"\n")[:-1])


@given(LINES, TEXTS)
def test_fluentd_events_are_as_many_as_the_lines(lines: list[bytes], attributes: dict[str, str]) -> None:
    made = source(attributes=attributes)
    texts = [line.decode("ascii", "replace").encode("ascii", "replace") for line in lines]
    entries = [entry(text) for text in texts]
    got: list[Any] = []
    for chunk in fluentd.chunks(fluentd.Settings(), made, entries, [None] * len(entries)):
        message = msgspec.msgpack.decode(chunk.data)
        got += [message[2]] if len(message) == 4 else [record for _, record in message[1]]
    assert [record["log"].encode() for record in got] == texts
    assert all(record["container_id"] == made.id for record in got)


@given(st.binary(max_size=200), TEXTS)
def test_gelf_messages_are_json_without_nul(line: bytes, attributes: dict[str, str]) -> None:
    made = source(attributes=attributes)
    message = gelf.message("vm", gelf.additional_fields(made), entry(line))
    assert b"\0" not in message
    decoded = json.loads(message)
    assert decoded["short_message"] == line.decode("utf-8", "replace")
    assert decoded["host"] == "vm" and decoded["_container_id"] == made.id


@given(st.lists(st.tuples(st.binary(max_size=20), st.booleans()), max_size=12))
def test_awslogs_events_hold_every_line_within_the_limit(pieces: list[tuple[bytes, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "MAX_MESSAGE", 16)
        assembler = Assembler()
        got = [event for line, partial in pieces for event in assembler.feed(entry(line, partial=partial))]
        got += assembler.flush()
    assert all(len(event.text.encode()) <= 16 and event.text for event in got)
    written = b"".join(line for line, _ in pieces)
    if written.isascii():
        assert "".join(event.text for event in got) == written.decode()


@given(st.lists(st.tuples(st.sampled_from((1, 2)), st.booleans()), max_size=12), st.lists(st.integers(0, 4)))
def test_pieces_are_numbered_however_often_they_are_sent(
    kinds: list[tuple[int, bool]], delivered: list[int]
) -> None:
    rest = [entry(b"x", stream=stream, partial=partial) for stream, partial in kinds]
    lines = PartialLines()
    found = []
    for count in [*delivered, len(rest)]:
        pieces = lines.pieces(rest)
        lines.advance(rest[:count], pieces[:count])
        found += pieces[:count]
        rest = rest[count:]
    ordinals = {1: 0, 2: 0}
    for (stream, partial), piece in zip(kinds, found, strict=True):
        if piece is None:
            assert not partial and ordinals[stream] == 0
            continue
        ordinals[stream] += 1
        assert (piece.ordinal, piece.last) == (ordinals[stream], not partial)
        if piece.last:
            ordinals[stream] = 0


@given(st.lists(st.binary(min_size=1, max_size=5), max_size=6), st.integers(0, 30))
def test_a_cut_stream_is_counted_in_records(records: list[bytes], written: int) -> None:
    stream = b"".join(records)[:written]
    whole, part = whole_records(records, len(stream))
    assert b"".join(records[:whole]) + (records[whole][:part] if part else b"") == stream


@given(st.text(max_size=20))
def test_no_option_value_is_a_crash(text: str) -> None:
    for parse in (
        option_values.parse_bool,
        option_values.parse_size,
        option_values.parse_duration,
        option_values.parse_unsigned,
    ):
        try:
            assert parse(text) >= 0
        except Invalid:
            pass
    try:
        host, port = option_values.host_and_port(text, text)
        assert port is None or 0 <= port <= 65535, host
    except Invalid:
        pass


def test_no_driver_loads_aws_or_tls_before_it_is_opened() -> None:
    names = ", ".join(f"sampan.logs.{name}" for name in ("awslogs", "fluentd", "gelf", "journald", "syslog"))
    code = f"import sys, {names}; print({{'botocore', 'ssl', 'asyncio'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "set()"
