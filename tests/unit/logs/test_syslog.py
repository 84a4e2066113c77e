"""The syslog driver's messages, beside what dockerd 20.10 sent for the same containers, and its delivery."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.errors import Invalid
from sampan.logs import syslog
from sampan.logs.syslog import Formatter, Settings
from sampan.logs.undelivered import Undelivered
from sampan.testing.log_drivers import ID, entry, source, tcp_server

TAG = ID[:12]


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def written(
    format: str, line: bytes = b"out", *, stream: int = 1, scheme: str = "udp", tag: str = TAG
) -> bytes:
    return Formatter(Settings(scheme=scheme, format=format), "vm", tag, 12833).message(
        entry(line, stream=stream)
    )


# The expected messages are those of dockerd 20.10.24 for a host "vm" and its process 12833.
@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("", f"<30>Nov 25 00:24:03 {TAG}[12833]: out\n"),
        ("rfc3164", f"<30>Nov 25 00:24:03 vm {TAG}[12833]: out\n"),
        ("rfc5424", f"<30>1 2026-11-25T00:24:03Z vm {TAG} 12833 {TAG} - out\n"),
        ("rfc5424micro", f"<30>1 2026-11-25T00:24:03.701234Z vm {TAG} 12833 {TAG} - out\n"),
    ],
)
def test_a_message_is_what_docker_sends(format: str, expected: str) -> None:
    assert written(format) == expected.encode()


def test_standard_error_has_the_severity_err_and_the_facility_counts() -> None:
    assert written("rfc3164", stream=2).startswith(b"<27>")
    local7 = Formatter(Settings(facility=23), "vm", TAG, 1).message(entry(b"x"))
    assert local7.startswith(b"<190>")


def test_bytes_that_are_no_text_go_as_they_are() -> None:
    assert written("rfc3164", b"a\xffb\tc\x00\x1b[31m").endswith(b": a\xffb\tc\x00\x1b[31m\n")


def test_only_tls_with_rfc5424_counts_octets() -> None:
    framed = written("rfc5424", scheme="tcp+tls")
    length, _, rest = framed.partition(b" ")
    assert int(length) == len(rest) and rest == written("rfc5424")
    assert written("rfc3164", scheme="tcp+tls").startswith(b"<30>Nov")


def test_a_time_zone_is_written_as_rfc3339_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XXX-05:30")
    time.tzset()
    assert b" 2026-11-25T05:54:03+05:30 " in written("rfc5424")
    monkeypatch.setenv("TZ", "XXX+03:30")
    time.tzset()
    assert b" 2026-11-24T20:54:03.701234-03:30 " in written("rfc5424micro")


def test_neither_a_line_nor_a_tag_ends_a_record_or_a_field_early() -> None:
    forged = b"x\n<0>Jan  1 00:00:00 vm kernel: panic"
    assert written("rfc3164", forged).count(b"\n") == 1
    tagged = written("rfc5424", tag="evil 1 - - fake\n<0>1 x")
    assert tagged.count(b"\n") == 1
    assert tagged.split(b" ")[3] == b"evil_1_-_-_fake_<0>1_x"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"foo": "1"}, "unknown log opt 'foo' for syslog log driver"),
        ({"syslog-address": "http://x"}, "syslog-address should be in form proto://address, got http://x"),
        (
            {"syslog-address": "localhost:514"},
            "syslog-address should be in form proto://address, got localhost:514",
        ),
        ({"syslog-address": "unix:///nonexist"}, "stat /nonexist: no such file or directory"),
        ({"syslog-address": "udp://a:b"}, 'parse "udp://a:b": invalid port ":b" after host'),
        ({"syslog-address": "tcp://[::1"}, "parse \"tcp://[::1\": missing ']' in host"),
        ({"syslog-facility": "foo"}, "invalid syslog facility"),
        ({"syslog-facility": "24"}, "invalid syslog facility"),
        ({"syslog-format": "xx"}, "Invalid syslog format"),
    ],
)
def test_wrong_options_are_refused_in_dockers_words(options: dict[str, str], words: str) -> None:
    with pytest.raises(Invalid) as caught:
        syslog.check_options(options)
    assert caught.value.message == words


def test_addresses_have_dockers_defaults() -> None:
    assert syslog.settings({}).scheme == ""
    plain = syslog.settings({"syslog-address": "udp://[::1]"})
    assert (plain.host, plain.port) == ("::1", 514)
    tls = syslog.settings({"syslog-address": "tcp+tls://logs:6514", "syslog-facility": "local3"})
    assert (tls.scheme, tls.host, tls.port, tls.facility) == ("tcp+tls", "logs", 6514, 19)


def test_tls_is_verified_unless_told_otherwise() -> None:
    assert syslog.settings({"syslog-tls-skip-verify": "false"}).verify
    assert not syslog.settings({"syslog-tls-skip-verify": "true"}).verify
    with pytest.raises(Invalid, match='could not read CA certificate "/nonexist"'):
        syslog.open({"syslog-address": "tcp+tls://127.0.0.1:1", "syslog-tls-ca-cert": "/nonexist"}, source())


def test_a_dead_udp_server_is_no_error_and_a_dead_tcp_server_is() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    udp = syslog.open({"syslog-address": f"udp://127.0.0.1:{port}"}, source())
    for _ in range(4):
        udp.send([entry(b"nobody hears")])
    udp.close()
    with pytest.raises(ConnectionRefusedError) as caught:
        syslog.open({"syslog-address": f"tcp://127.0.0.1:{port}"}, source())
    # dockerd: "failed to initialize logging driver: " and this.
    assert caught.value.strerror == f"dial tcp 127.0.0.1:{port}: connect: connection refused"


def test_empty_lines_are_no_messages(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        destination = syslog.open({"syslog-address": f"unixgram://{path}"}, source())
        destination.send([entry(b""), entry(b"one"), entry(b"")])
        destination.close()
        server.settimeout(5)
        assert server.recv(1000).endswith(b": one\n")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(1000)


def test_what_was_delivered_before_a_unix_socket_went_away_is_counted(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        destination = syslog.open({"syslog-address": f"unixgram://{path}"}, source())
        destination.send([entry(b"one")])
    os.unlink(path)
    with pytest.raises(Undelivered) as caught:
        destination.send([entry(b""), entry(b"two"), entry(b"three")])
    assert caught.value.delivered == 1  # the empty line, which needs no delivery
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        destination.send([entry(b"two")])
        assert server.recv(1000).endswith(b": two\n")
    destination.close()


def test_tcp_records_are_separated_by_newlines() -> None:
    with tcp_server() as server:
        destination = syslog.open({"syslog-address": f"tcp://127.0.0.1:{server.port}"}, source())
        destination.send([entry(b"one"), entry(b"two", stream=2)])
        server.wait(lambda: server.everything.count(b"\n") == 2)
        destination.close()
        pid = os.getpid()
        assert server.everything.splitlines() == [
            f"<30>Nov 25 00:24:03 {TAG}[{pid}]: one".encode(),
            f"<27>Nov 25 00:24:03 {TAG}[{pid}]: two".encode(),
        ]


def test_a_unix_stream_socket_is_spoken_to(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        destination = syslog.open({"syslog-address": f"unix://{path}", "syslog-format": "rfc3164"}, source())
        destination.send([entry(b"one"), entry(b"two")])
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            assert [lines.readline().rpartition(b" ")[2] for _ in range(2)] == [b"one\n", b"two\n"]
        destination.close()
