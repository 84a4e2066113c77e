"""The HTTP client against a socket that answers byte for byte what a test says."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.client.address import Address, parse_address, resolve_address
from sampan.client.api import ApiError, Client, filters_query, json_bytes, quote_path
from sampan.errors import Invalid, Unavailable, Unsupported

Serve = Callable[[list[bytes]], Client]


class Server:
    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.received: list[bytes] = []
        self.connections = 0
        self.answers: list[bytes] = []
        self.close_after_answer = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        with connection:
            while part := connection.recv(65536):
                data += part
                while complete(data):
                    self.received.append(data)
                    data = b""
                    if not self.answers:
                        return
                    answer = self.answers.pop(0)
                    connection.sendall(answer)
                    if self.close_after_answer:
                        return


def complete(data: bytes) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return False
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        return body.endswith(b"0\r\n\r\n")
    for line in lowered.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "s")
    yield made
    made.listener.close()


@pytest.fixture
def client(server: Server, tmp_path: Path) -> Client:
    path = str(tmp_path / "s")
    return Client(Address(f"unix://{path}", path=path), version="1.47")


def test_plain_calls_share_a_connection(server: Server, client: Client) -> None:
    server.answers = [b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}'] * 3
    assert [client.call("GET", "/x") for _ in range(3)] == [{"a": 1}] * 3
    assert server.connections == 1


def test_a_chunked_answer_is_put_together(server: Server, client: Client) -> None:
    server.answers = [
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\n{"a\r\n4\r\n":1}\r\n0\r\nTrailer: x\r\n\r\n',
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ]
    assert client.call("GET", "/x") == {"a": 1}
    assert client.call("POST", "/y") is None
    assert server.connections == 1


def test_an_answer_may_end_with_the_connection(server: Server, client: Client) -> None:
    server.close_after_answer = True
    server.answers = [b"HTTP/1.0 200 OK\r\n\r\n[1]"]
    assert client.call("GET", "/x") == [1]


def test_a_streamed_body_is_sent_in_chunks_small_pieces_together(server: Server, client: Client) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
    large = b"x" * 65536
    client.finish(client.request("POST", "/x", None, iter([b"abc", b"", large, b"d", b"e"])))
    first = b"10003\r\nabc" + large + b"\r\n"
    assert server.received[-1].endswith(b"\r\n\r\n" + first + b"2\r\nde\r\n0\r\n\r\n")


def test_a_refusal_carries_the_engines_words(server: Server, client: Client) -> None:
    body = b'{"message":"No such thing"}'
    server.answers = [b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)]
    with pytest.raises(ApiError) as caught:
        client.call("GET", "/x")
    assert (caught.value.status, caught.value.message, caught.value.kind) == (
        404,
        "No such thing",
        "not found",
    )


def test_a_flag_of_a_newer_api_is_sent_in_its_version_or_refused_in_docker_s_words(
    server: Server, client: Client
) -> None:
    def ping(version: bytes, name: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\nApi-Version: %b\r\nServer: %b\r\n\r\n" % (version, name)

    server.answers = [ping(b"1.47", b"Docker/27.0"), ping(b"1.47", b"Docker/27.0")]
    with pytest.raises(Unsupported) as caught:
        client.require("1.48", "--ipv4")
    assert caught.value.message == (
        '"--ipv4" requires API version 1.48, but the Docker daemon API version is 1.47'
    )
    server.answers = [ping(b"1.51", b"Docker/28.5"), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"]
    client.require("1.48", "--ipv4")
    client.call("GET", "/x")
    assert server.received[-1].startswith(b"GET /v1.48/x ")


def test_a_refusal_without_json_is_shown_as_it_is(server: Server, client: Client) -> None:
    server.answers = [b"HTTP/1.1 502 Bad\r\nContent-Length: 6\r\n\r\noops!\n"]
    with pytest.raises(ApiError, match="oops!"):
        client.call("GET", "/x")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ],
)
def test_an_answer_that_is_cut_off_is_an_error(server: Server, client: Client, answer: bytes) -> None:
    server.close_after_answer = True
    server.answers = [answer]
    with pytest.raises(ConnectionResetError):
        client.call("GET", "/x")


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"]
)
def test_what_is_no_http_is_an_error(server: Server, client: Client, answer: bytes) -> None:
    server.answers = [answer]
    with pytest.raises(Unavailable):
        client.call("GET", "/x")


def test_a_get_is_sent_again_when_the_idle_connection_was_closed(server: Server, client: Client) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
    server.answers, server.close_after_answer = [answer, answer], True
    assert client.call("GET", "/x") == client.call("GET", "/x") == []
    assert server.connections == 2


def test_an_upgraded_connection_comes_with_what_was_read_already(server: Server, client: Client) -> None:
    server.answers = [
        b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
        b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly"
    ]
    hijacked = client.hijack("/attach", {"stream": True})
    data = hijacked.preread
    while len(data) < 5:
        data += hijacked.sock.recv(5)
    assert data == b"early"
    assert b"Upgrade: tcp\r\n" in server.received[-1] and b"/v1.47/attach?stream=1 " in server.received[-1]
    hijacked.close()


def test_interim_answers_are_skipped(server: Server, client: Client) -> None:
    server.answers = [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1"]
    assert client.call("GET", "/x") == 1


@pytest.mark.parametrize(
    ("text", "path", "host", "port"),
    [
        ("unix:///a/b", "/a/b", "", 0),
        ("/a/b", "/a/b", "", 0),
        ("tcp://h:1", "", "h", 1),
        ("tcp://[::1]:2", "", "::1", 2),
        ("h", "", "h", 2375),
        ("http://h/", "", "h", 2375),
    ],
)
def test_addresses(text: str, path: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert (address.path, address.host, address.port) == (path, host, port)


def test_a_strange_address_is_refused() -> None:
    with pytest.raises(Invalid, match="unable to parse docker host"):
        parse_address("ftp://x")


def test_which_setting_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAMPAN_HOST", raising=False)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert resolve_address(None).path == "/run/sampan/sampan.sock" and resolve_address(None).managed
    monkeypatch.setenv("DOCKER_HOST", "unix:///d")
    assert resolve_address(None).path == "/d" and not resolve_address(None).managed
    monkeypatch.setenv("SAMPAN_HOST", "unix:///s")
    assert resolve_address(None).path == "/s" and resolve_address(None).managed
    assert resolve_address("unix:///o").path == "/o" and not resolve_address("unix:///o").managed


def test_queries_are_encoded() -> None:
    assert filters_query({"label": ["a=b"]}) == '{"label":{"a=b":true}}'
    assert quote_path("host:5000/a b@sha256:x") == "host:5000/a%20b%40sha256:x"


def test_bytes_that_are_no_utf8_are_replaced_in_bodies_as_gos_encoder_does() -> None:
    value = {"Env": [os.fsdecode(b"A=\xff\xfeb"), "\u00fc"]}
    assert json_bytes(value) == '{"Env":["A=\ufffd\ufffdb","\u00fc"]}'.encode()
