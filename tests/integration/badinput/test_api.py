"""Clients of the API that are broken, greedy or gone: the engine serves the others on."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"


def connect(sampan: Any) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(str(sampan.engine.socket))
    return connection


def exchange(sampan: Any, data: bytes) -> bytes:
    """Everything that is answered until the engine closes or pauses for a second."""
    with connect(sampan) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        connection.settimeout(1)
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while chunk := connection.recv(65536):
                answer += chunk
        return answer


def request(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def alive(sampan: Any) -> None:
    assert exchange(sampan, request("GET", "/_ping")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"Image": 7}',
        b'{"Image": "busybox", "HostConfig": []}',
        b'{"Image": "busybox", "HostConfig": {"Memory": "much"}}',
        b'{"Image": "busybox", "HostConfig": {"Memory": 1e400}}',
        b'{"Image": "busybox", "HostConfig": {"PortBindings": {"99999/tcp": [{"HostPort": "x"}]}}}',
        b'{"Image": "busybox", "HostConfig": {"Binds": ["::::"]}}',
        b'{"Image": "busybox", "Env": [null]}',
        b'{"Image": "busybox", "Cmd": ["true", "a\\u0000b"]}',
        b'{"Image": "busybox", "User": "a\\u0000b"}',
        b'{"Image": "../../etc"}',
        b"[" * 100_000,
        b'{"Image": "' + b"x" * 3_000_000 + b'"}',
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_a_malformed_body_is_a_client_error_with_a_message(sampan: Any, body: bytes) -> None:
    answer = exchange(sampan, request("POST", "/v1.41/containers/create", body))
    status = int(answer.split(b" ", 2)[1])
    assert 400 <= status < 500
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["message"]
    assert sampan.ok("ps", "-aq") == ""


@pytest.mark.parametrize(
    "path",
    [
        "/v1.41/containers/..%2f..%2fetc/json",
        "/v1.41/containers/json?filters=%7Bnot",
        "/v1.41/containers/json?filters=%7B%22nosuch%22%3A%5B%22x%22%5D%7D",
        "/v1.41/containers/json?limit=abc",
        "/v99.0/info",
        "/v1.41/nothing/here",
        "/v1.41/images/%00/json",
        "/v1.41/events?since=yesterday",
        "/v1.41/containers/x/logs?stdout=1&tail=-5x",
        "/" + "a" * 7000,
    ],
)
def test_a_nonsensical_request_is_a_client_error(sampan: Any, path: str) -> None:
    answer = exchange(sampan, request("GET", path))
    assert 400 <= int(answer.split(b" ", 2)[1]) < 500


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
        b"GET /info HTTP/9.9\r\n\r\n",
        b"GET /info HTTP/1.1\r\n" + b"X: " + b"y" * 2_000_000,
        b"GET /info HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(100_000)),
        b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
        b"POST /v1.41/build HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ids=[
        "TLS",
        "wrong version",
        "long field",
        "many fields",
        "negative",
        "huge",
        "bad chunk",
        "both",
    ],
)
def test_what_is_not_http_is_refused_and_the_engine_serves_on(sampan: Any, data: bytes) -> None:
    answer = exchange(sampan, data)
    assert answer == b"" or 400 <= int(answer.split(b" ", 2)[1]) < 500
    alive(sampan)


def test_a_half_closed_connection_gets_its_answer(sampan: Any) -> None:
    with connect(sampan) as connection:
        connection.sendall(b"GET /v1.41/version HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200")


def test_two_hundred_connections_at_once_are_served(sampan: Any) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connect(sampan)) for _ in range(200)]
        for connection in idle[:100]:
            connection.sendall(b"GET /v1.41/containers/json HTTP/1.1\r\nHost: x\r\n\r\n")
        for connection in idle[100:]:
            connection.sendall(b"GET /v1.41/containers/json HTTP/1.1\r\nHo")
        assert sampan.ok("run", "--rm", BUSYBOX, "echo", "served") == "served"
        for connection in idle[100:]:
            connection.sendall(b"st: x\r\n\r\n")
        for connection in idle:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def _hijack(sampan: Any, path: str, body: bytes = b"") -> socket.socket:
    """An upgraded connection; nothing is read of it but the head."""
    connection = connect(sampan)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall((head + fields).encode() + body)
    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += connection.recv(1)
    assert seen.startswith(b"HTTP/1.1 101"), seen
    return connection


def descriptors(sampan: Any) -> int:
    return len(list(Path(f"/proc/{sampan.engine.pid}/fd").iterdir()))


def test_clients_of_attach_and_exec_that_vanish_do_no_harm(sampan: Any, wait_until: Any) -> None:
    container = sampan.ok("run", "-d", "-i", BUSYBOX, "sh", "-c", "while :; do echo tick; sleep 0.01; done")
    sampan.ok("exec", container, "true")
    before = descriptors(sampan)
    for _ in range(30):
        attached = _hijack(sampan, f"/v1.41/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1")
        attached.close()
        created = sampan.api.api.exec_create(container, ["cat"], stdin=True)["Id"]
        executed = _hijack(sampan, f"/v1.41/exec/{created}/start", b'{"Detach": false, "Tty": false}')
        executed.close()
    # `cat` ends with its input: the client that went away.
    wait_until(lambda: "cat" not in sampan.ok("top", container).split(), "the end of the execs")
    wait_until(lambda: descriptors(sampan) <= before + 3, "the descriptors' return")
    assert sampan.ok("exec", container, "echo", "alive") == "alive"


def test_a_slow_reader_of_logs_or_attach_stops_neither_container_nor_engine(
    sampan: Any, wait_until: Any
) -> None:
    script = "read go; seq 1 300000; echo finished > /tmp/finished; sleep 1000"
    container = sampan.ok("run", "-d", "-i", BUSYBOX, "sh", "-c", script)
    slow = _hijack(sampan, f"/v1.41/containers/{container}/attach?stream=1&stdout=1")
    with connect(sampan) as follower, slow:
        follower.sendall(
            f"GET /v1.41/containers/{container}/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
        with _hijack(sampan, f"/v1.41/containers/{container}/attach?stream=1&stdin=1") as typing:
            typing.sendall(b"go\n")
            wait_until(
                lambda: sampan.run("exec", container, "cat", "/tmp/finished").returncode == 0,
                "the end of output",
            )
        alive(sampan)
        status = Path(f"/proc/{sampan.engine.pid}/status").read_text()
        resident = int(status.partition("VmRSS:")[2].split()[0])
        assert resident < 300_000, f"the engine holds {resident} KiB"
    lines = sampan.ok("logs", container).splitlines()
    assert lines == [str(n) for n in range(1, 300001)]


def test_a_client_that_leaves_in_the_middle_of_an_upload_leaves_nothing(sampan: Any, wait_until: Any) -> None:
    for path in (
        "/v1.41/build?t=never:1",
        "/v1.41/images/load",
        "/v1.41/images/create?fromSrc=-&repo=never&tag=1",
    ):
        with connect(sampan) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-tar\r\n"
            connection.sendall(head.encode() + b"Content-Length: 1000000\r\n\r\n" + b"\0" * 5000)
    builds = sampan.engine.root / "builds"
    wait_until(lambda: not builds.exists() or not list(builds.iterdir()), "the removal of the context")
    assert sampan.ok("images", "-q", "never") == ""
    alive(sampan)


def test_a_client_that_leaves_stops_its_build(sampan: Any, wait_until: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo begun; sleep 987\n")
    client = sampan.start("build", "-t", "never:1", str(tmp_path))
    for line in client.stdout:
        if line.startswith(b"begun"):
            break
    client.kill()
    client.communicate()

    def sleepers() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if b"sleep\x00987" in (process / "cmdline").read_bytes():
                    found.append(process.name)
        return found

    wait_until(lambda: not sleepers(), "the end of the build's command")
    assert sampan.ok("images", "-q", "never") == ""


def test_many_clients_at_once_get_consistent_answers(sampan: Any) -> None:
    errors: list[str] = []

    def work(number: int) -> None:
        name = f"many{number}"
        done = sampan.run("run", "--name", name, BUSYBOX, "echo", name)
        if (done.returncode, done.stdout) != (0, f"{name}\n"):
            errors.append(f"{name}: {done.returncode} {done.stdout}{done.stderr}")
        removed = sampan.run("rm", name)
        if removed.returncode:
            errors.append(removed.stderr)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sampan.ok("ps", "-aq") == ""
