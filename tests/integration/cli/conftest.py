"""The oracle of the differential tests: Debian's docker client and engine.

They run only when SAMPAN_DIFFERENTIAL=1 asks for them, and then fail, never skip, when something is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
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

DOCKER = "/usr/bin/docker"
DOCKERD = "/usr/sbin/dockerd"
API_VERSION = "1.41"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("SAMPAN_DIFFERENTIAL") == "1":
        return
    here = Path(__file__).parent
    for item in items:
        if here in Path(str(item.path)).parents and item.get_closest_marker("differential") is None:
            item.add_marker(
                pytest.mark.skip(reason="compares with Debian's docker: set SAMPAN_DIFFERENTIAL=1")
            )


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

    def run(self, *arguments: str, input: bytes | None = None, cwd: Path | None = None) -> Outcome:
        done = subprocess.run(
            [*self.command, *arguments],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            env=self.environment,
            cwd=cwd,
            timeout=60,
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


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dockerd of our own with a busybox image; yields its address."""
    root = tmp_path_factory.mktemp("dockerd")
    path = root / "d.sock"
    log = (root / "log").open("wb")
    process = subprocess.Popen(
        [
            DOCKERD,
            f"--data-root={root}/data",
            f"--exec-root={root}/exec",
            f"--host=unix://{path}",
            f"--pidfile={root}/pid",
            "--bridge=none",
            "--iptables=false",
        ],
        stdout=log,
        stderr=log,
    )
    try:
        _await_listening(path, process, root / "log")
        _import_busybox(f"unix://{path}", root)
        yield f"unix://{path}"
    finally:
        process.terminate()
        process.wait(30)
        log.close()
        _unmount_below(root)
        shutil.rmtree(root, ignore_errors=True)


def _await_listening(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """The kernel offers no event for a socket that begins to listen: poll, with a deadline."""
    import time

    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                time.sleep(0.05)
                continue
            return
    pytest.fail(f"dockerd did not start:\n{log.read_text()[-3000:]}")


def _import_busybox(host: str, root: Path) -> None:
    tree = root / "busybox"
    for name in ("bin", "etc", "tmp", "root"):
        (tree / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, tree / "bin/busybox")
    for applet in subprocess.run(
        [busybox, "--list"], capture_output=True, text=True, check=True
    ).stdout.split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    with subprocess.Popen(["tar", "-C", tree, "-c", "."], stdout=subprocess.PIPE) as tar:
        command = [DOCKER, "--host", host, "import", "-c", 'CMD ["sh"]', "-", "busybox:latest"]
        subprocess.run(command, stdin=tar.stdout, check=True, capture_output=True)


def _unmount_below(root: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    for place in sorted((line.split()[1] for line in mounts), reverse=True):
        if place.startswith(str(root)):
            subprocess.run(["umount", "-l", place])


@pytest.fixture
def pair(engine: str, tmp_path: Path) -> Iterator[Pair]:
    made = make_pair(engine, tmp_path)
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
