"""ADD of URLs from a server of the test's own, and the mounts of RUN, over plain directories."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sampan.build.errors import DockerfileError
from sampan.build.events import Failure, Vertex
from sampan.build.files.context import Context
from sampan.build.model import BuildRequest
from sampan.build.session import NO_CLIENT, ClientSession
from sampan.build.solver.builder import Builder
from sampan.build.worker import CacheWish
from sampan.errors import Invalid, NotFound, SampanError, Unavailable
from sampan.oci.digest import Digest
from sampan.testing.fake_client import FakeClient
from sampan.testing.fake_worker import FakeTable, FakeWorker

pytestmark = pytest.mark.root

CONTENT = b"downloaded " * 1000


class _Handler(BaseHTTPRequestHandler):
    asked: list[str]
    etag = '"one"'
    content = CONTENT
    modified = "Sun, 09 Sep 2001 01:46:40 GMT"

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/file.txt")
            self.end_headers()
            return
        if self.path.startswith(("/tagged", "/dated")) and self._is_known():
            self.asked[-1] += " unchanged"
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(200)
        if self.path.startswith("/tagged"):
            self.send_header("ETag", self.etag)
        length = len(self.content) + (10 if self.path.startswith("/short") else 0)
        self.send_header("Content-Length", str(length))
        self.send_header("Last-Modified", self.modified)
        self.end_headers()
        self.wfile.write(self.content)

    def _is_known(self) -> bool:
        since = self.headers.get("If-Modified-Since") == "Sun, 09 Sep 2001 01:46:40 GMT"
        return self.headers.get("If-None-Match") == self.etag or (since and self.path.startswith("/dated"))

    def log_message(self, format: str, *args: object) -> None:
        pass


class Site:
    def __init__(self, directory: Path, url: str, asked: list[str]) -> None:
        self.url, self.asked = url, asked
        self.worker = FakeWorker(directory / "worker")
        self.worker.add_image("base", {"/x": ""})
        self.builder = Builder(self.worker, None, table=FakeTable())
        self.context = directory / "context"
        self.context.mkdir()
        self.text = ""
        self.hits = 0
        self.failures: list[Failure] = []

    def build(self, dockerfile: str, client: ClientSession = NO_CLIENT) -> Digest:
        self.text = ""
        self.hits = 0
        fd = os.open(self.context, os.O_RDONLY | os.O_DIRECTORY)
        request = BuildRequest(dockerfile_text=dockerfile.replace("URL", self.url).encode())
        try:
            return self.builder.build(request, Context(fd), self._report, threading.Event(), client)
        finally:
            os.close(fd)
            assert self.worker.open_snapshots == []

    def _report(self, event: object) -> None:
        self.text += getattr(event, "data", b"").decode()
        self.hits += isinstance(event, Vertex) and event.cached
        self.failures += [event] if isinstance(event, Failure) else []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket.settimeout(
        1
    )  # a connection can vanish between select and accept, which would then wait for ever
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield Site(tmp_path, f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_url_becomes_a_file_for_its_owner_alone(site: Site) -> None:
    lines = "ADD URL/some/file.txt?x=1 URL/some/dir/ URL/a%2Fb%20c /d/\nADD URL/moved /named\n"
    lines += "ADD --unpack URL/no/archive /no/\n"
    tree = site.worker.tree(site.build(f"FROM base\n{lines}"))
    info = (tree / "d/file.txt").stat()
    assert (tree / "d/file.txt").read_bytes() == CONTENT == (tree / "named").read_bytes()
    assert sorted(path.name for path in (tree / "d").iterdir()) == ["b c", "dir", "file.txt"]
    assert (info.st_mode & 0o7777, info.st_uid, info.st_mtime) == (0o600, 0, 1_000_000_000)
    assert (tree / "no/archive").read_bytes() == CONTENT


def test_a_url_is_asked_again_and_cached_by_content(site: Site) -> None:
    for _ in range(2):
        site.build("FROM base\nADD URL/file.txt /\n")
    assert site.asked == ["/file.txt", "/file.txt"]
    assert site.hits == 1


@pytest.mark.parametrize("name", ["tagged", "dated"])
def test_a_url_is_not_downloaded_again_when_its_server_calls_it_unchanged(site: Site, name: str) -> None:
    for base in ("base", "base", "other"):
        site.worker.add_image("other", {"/y": ""})
        tree = site.worker.tree(site.build(f"FROM {base}\nADD URL/{name} /\n"))
        assert (tree / name).read_bytes() == CONTENT
    # Another base needs the file itself after all.
    assert site.asked == [f"/{name}", f"/{name} unchanged", f"/{name} unchanged", f"/{name}"]


def test_a_url_with_another_tag_is_downloaded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.build("FROM base\nADD URL/tagged /\n")
    monkeypatch.setattr(_Handler, "etag", '"two"')
    site.build("FROM base\nADD URL/tagged /\n")
    assert (site.asked, site.hits) == (["/tagged", "/tagged"], 1)
    site.build("FROM base\nADD URL/tagged /\n")
    assert (site.asked[2:], site.hits) == (["/tagged unchanged"], 1)


def test_a_url_that_changes_after_its_server_called_it_unchanged_is_not_kept_as_what_it_was(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step's key says what was there before: other content under it would be found for ever."""
    site.worker.add_image("other", {"/y": ""})
    site.build("FROM base\nADD URL/tagged /\n")
    monkeypatch.setattr(_Handler, "content", b"changed " * 1000)
    with pytest.raises(Unavailable, match="/tagged changed while the build read it"):
        site.build("FROM other\nADD URL/tagged /\n")
    tree = site.worker.tree(site.build("FROM other\nADD URL/tagged /\n"))
    assert (tree / "tagged").read_bytes() == b"changed " * 1000


def test_the_time_that_a_server_gives_a_file_does_not_count(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = site.build("FROM base\nADD URL/file.txt /\n")
    monkeypatch.setattr(_Handler, "modified", "Sun, 09 Sep 2001 01:46:41 GMT")
    assert site.build("FROM base\nADD URL/file.txt /\n") == first
    assert site.hits == 1


def test_a_url_with_a_checksum_is_not_asked_again(site: Site) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    for _ in range(2):
        site.build(f"FROM base\nADD --checksum=sha256:{digest} URL/file.txt /\n")
    assert site.asked == ["/file.txt"]


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("ADD --checksum=sha256:" + "0" * 64 + " URL/file.txt /", Invalid, "digest mismatch"),
        ("ADD --checksum=md5:1 URL/file.txt /", Invalid, "invalid checksum"),
        ("ADD URL/missing /", Unavailable, "invalid response status 404"),
        ("ADD URL/short /", Unavailable, "cannot download"),
        ("ADD http://127.0.0.1:1/x /", Unavailable, "127.0.0.1:1: connect: connection refused$"),
        ("ADD URL/ /d/", Invalid, "cannot determine filename for source"),
        ("COPY URL/file.txt /d/", Invalid, "source can.t be a URL for COPY"),
    ],
)
def test_a_download_that_fails_is_told(site: Site, line: str, kind: type[SampanError], message: str) -> None:
    with pytest.raises(kind, match=message):
        site.build(f"FROM base\n{line}\n")


def test_run_gets_its_mounts(site: Site) -> None:
    (site.context / "conf").mkdir()
    (site.context / "conf/a").write_text("1")
    dockerfile = (
        "FROM base\nWORKDIR /w\nRUN --mount=target=/c,source=conf --mount=type=cache,target=/k,id=pip "
        "--mount=type=tmpfs,target=t,size=4k true\n"
    )
    site.build(dockerfile)
    bind, cache, tmpfs = site.worker.runs[0].mounts
    assert (bind.kind, bind.target, bind.path, bind.readonly) == ("bind", "/c", "conf", True)
    assert (cache.kind, cache.target, cache.path, cache.readonly) == ("bind", "/k", ".", False)
    assert site.worker.caches == [CacheWish("pip")]
    assert (tmpfs.kind, tmpfs.target, tmpfs.size) == ("tmpfs", "/w/t", 4096)


def test_a_step_gets_the_secrets_that_its_client_has(site: Site) -> None:
    client = FakeClient({"token": b"hunter2", "word": b"w"})
    site.build(
        "FROM base\nWORKDIR /w\nRUN --mount=type=secret,id=token "
        "--mount=type=secret,id=word,env=WORD,target=x,mode=644 "
        "--mount=type=secret,id=none,env=NONE true\nRUN --mount=type=secret,target=/etc/token,uid=7,gid=8 true\n",
        client,
    )
    first, second = site.worker.runs
    assert [(one.kind, one.target, one.data, one.mode) for one in first.mounts] == [
        ("secret", "/run/secrets/token", b"hunter2", 0o400),
        ("secret", "/w/x", b"w", 0o644),
    ]
    assert first.secret_env == ("WORD=w", "NONE=")
    assert "hunter2" not in repr(first) and "WORD=w" not in repr(first)
    (mount,) = second.mounts
    assert (mount.target, mount.data, mount.uid, mount.gid) == ("/etc/token", b"hunter2", 7, 8)
    assert client.asked == [("secret", name) for name in ("token", "word", "none", "token")]


@pytest.mark.parametrize(
    "flag",
    [
        "--mount=type=secret,mode=9,id=a",
        "--network=mars",
        "--security=odd",
        "--mount=type=bind,sharing=private",
    ],
)
def test_a_flag_that_can_not_work_is_told_before_any_step_runs(site: Site, flag: str) -> None:
    unused = f"FROM base AS unused\nRUN {flag} true\n"
    with pytest.raises(DockerfileError) as caught:
        site.build(f"FROM base\nRUN true\nRUN {flag} true\n")
    assert (caught.value.line, site.worker.runs) == (3, [])
    site.build(unused + "FROM base\nRUN true\n")


def test_a_required_secret_that_is_missing_is_told_with_its_place(site: Site) -> None:
    for client in (NO_CLIENT, FakeClient({"other": b""})):
        with pytest.raises(NotFound, match=r"^secret token: not found$"):
            site.build("FROM base\nRUN --mount=type=secret,id=token,required true\n", client)
        assert site.failures[-1].line == 2
    assert site.worker.runs == []


@pytest.mark.parametrize(
    ("data", "words"), [(b"a\0b", "zero byte"), (b"\xff", "UTF-8"), (b"x" * 131_000, "too large")]
)
def test_a_secret_that_can_be_no_variable_is_refused(site: Site, data: bytes, words: str) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        site.build("FROM base\nRUN --mount=type=secret,id=s,env=S true\n", FakeClient({"s": data}))
    assert data.decode("latin-1") not in caught.value.message


def test_the_content_of_a_bound_directory_counts(site: Site) -> None:
    (site.context / "a").write_text("1")
    dockerfile = "FROM base\nRUN --mount=type=bind,target=/c true\n"
    site.build(dockerfile)
    site.build(dockerfile)
    assert len(site.worker.runs) == 1
    (site.context / "a").write_text("2")
    site.build(dockerfile)
    assert len(site.worker.runs) == 2


def test_a_script_of_a_here_document_is_bound_where_it_is_called(site: Site) -> None:
    seen: list[str] = []

    def runner(root: Path, request: object, output: object) -> int:
        (mount,) = request.mounts  # type: ignore[attr-defined]
        assert os.access(mount.source, os.X_OK) and mount.target == "/dev/pipes/EOF"
        seen.append(Path(mount.source).read_text())
        return 0

    worker = FakeWorker(site.context.parent / "second", runner)
    worker.add_image("base", {"/x": ""})
    site.worker, site.builder = worker, Builder(worker, None, table=FakeTable())
    site.build("FROM base\nRUN <<EOF\n#!/usr/bin/env python3\nprint(1)\nEOF\n")
    assert seen == ["#!/usr/bin/env python3\nprint(1)\n"]
