"""The journald driver against the real systemd-journald, read with journalctl."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from sampan.logs import journald_reader
from sampan.logs.journald import JournaldDestination
from sampan.logs.reader import LogRecord
from sampan.testing.log_drivers import ID, MOMENT, entry, source

pytestmark = pytest.mark.root


def entries(journald: Any, count: int) -> list[dict[str, Any]]:
    """In the order of our own counter: journald may read several datagrams of one moment in any grouping."""
    found: Iterator[dict[str, Any]] = journald.follow(f"CONTAINER_ID_FULL={ID}")
    try:
        return sorted(islice(found, count), key=lambda each: int(each["CONTAINER_LOG_ORDINAL"]))
    finally:
        found.close()  # type: ignore[attr-defined]


def test_journald_has_the_fields_the_bytes_and_nothing_forged(journald: Any) -> None:
    hostile = {"lab.el": "v1", "a": "x\nPRIORITY=0\nMESSAGE=forged", "message": "forged", "_UID": "7"}
    destination = JournaldDestination(source(attributes=hostile), journald.socket)
    lines = [
        entry(b"hello"),
        entry(b"to stderr", stream=2),
        entry(b"\0\x1b[31m\xff\nMESSAGE=forged"),
        entry(b"y" * 3_000_000),
        entry(b"first half", partial=True),
        entry(b"second half"),
    ]
    destination.send(lines)
    destination.close()
    hello, bad, binary, large, first, second = entries(journald, len(lines))
    assert {
        "PRIORITY": "6",
        "MESSAGE": "hello",
        "CONTAINER_ID": ID[:12],
        "CONTAINER_ID_FULL": ID,
        "CONTAINER_NAME": "web",
        "CONTAINER_TAG": ID[:12],
        "IMAGE_NAME": "bb",
        "SYSLOG_IDENTIFIER": ID[:12],
        "LAB_EL": "v1",
        "A": hostile["a"],
        "LABEL_MESSAGE": "forged",
        "UID": "7",
        "_UID": "0",
        "_TRANSPORT": "journal",
    }.items() <= hello.items()
    assert (bad["PRIORITY"], bad["MESSAGE"]) == ("3", "to stderr")
    assert bytes(binary["MESSAGE"]) == b"\0\x1b[31m\xff\nMESSAGE=forged"
    assert large["MESSAGE"] == "y" * 3_000_000
    assert first["CONTAINER_PARTIAL_MESSAGE"] == "true" and "CONTAINER_PARTIAL_MESSAGE" not in second
    assert first["CONTAINER_PARTIAL_ID"] == second["CONTAINER_PARTIAL_ID"]


def test_a_flood_waits_for_journald_and_none_of_it_is_lost(journald: Any) -> None:
    destination = JournaldDestination(source(), journald.socket)
    destination.send([entry(b"%d" % number) for number in range(3000)])
    destination.close()
    assert [each["MESSAGE"] for each in entries(journald, 3000)] == [str(number) for number in range(3000)]


def test_a_containers_lines_are_read_back_from_the_journal(journald: Any) -> None:
    directory = str(journald.run / "log/journal")
    written = [
        entry(b"one", time_ns=MOMENT),
        entry(b"\0two\nlines\xff", stream=2, time_ns=MOMENT + 1),
        entry(b"pie", partial=True, time_ns=MOMENT + 2),
        entry(b"ces", time_ns=MOMENT + 3),
    ]
    other = JournaldDestination(source(id="0" * 64), journald.socket)
    other.send([entry(b"of another container")])
    other.close()
    destination = JournaldDestination(source(attributes={"team": "a"}), journald.socket)
    destination.send(written)
    entries(journald, len(written))  # journalctl ends at once where no journal is yet

    def read(**chosen: Any) -> Iterator[LogRecord]:
        child = journald_reader.start(journald_reader.command(ID, directory=directory, **chosen))
        return journald_reader.records(child)

    follower = read(follow=True)
    got = list(islice(follower, 4))
    assert [each.line for each in got] == [b"one\n", b"\0two\nlines\xff\n", b"pie", b"ces\n"]
    assert [each.stream for each in got] == [1, 2, 1, 1]
    assert [each.time_ns for each in got] == [MOMENT, MOMENT + 1, MOMENT + 2, MOMENT + 3]
    assert got[0].attributes == {"TEAM": "a"}
    destination.send([entry(b"later")])
    destination.close()
    assert next(follower).line == b"later\n"
    follower.close()  # type: ignore[attr-defined]
    last = read(tail=2)
    assert [each.line for each in last] == [b"ces\n", b"later\n"]
    future = read(since_ns=time.time_ns() + 60 * 10**9)
    assert list(future) == []
