"""The journald driver against the real systemd-journald, read with journalctl."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from sampan.logs.journald import JournaldDestination
from sampan.testing.log_drivers import ID, entry, source

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
