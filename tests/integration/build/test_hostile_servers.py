"""Downloads and repositories from servers that mean harm: by what they say, how much of it, and how slowly."""

from __future__ import annotations

import base64
import contextlib
import itertools
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from sampan.build.errors import BuildCancelled
from sampan.build.fetch import git_transport
from sampan.build.fetch.git import resolve
from sampan.build.fetch.git_transport import Limits
from sampan.build.fetch.git_url import parse_git
from sampan.build.fetch.http import Download, check_url, download
from sampan.engine.remote_context import check_remote
from sampan.errors import Invalid, SampanError, Unavailable

Talk = Callable[[socket.socket, bytes], None]
"""What a server does with a connection on which a request (its bytes) has come."""
SOON = 8.0
"""Seconds: nothing here needs one, a server asks for hours."""


class Server:
    """Speaks to each connection as `talk` does; `heard` has the requests."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.heard: list[bytes] = []
        self.left = threading.Event()
        """A client has gone while it was spoken to."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            request = b""
            while b"\r\n\r\n" not in request:
                piece = connection.recv(65536)
                if not piece:
                    return
                request += piece
            self.heard.append(request)
            try:
                self._talk(connection, request)
            except OSError:
                self.left.set()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Talk], Server]]:
    servers: list[Server] = []

    def start(talk: Talk) -> Server:
        servers.append(Server(talk))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def said(text: bytes) -> Talk:
    return lambda connection, _request: connection.sendall(text)


def for_ever(start: bytes, piece: bytes, pause: float = 0.0) -> Talk:
    def talk(connection: socket.socket, _request: bytes) -> None:
        connection.sendall(start)
        nothing = threading.Event()
        while not nothing.wait(pause):
            connection.sendall(piece)

    return talk


def fetched(
    url: str, cancelled: threading.Event | None = None, *, authorization: str = ""
) -> tuple[Download | None, bytes]:
    with tempfile.TemporaryFile() as file:
        got = download(
            url, file, lambda _progress: None, cancelled or threading.Event(), authorization=authorization
        )
        return got, file.read()


def refused(work: Callable[[], object], *kinds: type[SampanError]) -> str:
    """The message of the error that comes soon."""
    begin = time.monotonic()
    with pytest.raises(kinds or Unavailable) as caught:
        work()
    assert time.monotonic() - begin < SOON
    return caught.value.message


OK = b"HTTP/1.1 200 OK\r\n"
FOUND = b"HTTP/1.1 302 Found\r\nLocation: "


def test_a_server_does_not_say_how_long_to_wait(serve: Callable[[Talk], Server]) -> None:
    busy = serve(said(b"HTTP/1.1 503 Busy\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n"))
    assert "503" in refused(lambda: fetched(f"{busy.url}/f"))
    file = serve(said(OK + b"Content-Length: 2\r\n\r\nok"))
    moved = serve(
        for_ever(FOUND + f"{file.url}/f\r\nRetry-After: 86400\r\n\r\n".encode(), b"endless" * 10_000)
    )
    begin = time.monotonic()
    assert fetched(f"{moved.url}/f")[1] == b"ok"
    assert time.monotonic() - begin < SOON


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "unix:///var/run/docker.sock",
        "gopher://127.0.0.1/",
        "ftp://127.0.0.1/x",
        "http://[::1/x",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:-1/",
        "http:///x",
        "http://" + "a" * 300 + "/",
        "//",
        "\u00ff",
    ],
)
def test_a_redirect_that_leads_nowhere_good_ends_the_build(
    serve: Callable[[Talk], Server], target: str
) -> None:
    location = target.encode("latin-1")
    server = serve(said(FOUND + location + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
    message = refused(lambda: fetched(f"{server.url}/f"))
    assert message.startswith(("cannot download", "Get "))


@pytest.mark.parametrize(
    "url", ["http://[::1/x", "http://a:99999/x", "http:///x", "http://", "https://a b/", "http://a/\r\nX: 1"]
)
def test_an_address_that_is_none_is_told_by_whoever_gives_it(url: str) -> None:
    for check in (check_url, check_remote):
        assert "invalid URL" in refused(lambda: check(url), Invalid)  # noqa: B023 (called at once)


def test_redirects_have_an_end(serve: Callable[[Talk], Server]) -> None:
    server = serve(said(FOUND + b"/again\r\nContent-Length: 0\r\n\r\n"))
    assert "stopped after 10 redirects" in refused(lambda: fetched(f"{server.url}/f"))
    assert len(server.heard) <= 12


def test_a_header_for_one_server_is_not_sent_to_the_next(serve: Callable[[Talk], Server]) -> None:
    other = serve(said(OK + b"Content-Length: 2\r\n\r\nok"))
    same = serve(lambda connection, request: connection.sendall(_first_here_then(request, other)))
    assert fetched(f"{same.url}/f", authorization="Bearer t0ken")[1] == b"ok"
    assert [b"t0ken" in request for request in same.heard] == [True, True]
    assert other.heard and b"t0ken" not in other.heard[0]


def _first_here_then(request: bytes, other: Server) -> bytes:
    target = b"/second" if request.startswith(b"GET /f ") else f"{other.url}/third".encode()
    return FOUND + target + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nshort",
        OK + b"Content-Length: 10\r\n\r\nshort",
        OK + b"Content-Length: -1\r\nContent-Length: 3\r\n\r\nshort",
        OK + b"Content-Length: \xd9\xa3\r\n\r\nshort",
        OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx",
        OK + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        OK + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nshort",
        OK + b"X: 1\r\n" * 1000 + b"\r\n",
        OK + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/9.9 abc\r\n\r\n",
        b"HTTP/1.1 99999999999999999999 OK\r\n\r\n",
        b"\0" * 1000,
        b"",
        OK + b"Last-Modified: Mon, 99 Foo 99999 99:99:99 +99999999999\r\nContent-Length: 2\r\n\r\nok",
        OK + b"ETag: " + b"e" * 60_000 + b"\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100 + OK + b"Content-Length: 2\r\n\r\nok",
    ],
)
def test_an_answer_that_is_none_is_an_error_of_the_build(
    serve: Callable[[Talk], Server], answer: bytes
) -> None:
    server = serve(said(answer))
    begin = time.monotonic()
    with contextlib.suppress(Unavailable):
        got, content = fetched(f"{server.url}/f")
        assert got is not None and content in (b"ok", b"short", b"")
    assert time.monotonic() - begin < SOON


@pytest.mark.parametrize(
    ("start", "piece", "pause"),
    [
        (OK + b"X: ", b"y", 0.2),
        (OK + b"Content-Length: 1000000\r\n\r\n", b"y", 0.2),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n", b"y", 0.2),
        (b"", b"", 0.2),
    ],
)
def test_a_server_that_drips_does_not_hold_a_cancelled_build(
    serve: Callable[[Talk], Server], start: bytes, piece: bytes, pause: float
) -> None:
    cancelled = threading.Event()
    drips = for_ever(start, piece, pause)

    def talk(connection: socket.socket, request: bytes) -> None:
        cancelled.set()
        drips(connection, request)

    server = serve(talk)
    refused(lambda: fetched(f"{server.url}/f", cancelled), BuildCancelled)
    if piece:
        assert server.left.wait(SOON)  # nor does the download go on in the background


def asked(url: str, limits: Limits | None = None) -> object:
    return resolve(parse_git(url), limits or Limits(threading.Event()))


_REFS = OK + b"Content-Type: application/x-git-upload-pack-advertisement\r\n\r\n"


def test_what_a_git_server_says_of_its_references_is_bounded(
    serve: Callable[[Talk], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are held in memory, unlike a pack: the bound of one is not that of the other."""
    monkeypatch.setattr(git_transport, "MAX_REFERENCES", 1 << 20)
    line = b"0" * 40 + b" refs/heads/" + b"a" * 60_000
    packets = b"%04x%s" % (len(line) + 4, line)
    server = serve(for_ever(_REFS + b"001e# service=git-upload-pack\n0000", packets))
    assert "beside its files" in refused(lambda: asked(f"{server.url}/r.git"), Invalid)
    assert server.left.wait(SOON)


def test_a_server_of_files_is_no_git_server(serve: Callable[[Talk], Server]) -> None:
    """What Git calls a dumb one: objects one by one, each unpacked whatever its size."""
    server = serve(said(OK + b"Content-Type: text/plain\r\n\r\n" + b"1" * 40 + b"\trefs/heads/main\n"))
    assert "is no git server" in refused(lambda: asked(f"{server.url}/r.git"))
    assert len(server.heard) == 1


def test_a_git_server_says_neither_how_long_to_wait_nor_where_to_send_the_password(
    serve: Callable[[Talk], Server],
) -> None:
    busy = serve(said(b"HTTP/1.1 503 Busy\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n"))
    assert "503" in refused(lambda: asked(f"{busy.url}/r.git"))
    other = serve(said(_REFS + b"001e# service=git-upload-pack\n0000" + b"0000"))
    target = f"{other.url}/r.git/info/refs?service=git-upload-pack".encode()
    moved = serve(for_ever(FOUND + target + b"\r\nRetry-After: 86400\r\n\r\n", b"endless" * 1000))
    url = f"http://user:t0ken@127.0.0.1:{moved.port}/r.git"
    refused(lambda: asked(url), SampanError)
    secret = base64.b64encode(b"user:t0ken")
    assert secret in moved.heard[0]
    assert other.heard and all(secret not in request for request in other.heard)
    for bad in ("file:///etc/", "http://[::1/info/refs"):
        wrong = serve(said(FOUND + bad.encode() + b"\r\nContent-Length: 0\r\n\r\n"))
        refused(lambda: asked(f"{wrong.url}/r.git"))  # noqa: B023 (called at once)
    drips = serve(for_ever(_REFS, b"0", 0.2))
    cancelled = threading.Event()
    threading.Timer(0.5, cancelled.set).start()
    refused(lambda: asked(f"{drips.url}/r.git", Limits(cancelled)), BuildCancelled)
    assert drips.left.wait(SOON)


def test_the_keys_of_the_engines_user_are_not_for_builds() -> None:
    """ssh would offer ~/.ssh/id_* of root to whatever host a Dockerfile names; the client's agent is what counts."""
    options = list(itertools.pairwise(git_transport._SSH))
    assert ("-o", "IdentityFile=none") in options and ("-F", "none") in options
