"""Clients of build sessions that die, lie or say nothing: their build ends with an error, and the engine goes on."""

from __future__ import annotations

import io
import json
import re
import secrets
import socket
import struct
import tarfile
from typing import Any

import pytest

from sampan.multiplex.frames import MAX_PAYLOAD, Frame, Kind, encode, header

pytestmark = pytest.mark.root

DOCKERFILE = b"FROM busybox\nRUN --mount=type=secret,id=token,required true\n"


def connect(sampan: Any) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    connection.connect(str(sampan.engine.socket))
    return connection


def open_session(sampan: Any, session: str) -> socket.socket:
    connection = connect(sampan)
    connection.sendall(
        f"POST /session?id={session} HTTP/1.1\r\nHost: x\r\nUpgrade: sampan-session\r\nConnection: Upgrade\r\n"
        "Content-Length: 0\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return connection


def start_build(sampan: Any, session: str) -> socket.socket:
    """The answer comes on this connection."""

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(DOCKERFILE)
        archive.addfile(entry, io.BytesIO(DOCKERFILE))
    body = out.getvalue()
    connection = connect(sampan)
    connection.sendall(
        f"POST /build?nocache=1&session={session} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Type: application/x-tar\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return connection


def rest(connection: socket.socket) -> str:
    found = b""
    while data := connection.recv(65536):
        found += data
    return found.decode()


def asked(session: socket.socket) -> int:
    """The number of the stream by which the engine asks for the secret."""
    head = session.recv(9, socket.MSG_WAITALL)
    kind, stream, length = struct.unpack(">BII", head)
    assert kind == Kind.OPEN
    assert json.loads(session.recv(length, socket.MSG_WAITALL)) == {"want": "secret", "name": "token"}
    return int(stream)


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lambda _: None, "the build's client is gone"),
        (lambda _: b"HTTP/1.1 200 OK\r\n\r\nnonsense", "the build's client is gone"),
        (lambda n: header(Kind.DATA, n, 1 << 30), "the build's client is gone"),
        (lambda n: encode(Frame(Kind.DATA, n, bytes(MAX_PAYLOAD))) * 9, "than 512000 bytes|client is gone"),
        (lambda n: encode(Frame(Kind.ERROR, n, b"no kind\0" + b"\xff" * 999)), "error"),
        (lambda n: encode(Frame(Kind.OPEN, n + 1, b"{}")), "the build's client is gone"),
    ],
)
def test_a_lie_ends_the_build_and_nothing_else(sampan: Any, lie: Any, words: str) -> None:

    session = secrets.token_hex(16)
    with open_session(sampan, session) as client, start_build(sampan, session) as build:
        answer = lie(asked(client))
        if answer is not None:
            client.sendall(answer)
        client.shutdown(socket.SHUT_RDWR)
        said = rest(build)
    assert '"error"' in said and re.search(words, said), said
    assert sampan.ok("version", "--format", "{{.Server.Os}}") == "linux"


def test_a_client_that_goes_away_ends_its_build_although_its_session_stays(sampan: Any) -> None:
    session = secrets.token_hex(16)
    with open_session(sampan, session) as client:
        with start_build(sampan, session):
            asked(client)
        assert client.recv(1) == b""  # the engine has closed it with the build


def test_a_session_serves_the_build_that_knows_it_once(sampan: Any) -> None:
    session = secrets.token_hex(16)
    with open_session(sampan, session) as client:
        with connect(sampan) as second:
            second.sendall(
                f"POST /session?id={session} HTTP/1.1\r\nHost: x\r\nUpgrade: sampan-session\r\n"
                "Connection: Upgrade\r\nContent-Length: 0\r\n\r\n".encode()
            )
            assert second.recv(20).startswith(b"HTTP/1.1 409")
        with start_build(sampan, session) as build:
            stream = asked(client)
            client.sendall(encode(Frame(Kind.DATA, stream, b"x")) + encode(Frame(Kind.END, stream)))
            assert "Successfully built" in rest(build)
        with start_build(sampan, session) as again:
            assert "no such build session" in rest(again)
