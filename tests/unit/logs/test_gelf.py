"""The GELF driver's messages, beside what dockerd 20.10 sent, its chunks, and its delivery."""

from __future__ import annotations

import gzip
import json
import os
import socket
import zlib

import pytest

from sampan.errors import Invalid
from sampan.logs import gelf
from sampan.logs.undelivered import Undelivered
from sampan.testing.log_drivers import ID, entry, source, tcp_server


def received(server: socket.socket, count: int = 1) -> list[bytes]:
    server.settimeout(5)
    return [server.recv(65536) for _ in range(count)]


def udp_server() -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    return server


def test_a_message_has_dockers_fields() -> None:
    fields = gelf.additional_fields(source(attributes={"lab.el": "v1", "E1": "x"}))
    # As dockerd 20.10.24 sent it for such a container.
    expected = {
        "version": "1.1",
        "host": "vm",
        "short_message": "err",
        "timestamp": 1795566243.701,
        "level": 3,
        "_E1": "x",
        "_command": "/bin/sh -c true",
        "_container_id": ID,
        "_container_name": "web",
        "_created": "2026-11-25T00:24:03.518629449Z",
        "_image_id": "sha256:" + "6f" * 32,
        "_image_name": "bb",
        "_lab.el": "v1",
        "_tag": ID[:12],
    }
    assert json.loads(gelf.message("vm", fields, entry(b"err", stream=2))) == expected
    assert json.loads(gelf.message("vm", fields, entry(b"a\xffb\tc"))) == expected | {
        "short_message": "a\ufffdb\tc",
        "level": 6,
    }


def test_labels_replace_no_field_of_the_container_and_none_that_gelf_forbids() -> None:
    hostile = {"container_id": "forged", "_image_name": "forged", "id": "7", 'x"\n,"host': "forged"}
    fields = gelf.additional_fields(source(attributes=hostile))
    assert fields["_container_id"] == ID and fields["_image_name"] == "bb"
    assert "_id" not in fields and fields["__id"] == "7"
    assert fields["_x____host"] == "forged"


@pytest.mark.parametrize(
    ("options", "unpack"),
    [
        ({}, gzip.decompress),
        ({"gelf-compression-type": "zlib", "gelf-compression-level": "9"}, zlib.decompress),
        ({"gelf-compression-type": "none"}, bytes),
    ],
)
def test_udp_messages_are_compressed_as_the_options_say(options: dict[str, str], unpack: object) -> None:
    assert callable(unpack)
    with udp_server() as server:
        address = f"udp://127.0.0.1:{server.getsockname()[1]}"
        destination = gelf.open({"gelf-address": address, **options}, source())
        destination.send([entry(b""), entry(b"hello")])
        destination.close()
        (data,) = received(server)
    assert json.loads(unpack(data))["short_message"] == "hello"


def test_a_large_message_goes_in_numbered_chunks() -> None:
    payload = os.urandom(1408 * 3)
    parts = gelf.datagrams(payload, b"ABCDEFGH")
    assert len(parts) == 3  # exactly, without an empty one at the end
    assert all(len(part) <= 1420 for part in parts)
    assert [part[:12] for part in parts] == [b"\x1e\x0fABCDEFGH" + bytes((n, 3)) for n in range(3)]
    assert b"".join(part[12:] for part in parts) == payload
    assert gelf.datagrams(payload[:1420], b"ABCDEFGH") == [payload[:1420]]
    assert len(gelf.datagrams(b"x" * 1408 * 128, b"ABCDEFGH")) == 128


def test_a_message_of_more_than_128_chunks_is_lost_and_counted() -> None:
    assert gelf.datagrams(b"x" * (1408 * 128 + 1), b"ABCDEFGH") == []
    with udp_server() as server:
        address = f"udp://127.0.0.1:{server.getsockname()[1]}"
        destination = gelf.open({"gelf-address": address, "gelf-compression-type": "none"}, source())
        destination.send([entry(b"x" * 200_000), entry(b"small")])
        destination.close()
        assert b'"small"' in received(server)[0]
    assert (destination.losses.entries, destination.losses.bytes) == (1, 200_000)


def test_tcp_messages_end_with_nul_and_contain_none() -> None:
    with tcp_server() as server:
        destination = gelf.open({"gelf-address": f"tcp://127.0.0.1:{server.port}"}, source())
        destination.send([entry(b"a\0b\nc"), entry(b"second")])
        server.wait(lambda: server.everything.count(b"\0") == 2)
        destination.close()
        messages = [json.loads(part) for part in server.everything.split(b"\0")[:-1]]
    assert [each["short_message"] for each in messages] == ["a\0b\nc", "second"]


def test_tcp_reconnects_as_often_as_it_may_and_then_says_what_was_not_delivered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        options = {"gelf-tcp-max-reconnect": "2", "gelf-tcp-reconnect-delay": "0"}
        destination = gelf.open({"gelf-address": f"tcp://127.0.0.1:{port}", **options}, source())
        connection, _ = listener.accept()
        connection.close()
    with pytest.raises(Undelivered) as caught:
        destination.send([entry(b"one"), entry(b"two")])
    assert caught.value.delivered == 0
    with socket.create_server(("127.0.0.1", port)) as listener:
        destination.send([entry(b"one"), entry(b"two")])
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(65536).count(b"\0") == 2
        destination.close()


def test_an_endpoint_that_is_not_there_is_said_in_dockers_words() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(OSError, match="refused") as caught:
            gelf.open({"gelf-address": f"tcp://127.0.0.1:{port}"}, source())
    refused = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    assert caught.value.strerror == f"gelf: cannot connect to GELF endpoint: 127.0.0.1:{port} {refused}"


# The words are dockerd 20.10.24's.
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "gelf-address is a required parameter"),
        ({"gelf-address": "http://x:1"}, "gelf-address should be in form proto://address, got http://x:1"),
        ({"gelf-address": "127.0.0.1:1"}, "gelf-address should be in form proto://address, got 127.0.0.1:1"),
        ({"gelf-address": "udp://x"}, "gelf: please provide gelf-address as proto://host:port"),
        ({"gelf-address": "udp://x:1", "foo": "1"}, 'unknown log opt "foo" for gelf log driver'),
        (
            {"gelf-address": "udp://x:1", "gelf-compression-level": "10"},
            'unknown value "10" for log opt "gelf-compression-level" for gelf log driver',
        ),
        (
            {"gelf-address": "udp://x:1", "gelf-compression-type": "bz"},
            'unknown value "bz" for log opt "gelf-compression-type" for gelf log driver',
        ),
        (
            {"gelf-address": "tcp://x:1", "gelf-compression-level": "1"},
            "compression is only supported on UDP",
        ),
        (
            {"gelf-address": "udp://x:1", "gelf-tcp-max-reconnect": "1"},
            '"gelf-tcp-max-reconnect" is only valid for TCP',
        ),
        (
            {"gelf-address": "tcp://x:1", "gelf-tcp-max-reconnect": "-1"},
            '"gelf-tcp-max-reconnect" must be a positive integer',
        ),
        (
            {"gelf-address": "tcp://x:1", "gelf-tcp-reconnect-delay": "a"},
            '"gelf-tcp-reconnect-delay" must be a positive integer',
        ),
    ],
)
def test_wrong_options_are_refused_in_dockers_words(options: dict[str, str], words: str) -> None:
    with pytest.raises(Invalid) as caught:
        gelf.check_options(options)
    assert caught.value.message == words
