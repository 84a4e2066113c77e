"""A small registry that misbehaves as told, and records what it was asked: for tests of clients.

registry = MisbehavingRegistry()
registry.add_image("team/app", "1", manifest, {digest: data, ...})
registry.blob_faults[digest] = Fault(cut_at=1000, times=2)
with registry: ...
"""

from __future__ import annotations

import base64
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

import msgspec

from sampan.oci import media
from sampan.oci.digest import Digest, digest_of

ENDLESS_BLOCK = bytes(1 << 16)


@dataclass
class Fault:
    """What goes wrong with a blob, the first `times` times it is asked for.

    cut_at: the connection is closed after so many bytes of the answer; with `stall` nothing more comes
    instead. status: this answer instead (with
    Retry-After: `retry_after`). ignore_range: 200 and everything. data: other bytes. endless: bytes without end.
    redirect: to this URL. wrong_range: 206 from another position than was asked for.
    """

    times: int = 1_000_000
    cut_at: int = -1
    stall: bool = False
    status: int = 0
    retry_after: str = ""
    ignore_range: bool = False
    data: bytes | None = None
    endless: bool = False
    redirect: str = ""
    wrong_range: bool = False


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class MisbehavingRegistry:
    """A context manager, on a free port of 127.0.0.1.

    token_realm: pulls need a Bearer token of the service at this URL ("own": this server's own /token, which
    wants `user` and `password`). basic: pulls need Basic credentials.
    """

    user: str = "ann"
    password: str = "secret"
    basic: bool = False
    token_realm: str = ""
    identity_token: str = ""
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    claimed_digest: str = ""
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    blob_faults: dict[Digest, Fault] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._counts: dict[Digest, int] = defaultdict(int)
        self._lock = threading.Lock()
        registry = self

        class Handler(_Handler):
            state = registry

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def add_manifest(self, path: str, tag: str, raw: bytes, media_type: str = media.OCI_MANIFEST) -> Digest:
        digest = digest_of(raw)
        for name in (tag, digest):
            self.manifests[f"/v2/{path}/manifests/{name}"] = (media_type, raw)
        return digest

    def add_blob(self, data: bytes) -> Digest:
        digest = digest_of(data)
        self.blobs[digest] = data
        return digest

    def asked_for(self, part: str) -> list[Asked]:
        with self._lock:
            return [one for one in self.asked if part in one.path]

    def fault_for(self, digest: Digest) -> Fault:
        """The fault that applies to this request, counted."""
        fault = self.blob_faults.get(digest)
        with self._lock:
            self._counts[digest] += 1
            return fault if fault is not None and self._counts[digest] <= fault.times else Fault()

    def record(self, asked: Asked) -> None:
        with self._lock:
            self.asked.append(asked)

    def __enter__(self) -> MisbehavingRegistry:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: MisbehavingRegistry
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Silent: `asked` has it all."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        form = parse_qs(self.rfile.read(length).decode())
        self._record()
        if self.path.startswith("/token") and form.get("refresh_token") == [self.state.identity_token]:
            self._send(200, msgspec.json.encode({"access_token": "the-token", "expires_in": 60}))
        else:
            self._send(401, b"{}")

    def do_GET(self) -> None:
        self._record()
        parts = urlsplit(self.path)
        if parts.path == "/token":
            self._token()
        elif not self._authorized():
            self._challenge()
        elif parts.path == "/v2/":
            self._send(200, b"{}")
        elif "/manifests/" in parts.path:
            self._manifest(parts.path)
        elif "/blobs/" in parts.path:
            self._blob(Digest(parts.path.rpartition("/")[2]))
        else:
            self._send(404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known"}]}')

    def _record(self) -> None:
        self.state.record(Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.state.user}:{self.state.password}".encode()).decode()

    def _authorized(self) -> bool:
        given = self.headers.get("Authorization", "")
        if self.state.token_realm:
            return given == "Bearer the-token"
        return not self.state.basic or given == self._basic()

    def _challenge(self) -> None:
        realm = self.state.token_realm
        if realm == "own":
            realm = f"http://{self.state.host}/token"
        header = f'Bearer realm="{realm}",service="test"' if realm else 'Basic realm="test"'
        self._send(
            401, b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}',
            {"WWW-Authenticate": header},
        )  # fmt: skip

    def _token(self) -> None:
        if self.headers.get("Authorization") != self._basic():
            self._send(401, b"{}")
            return
        answer: dict[str, object] = {"token": "the-token", "expires_in": 300}
        if "offline_token=true" in self.path:
            answer["refresh_token"] = "the-identity"
        self._send(200, msgspec.json.encode(answer))

    def _manifest(self, path: str) -> None:
        found = self.state.manifests.get(path)
        if found is None:
            self._send(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
            return
        digest = self.state.claimed_digest or digest_of(found[1])
        self._send(200, found[1], {"Content-Type": found[0], "Docker-Content-Digest": digest})

    def _blob(self, digest: Digest) -> None:
        fault = self.state.fault_for(digest)
        data = self.state.blobs.get(digest) if fault.data is None else fault.data
        if fault.status or data is None:
            self._send(fault.status or 404, b"", {"Retry-After": fault.retry_after})
            return
        if fault.redirect:
            self._send(307, b"", {"Location": fault.redirect})
            return
        if fault.endless:
            self._endless()
            return
        start = 0
        wanted = self.headers.get("Range", "")
        if wanted and not fault.ignore_range:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if fault.wrong_range:
                start += 1
        self._partly(data, start, fault, ranged=bool(wanted) and not fault.ignore_range)

    def _partly(self, data: bytes, start: int, fault: Fault, *, ranged: bool) -> None:
        body = data[start:]
        cut_at = fault.cut_at
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(body)))
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(body if cut_at < 0 else body[:cut_at])
        if 0 <= cut_at < len(body):
            self.close_connection = True
            if fault.stall:
                self.rfile.read(1)  # until the client closes

    def _endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        try:
            while True:
                self.wfile.write(ENDLESS_BLOCK)
        except (BrokenPipeError, ConnectionResetError):
            return  # the client has had enough

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
