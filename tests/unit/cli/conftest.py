"""An engine made of canned answers, on a Unix socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import pytest

CONTAINER = {
    "Id": "0123456789abcdef" * 4,
    "Names": ["/one"],
    "Image": "busybox",
    "Command": "sh",
    "Created": 0,
    "State": "running",
    "Status": "Up 3 minutes",
    "Ports": [],
    "Labels": {"a": "b"},
}
ANSWERS: dict[tuple[str, str], tuple[int, Any]] = {
    ("GET", "/version"): (200, {"Version": "1", "ApiVersion": "1.47", "MinAPIVersion": "1.24"}),
    ("GET", "/containers/json"): (200, [CONTAINER]),
    ("POST", "/containers/create"): (201, {"Id": "f" * 64, "Warnings": []}),
    ("POST", f"/containers/{'f' * 64}/start"): (204, None),
    ("POST", "/build"): (200, {"aux": {"ID": "sha256:" + "e" * 64}}),
}


class FakeEngine(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self.answers = dict(ANSWERS)
        super().__init__(str(path), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeEngine

    def setup(self) -> None:
        super().setup()
        self.client_address = ("local", 0)

    def log_message(self, *_: object) -> None:
        return

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self) -> None:
        body = self._body()
        path = self.path.partition("?")[0]
        path = path[path.index("/", 1) :] if path.startswith("/v1.") else path
        self.server.seen.append((self.command, self.path, body))
        status, value = self.server.answers.get((self.command, path), (404, {"message": f"no {path}"}))
        # Bytes are a stream, as it is.
        data = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_DELETE = do_HEAD = _answer


@pytest.fixture
def engine_server(tmp_path: Path) -> Iterator[FakeEngine]:
    server = FakeEngine(tmp_path / "engine.sock")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def fake_engine(engine_server: FakeEngine) -> Path:
    return Path(str(engine_server.server_address))
