"""The journald driver's messages, read by a decoder written from the protocol's description."""

from __future__ import annotations

import array
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import Invalid
from sampan.logs import journald
from sampan.logs.journald import JournaldDestination
from sampan.logs.undelivered import Undelivered
from sampan.testing.log_drivers import ID, entry, source

GET_SEALS = 1034
ALL_SEALS = 15


def fields(data: bytes) -> dict[str, bytes]:
    """https://systemd.io/JOURNAL_NATIVE_PROTOCOL: NAME=value, or NAME, 64 bits of length, value."""
    found: dict[str, bytes] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        assert name.decode() not in found
        found[name.decode()] = value
        data = rest
    return found


class Journal:
    def __init__(self, path: str) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(path)
        self.socket.settimeout(5)

    def read(self) -> dict[str, bytes]:
        data, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if not ancillary:
            return fields(data)
        descriptors = array.array("i", ancillary[0][2])
        with os.fdopen(descriptors[0], "rb") as file:
            assert fcntl.fcntl(file, GET_SEALS) & ALL_SEALS == ALL_SEALS
            file.seek(0)
            return fields(file.read())

    def close(self) -> None:
        self.socket.close()
        os.unlink(self.path)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(str(tmp_path / "journal"))
    yield made
    made.socket.close()


def test_an_entry_has_dockers_fields(journal: Journal) -> None:
    destination = JournaldDestination(source(attributes={"lab.el": "v1", "E1": "x"}), journal.path)
    destination.send([entry(b"hello", stream=2)])
    destination.close()
    found = journal.read()
    assert len(found.pop("CONTAINER_LOG_EPOCH")) == 64
    assert found == {
        "PRIORITY": b"3",
        "MESSAGE": b"hello",
        "CONTAINER_ID": ID[:12].encode(),
        "CONTAINER_ID_FULL": ID.encode(),
        "CONTAINER_NAME": b"web",
        "CONTAINER_TAG": ID[:12].encode(),
        "IMAGE_NAME": b"bb",
        "SYSLOG_IDENTIFIER": ID[:12].encode(),
        "SYSLOG_TIMESTAMP": b"2026-11-25T00:24:03.701234567Z",
        "CONTAINER_LOG_ORDINAL": b"1",
        "LAB_EL": b"v1",
        "E1": b"x",
    }


def test_no_value_ends_its_field_and_no_label_is_a_field_of_the_driver(journal: Journal) -> None:
    hostile = {
        "a": "x\nPRIORITY=0\nMESSAGE=forged",
        "message": "m",
        "_pid": "1",
        "container.id": "c",
        "ü": "u",
    }
    destination = JournaldDestination(source(attributes=hostile, tag="t\nIMAGE_NAME=forged"), journal.path)
    destination.send([entry(b"\0\xff\nMESSAGE=forged\n")])
    destination.close()
    found = journal.read()
    assert found["MESSAGE"] == b"\0\xff\nMESSAGE=forged\n"
    assert found["PRIORITY"] == b"6"
    assert found["A"] == hostile["a"].encode()
    assert found["IMAGE_NAME"] == b"bb" and found["CONTAINER_ID"] == ID[:12].encode()
    assert found["LABEL_MESSAGE"] == b"m" and found["LABEL_CONTAINER_ID"] == b"c"
    assert found["PID"] == b"1" and not any(name.startswith("_") for name in found)


def test_an_entry_too_large_for_a_datagram_goes_in_a_sealed_file(journal: Journal) -> None:
    line = os.urandom(4 * 1024 * 1024)
    destination = JournaldDestination(source(), journal.path)
    destination.send([entry(line), entry(b"after")])
    destination.close()
    assert journal.read()["MESSAGE"] == line
    assert journal.read()["MESSAGE"] == b"after"


def test_pieces_of_a_line_are_marked_until_the_last(journal: Journal) -> None:
    destination = JournaldDestination(source(), journal.path)
    destination.send([entry(b"a", partial=True), entry(b"b"), entry(b"c")])
    destination.close()
    first, last, whole = journal.read(), journal.read(), journal.read()
    assert first["CONTAINER_PARTIAL_MESSAGE"] == b"true" and first["CONTAINER_PARTIAL_LAST"] == b"false"
    assert "CONTAINER_PARTIAL_MESSAGE" not in last and last["CONTAINER_PARTIAL_LAST"] == b"true"
    assert first["CONTAINER_PARTIAL_ID"] == last["CONTAINER_PARTIAL_ID"]
    assert not any(name.startswith("CONTAINER_PARTIAL") for name in whole)


def test_a_journald_that_was_started_again_is_found(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    destination = JournaldDestination(source(), journal.path)
    destination.check()
    destination.send([entry(b"one")])
    journal.close()
    with pytest.raises(Undelivered) as caught:
        destination.send([entry(b"two"), entry(b"three")])
    assert caught.value.delivered == 0
    with pytest.raises(OSError, match="journald is not enabled on this host"):
        destination.check()
    journal = Journal(journal.path)
    destination.send([entry(b"two"), entry(b"three")])
    destination.close()
    assert [journal.read()["MESSAGE"] for _ in range(2)] == [b"two", b"three"]
    journal.close()


def test_an_option_of_another_driver_is_refused_in_dockers_words() -> None:
    with pytest.raises(Invalid) as caught:
        journald.check_options({"max-size": "1"})
    assert caught.value.message == "unknown log opt 'max-size' for journald log driver"
    journald.check_options({"tag": "t", "labels": "a", "env": "b", "labels-regex": "c", "env-regex": "d"})
