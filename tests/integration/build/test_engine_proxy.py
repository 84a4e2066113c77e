"""What an engine behind a proxy fetches for a build goes through it; what it runs knows nothing of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

FILES = {
    "http://files.test/data": b"data of another network\n",
    "http://files.test/Dockerfile": b"FROM busybox\nADD http://files.test/data /data\nRUN env > /env\n",
}


class _Proxy(BaseHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        self.asked.append(self.path)
        found = FILES.get(self.path)
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Length", str(len(found or b"")))
        self.end_headers()
        self.wfile.write(found or b"")

    def do_CONNECT(self) -> None:
        self.asked.append(self.path)
        self.send_error(403)


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    handler = type("Handler", (_Proxy,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}", handler.asked  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()


def test_a_build_fetches_through_the_engines_proxy(
    make_sampan: Callable[..., Any], proxy: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, asked = proxy
    config = {"proxies": {"http-proxy": f"http://me:secret@{address}", "no-proxy": "direct.test"}}
    sampan = make_sampan(tmp_path / "engine", config=config, options=("--https-proxy", address))
    try:
        sampan.ok("build", "-t", "fetched", "http://files.test/Dockerfile")
        assert asked == ["http://files.test/Dockerfile", "http://files.test/data"]
        files = sampan.ok("run", "--rm", "--network", "none", "fetched", "cat", "/data", "/env")
        assert "data of another network" in files
        assert address not in files and "proxy" not in files.lower()
        assert "403 Forbidden" in sampan.run("pull", "registry.test/app:1").stderr
        assert asked[-1] == "registry.test:443"
        told = json.loads(sampan.ok("info", "--format", "{{json .}}"))
        assert (told["HttpProxy"], told["NoProxy"]) == (f"http://xxxxx:xxxxx@{address}", "direct.test")
        sampan.run("build", "-", stdin=b"FROM scratch\nADD http://direct.test/x /\n")
        assert asked[-1] == "registry.test:443"
    finally:
        sampan.close()
        sampan.engine.stop()
