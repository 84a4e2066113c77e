"""A small registry that misbehaves as told, and records what it was asked: for tests of clients.

registry = MisbehavingRegistry()
registry.add_image("team/app", "1", manifest, {digest: data, ...})
registry.blob_faults[digest] = Fault(cut_at=1000, times=2)
with registry: ...
"""

from __future__ import annotations

import base64
import sys
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


@dataclass
class UploadFault:
    """What goes wrong with one request of an upload, the first one with this `method`.

    cut_at: so many bytes of the body are kept, then the connection is closed without an answer (the whole body and
    only the answer lost: -1 with `silent`). status: this answer instead, nothing is kept. forget: the upload
    is no longer known. expire: the token is no longer good (as 401 says). short: so many bytes fewer are kept than
    were sent, as the answer's Range says.
    """

    method: str = "PATCH"
    cut_at: int = -1
    silent: bool = False
    status: int = 0
    retry_after: str = ""
    forget: bool = False
    expire: bool = False
    short: int = 0


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class MisbehavingRegistry:
    """A context manager, on a free port of 127.0.0.1.

    token_realm: pulls need a Bearer token of the service at this URL ("own": this server's own /token, which
    wants `user` and `password`). basic: pulls need Basic credentials. Uploads: `chunk_minimum` is said in
    OCI-Chunk-Min-Length, `body_limit` is where 413 begins (0: nowhere), `no_chunks`: 405 for every PATCH,
    `one_chunk_only`: 416 for every one but the first.
    """

    user: str = "ann"
    password: str = "secret"
    basic: bool = False
    token_realm: str = ""
    identity_token: str = ""
    token: str = "the-token"
    chunk_minimum: int = 0
    body_limit: int = 0
    no_chunks: bool = False
    one_chunk_only: bool = False
    upload_faults: list[UploadFault] = field(default_factory=list)
    uploads: dict[str, bytearray] = field(default_factory=dict)
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

        self._server = _Server(("127.0.0.1", 0), Handler)
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

    def upload_fault_for(self, method: str) -> UploadFault:
        with self._lock:
            found = next((one for one in self.upload_faults if one.method == method), None)
            if found is not None:
                self.upload_faults.remove(found)
            return found or UploadFault()

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


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Silent about clients that left; anything else is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class UploadHandler(BaseHTTPRequestHandler):
    """The writing half: POST, PATCH, GET and PUT of an upload; PUT of a manifest."""

    state: MisbehavingRegistry

    def authorized(self) -> bool:
        raise NotImplementedError

    def record(self) -> None:
        raise NotImplementedError

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        raise NotImplementedError

    def do_PATCH(self) -> None:
        self.do_upload()

    def do_PUT(self) -> None:
        self.do_upload()

    def do_upload(self) -> None:
        if self.command != "GET":
            self.record()
        state = self.state
        fault = state.upload_fault_for(self.command)
        length = int(self.headers.get("Content-Length", "0"))
        if fault.expire:
            state.token += "-again"
        if fault.cut_at < 0 and not self._acceptable(length, fault):
            return
        parts = urlsplit(self.path)
        if "/manifests/" in parts.path:
            raw = self.rfile.read(length)
            state.manifests[parts.path] = (self.headers.get("Content-Type", ""), raw)
            self.send(201, b"", {"Docker-Content-Digest": digest_of(raw)})
        elif self.command == "POST":
            identity = str(len(state.asked))
            state.uploads[identity] = bytearray()
            minimum = str(state.chunk_minimum) if state.chunk_minimum else ""
            self._answer(202, identity, {"OCI-Chunk-Min-Length": minimum})
        else:
            self._continue(parts.path.rpartition("/")[2], length, fault, parse_qs(parts.query))

    def _acceptable(self, length: int, fault: UploadFault) -> bool:
        """Whether the request gets as far as its upload; else it has been answered."""
        limit = self.state.body_limit
        status = 413 if limit and length > limit else fault.status
        if status or (self.command == "PATCH" and self.state.no_chunks):
            self._drain(length)
            self.send(status or 405, b"", {"Retry-After": fault.retry_after})
            return False
        if not self.authorized():
            self._drain(length)
            return False
        return True

    def _continue(self, identity: str, length: int, fault: UploadFault, query: dict[str, list[str]]) -> None:
        if fault.forget:
            self.state.uploads.pop(identity, None)
        upload = self.state.uploads.get(identity)
        if upload is None:
            self._drain(length)
            self.send(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"blob upload unknown"}]}')
            return
        start = self.headers.get("Content-Range", "").partition("-")[0]
        refused = self.state.one_chunk_only and upload and self.command == "PATCH"
        if refused or (start and int(start) != len(upload)):
            self._drain(length)
            self._answer(416, identity)
            return
        if fault.cut_at >= 0:
            upload += self.rfile.read(fault.cut_at)
            self.close_connection = True
            return
        data = self.rfile.read(length)
        upload += data[: len(data) - fault.short]
        digests = query.get("digest")
        if digests:
            self.state.blobs[Digest(digests[0])] = bytes(upload)
            del self.state.uploads[identity]
        if fault.silent:
            self.close_connection = True
        elif digests:
            good = digest_of(bytes(upload)) == digests[0]
            self.send(201 if good else 400, b"")
        else:
            self._answer(204 if self.command == "GET" else 202, identity)

    def _answer(self, status: int, identity: str, headers: dict[str, str] | None = None) -> None:
        have = len(self.state.uploads[identity])
        path = urlsplit(self.path).path.rpartition("/blobs/")[0]
        self.send(
            status,
            b"",
            {
                "Location": f"{path}/blobs/uploads/{identity}",
                "Range": f"0-{max(have - 1, 0)}",
                **(headers or {}),
            },
        )

    def _drain(self, length: int) -> None:
        self.rfile.read(length)


class _Handler(UploadHandler):
    state: MisbehavingRegistry
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Silent: `asked` has it all."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        if "/blobs/uploads/" in self.path:
            self.do_upload()
            return
        length = int(self.headers.get("Content-Length", "0"))
        form = parse_qs(self.rfile.read(length).decode())
        self.record()
        if self.path.startswith("/token") and form.get("refresh_token") == [self.state.identity_token]:
            self.send(200, msgspec.json.encode({"access_token": self.state.token, "expires_in": 60}))
        else:
            self.send(401, b"{}")

    def do_GET(self) -> None:
        self.record()
        parts = urlsplit(self.path)
        if parts.path == "/token":
            self._token()
        elif not self._authorized():
            self._challenge()
        elif parts.path == "/v2/":
            self.send(200, b"{}")
        elif "/blobs/uploads/" in parts.path:
            self.do_upload()
        elif "/manifests/" in parts.path:
            self._manifest(parts.path)
        elif "/blobs/" in parts.path:
            self._blob(Digest(parts.path.rpartition("/")[2]))
        else:
            self.send(404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known"}]}')

    def authorized(self) -> bool:
        if not self._authorized():
            self._challenge()
            return False
        return True

    def record(self) -> None:
        self.state.record(Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.state.user}:{self.state.password}".encode()).decode()

    def _authorized(self) -> bool:
        given = self.headers.get("Authorization", "")
        if self.state.token_realm:
            return given == f"Bearer {self.state.token}"
        return not self.state.basic or given == self._basic()

    def _challenge(self) -> None:
        realm = self.state.token_realm
        if realm == "own":
            realm = f"http://{self.state.host}/token"
        header = f'Bearer realm="{realm}",service="test"' if realm else 'Basic realm="test"'
        self.send(
            401, b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}',
            {"WWW-Authenticate": header},
        )  # fmt: skip

    def _token(self) -> None:
        if self.headers.get("Authorization") != self._basic():
            self.send(401, b"{}")
            return
        answer: dict[str, object] = {"token": self.state.token, "expires_in": 300}
        if "offline_token=true" in self.path:
            answer["refresh_token"] = "the-identity"
        self.send(200, msgspec.json.encode(answer))

    def _manifest(self, path: str) -> None:
        found = self.state.manifests.get(path)
        if found is None:
            self.send(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
            return
        digest = self.state.claimed_digest or digest_of(found[1])
        self.send(200, found[1], {"Content-Type": found[0], "Docker-Content-Digest": digest})

    def _blob(self, digest: Digest) -> None:
        fault = self.state.fault_for(digest)
        data = self.state.blobs.get(digest) if fault.data is None else fault.data
        if fault.status or data is None:
            self.send(fault.status or 404, b"", {"Retry-After": fault.retry_after})
            return
        if fault.redirect:
            self.send(307, b"", {"Location": fault.redirect})
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

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
