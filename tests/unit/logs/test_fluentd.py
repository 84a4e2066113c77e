"""The fluentd driver's messages, beside what dockerd 20.10 sent, acknowledgement, retries and the background."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sampan.errors import Invalid
from sampan.logs import fluentd
from sampan.logs.background import Background
from sampan.logs.fluentd import FluentdDestination, Settings, chunks
from sampan.logs.partial_lines import PartialLines
from sampan.logs.undelivered import Undelivered
from sampan.testing.log_drivers import ID, MOMENT, Recorded, entry, source, tcp_server

SECONDS = MOMENT // 10**9


def events(data: bytes) -> list[Any]:
    """Every message of a stream, as (tag, time, record) of each event."""
    found: list[Any] = []
    decoder = _Stream(data)
    while decoder.rest:
        message = decoder.next()
        if isinstance(message[1], list):
            found += [(message[0], *event) for event in message[1]]
        else:
            found.append((message[0], message[1], message[2]))
    return found


class _Stream:
    """Messages one after the other: msgspec decodes one, so the end of each is looked for."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def next(self) -> Any:
        for end in range(len(self.rest), 0, -1):
            try:
                value = msgspec.msgpack.decode(self.rest[:end])
            except msgspec.DecodeError:
                continue
            self.rest = self.rest[end:]
            return value
        raise AssertionError(f"no message: {self.rest!r}")


def options(server: Recorded, **more: str) -> dict[str, str]:
    named = {f"fluentd-{name.replace('_', '-')}": value for name, value in more.items()}
    return {"fluentd-address": f"127.0.0.1:{server.port}", **named}


def encoded(line: bytes, **settings: Any) -> bytes:
    (chunk,) = chunks(Settings(**settings), source(), [entry(line)], [None])
    return chunk.data


def test_a_single_entry_is_the_message_that_docker_sends() -> None:
    data = encoded(b"out")
    # dockerd 20.10.24: an array of tag, seconds, record and an empty option; Go's maps have no order.
    assert data.startswith(b"\x94\xac" + ID[:12].encode())
    assert data.endswith(b"\x80")
    assert events(data) == [
        (
            ID[:12],
            SECONDS,
            {"container_id": ID, "container_name": "/web", "source": "stdout", "log": "out"},
        )
    ]


def test_sub_second_precision_is_the_extension_of_the_protocol() -> None:
    data = encoded(b"x", sub_second=True)
    # \xd7\x00: eight bytes of extension type 0; seconds and nanoseconds, big-endian.
    moment = SECONDS.to_bytes(4, "big") + (MOMENT % 10**9).to_bytes(4, "big")
    assert b"\xd7\x00" + moment in data


def test_bytes_that_are_no_text_go_as_they_are_in_a_string() -> None:
    assert b"\xa3log\xa5a\xffb\tc" in encoded(b"a\xffb\tc")  # as dockerd sends it
    for size in (31, 32, 255, 256, 65535, 65536):
        ((_, _, record),) = events(encoded(b"x" * size))
        assert record["log"] == "x" * size


def test_several_entries_go_in_one_forward_message() -> None:
    entries = [entry(b"one"), entry(b"two", stream=2)]
    (chunk,) = chunks(Settings(), source(), entries, [None, None])
    assert chunk.entries == 2
    assert [record["log"] for _, _, record in events(chunk.data)] == ["one", "two"]
    assert [record["source"] for _, _, record in events(chunk.data)] == ["stdout", "stderr"]


def test_large_batches_are_divided() -> None:
    entries = [entry(b"x" * 16384)] * 40
    divided = chunks(Settings(), source(), entries, [None] * 40)
    assert len(divided) == 3
    assert sum(chunk.entries for chunk in divided) == 40
    assert all(len(chunk.data) < 300_000 for chunk in divided)


def test_labels_replace_no_field_of_the_container() -> None:
    hostile = source(
        attributes={
            "container_id": "forged",
            "log": "forged",
            "source": "forged",
            "partial_message": "true",
            "team": "a\nb",
        }
    )
    (chunk,) = chunks(Settings(), hostile, [entry(b"true")], [None])
    ((_, _, record),) = events(chunk.data)
    assert record == {
        "container_id": ID,
        "container_name": "/web",
        "source": "stdout",
        "log": "true",
        "team": "a\nb",
    }


def test_pieces_of_a_line_have_dockers_fields() -> None:
    with tcp_server() as server:
        destination = fluentd.open(options(server), source())
        destination.send([entry(b"a", partial=True), entry(b"other", stream=2), entry(b"b", partial=True)])
        destination.send([entry(b"c"), entry(b"whole")])
        destination.close()
        server.wait(lambda: server.everything.count(b"whole") == 1)
        records = {record["log"]: record for _, _, record in events(bytes(server.everything))}
    pieces = [records[line] for line in "abc"]
    assert [piece["partial_ordinal"] for piece in pieces] == ["1", "2", "3"]
    assert [piece["partial_last"] for piece in pieces] == ["false", "false", "true"]
    assert {piece["partial_message"] for piece in pieces} == {"true"}
    assert len({piece["partial_id"] for piece in pieces}) == 1 and len(pieces[0]["partial_id"]) == 64
    assert not any(name.startswith("partial") for line in ("other", "whole") for name in records[line])


def test_pieces_that_were_not_delivered_have_the_same_numbers_when_sent_again() -> None:
    lines = PartialLines()
    first = [entry(b"a", partial=True)]
    lines.pieces(first)  # not delivered
    pieces = lines.pieces(first)
    assert pieces[0] is not None and pieces[0].ordinal == 1
    lines.advance(first, pieces)
    for _ in range(2):
        (last,) = lines.pieces([entry(b"b")])
        assert last is not None and (last.ordinal, last.last, last.id) == (2, True, pieces[0].id)


class Acknowledging:
    """A server that answers each message with what `answer` makes of its chunk's id."""

    def __init__(self, answer: Any) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.seen: list[Any] = []
        self._answer = answer
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, suppress(ConnectionResetError):
                while data := connection.recv(1 << 20):
                    message = msgspec.msgpack.decode(data)
                    self.seen.append(message)
                    connection.sendall(self._answer(message[-1]["chunk"]))

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(5)


def test_an_acknowledged_chunk_is_delivered_and_another_answer_is_not_one() -> None:
    server = Acknowledging(lambda id: msgspec.msgpack.encode({"ack": id}))
    settings = Settings(port=server.port, acknowledged=True)
    destination = FluentdDestination(settings, source())
    destination.send([entry(b"one"), entry(b"two")])
    destination.close()
    server.close()
    assert [event[1]["log"] for event in server.seen[0][1]] == ["one", "two"]

    no_text, nested = b"\x81\xa3ack\xa2\xff\xfe", b"\x81\xa1x" + b"\x91" * 4000
    for answer in (msgspec.msgpack.encode({"ack": "other"}), b"\xc1" * 5000, no_text, nested):
        server = Acknowledging(lambda id, answer=answer: answer)
        destination = FluentdDestination(Settings(port=server.port, acknowledged=True), source())
        with pytest.raises(Undelivered, match="did not acknowledge") as caught:
            destination.send([entry(b"one")])
        assert caught.value.delivered == 0
        destination.close()
        server.close()


def test_a_server_that_never_acknowledges_is_given_the_read_time_out() -> None:
    with tcp_server() as server:
        destination = fluentd.open(options(server, request_ack="true", read_timeout="50ms"), source())
        with pytest.raises(Undelivered, match="timed out"):
            destination.send([entry(b"one")])
        destination.close()


def test_after_max_retries_entries_are_given_up_and_counted() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        settings = Settings(port=unused.getsockname()[1], max_retries=2, retry_wait=0.0)
        destination = FluentdDestination(settings, source())
        for _ in range(2):
            with pytest.raises(Undelivered):
                destination.send([entry(b"four")])
        destination.send([entry(b"four")])
        assert (destination.losses.entries, destination.losses.bytes) == (1, 4)


def test_without_a_server_a_synchronous_driver_does_not_open_and_an_asynchronous_one_does() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = {"fluentd-address": f"127.0.0.1:{unused.getsockname()[1]}"}
        with pytest.raises(ConnectionRefusedError):
            fluentd.open(address, source())
        destination = fluentd.open(address | {"fluentd-async": "true", "fluentd-buffer-limit": "2"}, source())
        assert isinstance(destination, Background)
        destination.send([entry(b"1"), entry(b"22"), entry(b"333")])
        assert (destination.losses.entries, destination.losses.bytes) == (1, 3)


def test_the_background_delivers_when_the_server_is_there_and_counts_what_a_close_leaves() -> None:
    class Behind:
        def __init__(self) -> None:
            from sampan.logs.undelivered import Losses

            self.losses = Losses()
            self.got: list[bytes] = []
            self.up = threading.Event()
            self.closed = False

        def send(self, entries: Any) -> None:
            if not self.up.is_set():
                self.got.append(entries[0].line)
                raise Undelivered("half", delivered=1)
            self.got += [each.line for each in entries]

        def close(self) -> None:
            self.closed = True

    behind = Behind()
    background = Background(behind, max_entries=10, max_bytes=1000)
    behind.up.set()
    background.send([entry(b"one"), entry(b"two")])
    background.close()
    assert behind.got == [b"one", b"two"] and behind.closed and background.losses.entries == 0

    behind = Behind()
    background = Background(behind, max_entries=10, max_bytes=7, close_grace=0.0)
    background.send([entry(b"one"), entry(b"two"), entry(b"three")])
    background.close()
    assert background.losses.entries == 3 - len(behind.got)


def test_a_unix_socket_is_spoken_to(tmp_path: Path) -> None:
    path = str(tmp_path / "fluent")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        destination = fluentd.open({"fluentd-address": f"unix://{path}"}, source())
        connection, _ = listener.accept()
        with connection:
            destination.send([entry(b"hello")])
            assert events(connection.recv(65536))[0][2]["log"] == "hello"
        destination.close()


# dockerd 20.10.24's words; what later versions say of what 20.10 has not or lets pass.
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"foo": "1"}, "unknown log opt 'foo' for fluentd log driver"),
        ({"fluentd-address": "http://x"}, "invalid fluentd-address http://x: unsupported scheme: 'http'"),
        (
            {"fluentd-address": "a:b:c"},
            "invalid fluentd-address a:b:c: address a:b:c: too many colons in address",
        ),
        (
            {"fluentd-address": "tcp://x/p"},
            "invalid fluentd-address tcp://x/p: should not contain a path element",
        ),
        ({"fluentd-address": "unix://"}, "invalid fluentd-address unix://: path is empty"),
        ({"fluentd-buffer-limit": "abc"}, "invalid size: 'abc'"),
        ({"fluentd-retry-wait": "5"}, 'time: missing unit in duration "5"'),
        ({"fluentd-max-retries": "-1"}, 'strconv.ParseUint: parsing "-1": invalid syntax'),
        ({"fluentd-async": "maybe"}, 'strconv.ParseBool: parsing "maybe": invalid syntax'),
        ({"fluentd-sub-second-precision": "q"}, 'strconv.ParseBool: parsing "q": invalid syntax'),
        ({"fluentd-request-ack": "q"}, 'strconv.ParseBool: parsing "q": invalid syntax'),
        (
            {"fluentd-async": "true", "fluentd-async-connect": "true"},
            "conflicting options: cannot specify both 'fluentd-async' and 'fluentd-async-connect'",
        ),
        (
            {"fluentd-async-reconnect-interval": "50ms"},
            'invalid value for fluentd-async-reconnect-interval: value ("50ms") must be between 100ms and 10s',
        ),
    ],
)
def test_wrong_options_are_refused_in_dockers_words(options: dict[str, str], words: str) -> None:
    with pytest.raises(Invalid) as caught:
        fluentd.check_options(options)
    assert caught.value.message == words


def test_options_are_read_as_docker_reads_them() -> None:
    chosen = fluentd.settings(
        {
            "fluentd-address": "tls://logs.example:24225",
            "fluentd-async-connect": "1",
            "fluentd-buffer-limit": "2k",
            "fluentd-retry-wait": "1m30s",
            "fluentd-max-retries": "99999999999",
        }
    )
    assert (chosen.scheme, chosen.host, chosen.port) == ("tls", "logs.example", 24225)
    assert (chosen.background, chosen.buffer_limit, chosen.retry_wait) == (True, 2048, 90.0)
    assert chosen.max_retries == 2**31 - 1
    assert (fluentd.settings({}).host, fluentd.settings({}).port) == ("127.0.0.1", 24224)
