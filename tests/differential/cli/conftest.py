"""Both command lines on one engine, the oracle's or one that only records what it is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import pytest

from sampan.testing.docker_engine import DOCKER, DockerProcess

API_VERSION = "1.41"


@dataclass
class Outcome:
    status: int
    out: str
    err: str


@dataclass
class Side:
    """One of the two command lines, against one engine."""

    command: list[str]
    environment: dict[str, str]

    def run(
        self, *arguments: str, input: bytes | None = None, cwd: Path | None = None, timeout: float = 60
    ) -> Outcome:
        done = subprocess.run(
            [*self.command, *arguments],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            env=self.environment,
            cwd=cwd,
            timeout=timeout,
        )
        return Outcome(
            done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )


@dataclass
class Pair:
    docker: Side
    sampan: Side

    def both(self, *arguments: str, **options: Any) -> tuple[Outcome, Outcome]:
        return self.docker.run(*arguments, **options), self.sampan.run(*arguments, **options)


def make_pair(host: str, home: Path) -> Pair:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "DOCKER_HOST": host,
        "DOCKER_API_VERSION": API_VERSION,
        "DOCKER_BUILDKIT": "0",
        "LANG": "C.UTF-8",
        "FROM_HERE": "value from here",
    }
    return Pair(
        Side([DOCKER], environment), Side([sys.executable, "-I", "-m", "sampan.cli.main"], environment)
    )


class Recorder(ThreadingMixIn, UnixStreamServer):
    """An engine that accepts everything and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.requests: list[dict[str, Any]] = []
        super().__init__(str(path), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Recorder

    def setup(self) -> None:
        super().setup()
        self.client_address = ("local", 0)

    def log_message(self, *_: object) -> None:
        return

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self) -> None:
        body = self._body()
        if not self.path.endswith("/_ping"):
            path, _, query = self.path.partition("?")
            self.server.requests.append(
                {
                    "method": self.command,
                    "path": path,
                    "query": query,
                    "body": body,
                    "headers": dict(self.headers),
                }
            )
        answer: Any = {"Id": "a" * 64, "ID": "b" * 64, "Warnings": [], "Name": "named"}
        if self.command == "DELETE" and "/images/" in self.path:
            answer = [{"Untagged": "img:1"}]
        if self.path.endswith("/_ping"):
            answer = "OK"
        data = json.dumps(answer).encode()
        self.send_response(201 if "create" in self.path else 200)
        self.send_header("Api-Version", API_VERSION)
        self.send_header("Ostype", "linux")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_HEAD = do_DELETE = do_PUT = _answer


@dataclass
class Recording:
    pair: Pair
    server: Recorder
    taken: list[dict[str, Any]] = field(default_factory=list)

    def of(self, side: Side, *arguments: str, cwd: Path | None = None) -> list[dict[str, Any]]:
        self.server.requests.clear()
        outcome = side.run(*arguments, cwd=cwd)
        assert outcome.status == 0, outcome.err
        return list(self.server.requests)


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    path = tmp_path / "engine.sock"
    server = Recorder(path)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Recording(make_pair(f"unix://{path}", tmp_path), server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def pair(oracle: DockerProcess, tmp_path: Path) -> Iterator[Pair]:
    made = make_pair(oracle.host, tmp_path)
    yield made
    leftovers = made.docker.run("ps", "-aq").out.split()
    if leftovers:
        made.docker.run("rm", "-f", *leftovers)


@pytest.fixture
def renamed() -> Callable[[str], str]:
    """Docker's words with our name in them."""

    def rename(text: str) -> str:
        text = text.replace(DOCKER + ":", "sampan:").replace(f"'{DOCKER} ", "'sampan ")
        for old, new in (("docker: ", "sampan: "), ("'docker ", "'sampan "), ('"docker ', '"sampan ')):
            text = text.replace(old, new)
        return text.replace("Usage:  docker ", "Usage:  sampan ")

    return rename
