"""ADD of Git repositories: real ones behind Git's own servers on loopback, and hostile ones made by hand."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sampan.build.errors import BuildCancelled
from sampan.build.events import Vertex
from sampan.build.fetch import git_checkout, git_pack
from sampan.build.fetch.git import check_out, resolve
from sampan.build.fetch.git_transport import Limits
from sampan.build.fetch.git_url import parse_git
from sampan.build.files.context import Context
from sampan.build.model import BuildRequest
from sampan.build.session import NO_CLIENT, ClientSession, Duplex
from sampan.build.solver.builder import Builder
from sampan.errors import Invalid, NotFound, SampanError, Unavailable
from sampan.testing.fake_client import FakeClient
from sampan.testing.fake_worker import FakeTable, FakeWorker
from sampan.testing.git_server import ENVIRONMENT, GitServer, git

pytestmark = pytest.mark.root


class Site(GitServer):
    def __init__(self, top: Path) -> None:
        super().__init__(top / "repositories")
        self.worker = FakeWorker(top / "worker")
        self.worker.add_image("base", {"/x": ""})
        self.builder = Builder(self.worker, None, table=FakeTable())
        self.context = top / "context"
        self.context.mkdir()
        self.hits = 0

    def tree(self, dockerfile: str, client: ClientSession = NO_CLIENT) -> Path:
        self.hits = 0
        self.asked.clear()
        fd = os.open(self.context, os.O_RDONLY | os.O_DIRECTORY)
        request = BuildRequest(dockerfile_text=dockerfile.replace("URL", self.url).encode())
        try:
            return self.worker.tree(
                self.builder.build(request, Context(fd), self._report, threading.Event(), client)
            )
        finally:
            os.close(fd)
            assert self.worker.open_snapshots == []
            assert [
                name for name in os.listdir(tempfile.gettempdir()) if name.startswith("sampan-git-")
            ] == []

    def _report(self, event: object) -> None:
        self.hits += isinstance(event, Vertex) and event.cached


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    made = Site(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_a_repository_is_added_by_branch_tag_commit_and_subdirectory(site: Site) -> None:
    folder = site.repository("r.git", {"a.txt": "one", "docs/d.txt": "d", "run.sh": "#!", "docs/deep/x": "x"})
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("docs/d.txt")
    first = site.commit(folder, {})
    git(folder, "tag", "-a", "v1", "-m", "annotated")
    git(folder, "branch", "side")
    second = site.commit(folder, {"a.txt": "two"})
    tag = git(folder, "rev-parse", "v1")
    tree = site.tree(
        "FROM base\nADD URL/r.git /head/\nADD URL/r.git#v1 /tag\nADD URL/r.git#side:docs /sub\n"
        f"ADD URL/r.git#{first} /commit\nADD URL/r.git?branch=side&subdir=docs/deep /deep\n"
        f"ADD --checksum={first[:7]} URL/r.git#v1 /sum\nADD URL/r.git?tag=v1&checksum={tag[:9]} /tagsum\n"
        f"ADD URL/r.git?fetch-by-commit&commit={second} /by\n"
    )
    texts = {
        name: (tree / name / "a.txt").read_text() for name in ("head", "tag", "commit", "sum", "tagsum", "by")
    }
    assert texts == {"head": "two", "tag": "one", "commit": "one", "sum": "one", "tagsum": "one", "by": "two"}
    assert sorted(os.listdir(tree / "sub")) == ["d.txt", "deep"]
    assert os.listdir(tree / "deep") == ["x"]
    assert sorted(os.listdir(tree / "head")) == ["a.txt", "docs", "link", "run.sh"]
    modes = {name: stat.S_IMODE((tree / "tag" / name).stat().st_mode) for name in ("a.txt", "run.sh", "docs")}
    assert modes == {"a.txt": 0o644, "run.sh": 0o755, "docs": 0o755}
    assert os.readlink(tree / "tag/link") == "docs/d.txt"
    assert (tree / "tag/a.txt").stat().st_mtime == 1_000_000_000


def test_flags_of_add_count_for_repositories(site: Site) -> None:
    site.repository("r.git", {"a.txt": "one", "a.md": "m", "d/b.md": "m", "d/b.txt": "t"})
    tree = site.tree("FROM base\nADD --chown=7:8 --chmod=go= --exclude=**/*.md URL/r.git /d\n")
    assert sorted(str(path.relative_to(tree / "d")) for path in (tree / "d").rglob("*")) == [
        "a.txt",
        "d",
        "d/b.txt",
    ]
    info = (tree / "d/a.txt").stat()
    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (7, 8, 0o600)


def test_the_cache_asks_for_the_commit_and_fetches_only_another(site: Site) -> None:
    folder = site.repository("r.git", {"a": "1"})
    commit = git(folder, "rev-parse", "HEAD")
    text = "FROM base\nADD URL/r.git /d\n"
    site.tree(text)
    site.tree(text)
    assert (site.hits, site.asked.count("git-upload-pack")) == (1, 1 if len(site.asked) == 2 else 0)
    site.commit(folder, {"a": "2"})
    assert (site.tree(text) / "d/a").read_text() == "2"
    pinned = f"FROM base\nADD URL/r.git#{commit} /d\n"
    assert (site.tree(pinned) / "d/a").read_text() == "1"
    site.tree(pinned)
    assert (site.hits, site.asked) == (1, [])


def test_a_kept_git_directory_is_a_repository_without_credentials(site: Site) -> None:
    folder = site.repository("r.git", {"a.txt": "one", "d/x": "x"})
    site.commit(folder, {"a.txt": "two"})
    url = site.url.replace("http://", "http://user:pass@word@")
    tree = site.tree(f"FROM base\nADD --keep-git-dir {url}/r.git#main /r\nADD URL/r.git /plain\n")
    kept = tree / "r"
    assert not (tree / "plain/.git").exists()
    git(kept, "config", "--local", "safe.directory", "*")
    assert git(kept, "status", "--porcelain") == ""
    assert git(kept, "log", "--format=%H") == git(folder, "rev-parse", "HEAD")
    assert git(kept, "rev-parse", "origin/main") == git(folder, "rev-parse", "HEAD")
    assert git(kept, "remote", "get-url", "origin") == f"{site.url}/r.git"
    git(kept, "fsck", "--strict")


def test_submodules_come_along_unless_they_are_not_wanted(site: Site) -> None:
    inner = site.repository("u/inner.git", {"i": "inner"})
    outer = site.repository("u/outer.git", {"o": "outer"})
    git(outer, "submodule", "--quiet", "add", str(inner), "lib/in")
    git(outer, "config", "-f", ".gitmodules", "submodule.lib/in.url", "../inner.git")
    site.commit(outer, {})
    tree = site.tree(
        "FROM base\nADD URL/u/outer.git /with\nADD URL/u/outer.git?submodules=false /without\n"
        "ADD URL/u/outer.git#:lib /lib\n"
    )
    assert (tree / "with/lib/in/i").read_text() == "inner" == (tree / "lib/in/i").read_text()
    assert (tree / "without/o").read_text() == "outer" and os.listdir(tree / "without/lib/in") == []


def test_a_commit_that_the_server_does_not_give_alone_is_found_in_everything(site: Site) -> None:
    folder = site.repository("r.git", {"a": "1"})
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "false")
    old = git(folder, "rev-parse", "HEAD")
    site.commit(folder, {"a": "2"})
    assert (site.tree(f"FROM base\nADD URL/r.git#{old} /d\n") / "d/a").read_text() == "1"


def test_git_daemon_and_ssh_are_spoken_too(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.repository("r.git", {"a": "1"})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        "git",
        "daemon",
        "--export-all",
        f"--base-path={site.root}",
        "--listen=127.0.0.1",
        f"--port={port}",
    ]
    daemon = subprocess.Popen([*command, "--reuseaddr"], env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert (site.tree(f"FROM base\nADD git://127.0.0.1:{port}/r.git /d\n") / "d/a").read_text() == "1"
    finally:
        daemon.terminate()
        daemon.wait()
    programs = tmp_path / "bin"
    programs.mkdir()
    fake = programs / "ssh"
    fake.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/args\n'
        f'for last; do :; done\ncd {site.root} && exec sh -c "$last"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    assert (site.tree("FROM base\nADD git@host.example:r.git /d\n") / "d/a").read_text() == "1"
    arguments = (tmp_path / "args").read_text().splitlines()
    assert arguments[arguments.index("--") + 1 :] == ["git@host.example", "git-upload-pack 'r.git'"]
    assert "BatchMode=yes" in arguments and "none" in arguments
    # A quote in the path does not end the quoting of the remote shell.
    with pytest.raises((Unavailable, NotFound)):
        site.tree(f'FROM base\nADD ["git@host.example:x\'; touch {tmp_path}/pwned; \'.git", "/d"]\n')
    assert not (tmp_path / "pwned").exists()


class _WithAgent(FakeClient):
    """Its agent answers what it is told."""

    def has_ssh_agent(self, agent_id: str) -> bool:
        return agent_id == "default"

    def ssh_agent(self, agent_id: str) -> Duplex:
        return _Echo()


class _Echo:
    def __init__(self) -> None:
        self._here, self._there = socket.socketpair()

    def read(self, limit: int = 4096, /) -> bytes:
        return self._there.recv(limit)

    def write(self, data: bytes, /) -> int:
        return self._here.send(data)

    def end(self) -> None:
        self._here.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._here.close()


def test_the_clients_agent_is_there_for_ssh(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.repository("r.git", {"a": "1"})
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(
        f"#!{sys.executable}\nimport os, socket, sys\ns = socket.socket(socket.AF_UNIX)\n"
        "s.connect(os.environ['SSH_AUTH_SOCK'])\ns.sendall(b'key?')\n"
        f"open('{tmp_path}/said', 'wb').write(s.recv(4))\ns.close()\n"
        f"os.chdir('{site.root}')\nos.execvp('sh', ['sh', '-c', sys.argv[-1]])\n"
    )
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    tree = site.tree("FROM base\nADD git@host.example:r.git /d\n", _WithAgent())
    assert (tree / "d/a").read_text() == "1" and (tmp_path / "said").read_bytes() == b"key?"


def test_a_private_repository_is_fetched_with_the_clients_token(site: Site) -> None:
    site.repository("private/r.git", {"a": "1"})
    text = "FROM base\nADD --keep-git-dir URL/private/r.git /d\n"
    with pytest.raises(Unavailable, match="asks for a password"):
        site.tree(text)
    site.authorizations.clear()
    tree = site.tree(text, FakeClient({"GIT_AUTH_TOKEN.127.0.0.1": b"t0ken\n"}))
    assert (tree / "d/a").read_text() == "1"
    assert site.authorizations == {"Basic " + base64.b64encode(b"x-access-token:t0ken").decode()}
    assert all(b"t0ken" not in path.read_bytes() for path in tree.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("ADD URL/none.git /d", NotFound, "none.git not found"),
        ("ADD URL/r.git#nothing /d", NotFound, "does not contain ref nothing"),
        ("ADD URL/r.git#:nothing /d", NotFound, "subdirectory 'nothing' is not in"),
        ("ADD URL/r.git#:a /d", NotFound, "subdirectory 'a' is not in"),
        ("ADD URL/r.git#:out/x /d", Invalid, "symbolic link"),
        ("ADD URL/r.git#main:../x /d", Invalid, "leads out"),
        ("ADD URL/r.git#" + "0" * 40 + " /d", NotFound, "does not contain commit"),
        ("ADD --checksum=0000 URL/r.git /d", Invalid, "expected checksum to match 0000"),
        ("ADD --keep-git-dir URL/r.git?keep-git-dir=0 /d", Invalid, "inconsistent keep-git-dir"),
        ("ADD --checksum=ab URL/r.git?commit=cd /d", Invalid, "checksum mismatch"),
        ("ADD --checksum=ab URL/r.git URL/r.git /d", Invalid, "multiple sources"),
        ("COPY URL/r.git /d", Invalid, "can't be a git ref for COPY"),
        ("COPY URL/file /d", Invalid, "can't be a URL for COPY"),
        ("ADD file:///etc/r.git /d", NotFound, "file not found"),
        ('ADD ["ext::sh -c id >&2", "/d"]', NotFound, "file not found"),
        ("ADD git://127.0.0.1:1/r.git /d", Unavailable, "failed to fetch git repository"),
        (
            "ADD http://127.0.0.1:1/r.git /d",
            Unavailable,
            "r.git: dial tcp 127.0.0.1:1: connect: connection refused",
        ),
    ],
)
def test_what_can_not_be_added_says_why(site: Site, line: str, kind: type[SampanError], message: str) -> None:
    folder = site.repository("r.git", {"a": "1"})
    (folder / "out").symlink_to("/etc")
    site.commit(folder, {})
    with pytest.raises(kind, match=message):
        site.tree(f"FROM base\n{line}\n")


def _object(folder: Path, kind: str, data: bytes) -> str:
    return git(folder, "hash-object", "-t", kind, "-w", "--literally", "--stdin", data=data)


def _commit_of(folder: Path, entries: list[tuple[str, bytes, str]]) -> None:
    """A commit with any tree; `main` is set to it."""
    raw = b"".join(f"{mode} ".encode() + name + b"\0" + bytes.fromhex(sha) for mode, name, sha in entries)
    commit = git(folder, "commit-tree", _object(folder, "tree", raw), "-m", "x")
    git(folder, "update-ref", "refs/heads/main", commit)


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("100644", b".."),
        ("40000", b".."),
        ("100644", b"a/b"),
        ("40000", b".git"),
        ("100644", b".GIT"),
        ("60000", b"dev"),
    ],
)
def test_a_tree_with_an_unsafe_entry_is_refused(site: Site, mode: str, name: bytes) -> None:
    folder = site.repository("r.git", {"a": "1"})
    blob = git(folder, "rev-parse", "HEAD:a")
    tree = git(folder, "rev-parse", "HEAD^{tree}")
    _commit_of(folder, [(mode, name, tree if mode == "40000" else blob)])
    with pytest.raises(Invalid, match=r"unsafe name|unknown kind|broken"):
        site.tree("FROM base\nADD URL/r.git /d\n")


def test_a_link_and_a_directory_of_one_name_do_not_write_through_it(site: Site, tmp_path: Path) -> None:
    folder = site.repository("r.git", {"d/x": "evil"})
    target = tmp_path / "target"
    target.mkdir()
    link = _object(folder, "blob", str(target).encode())
    _commit_of(folder, [("120000", b"d", link), ("40000", b"d", git(folder, "rev-parse", "HEAD:d"))])
    tree = site.tree("FROM base\nADD URL/r.git /r\n")
    assert os.listdir(tree / "r") == ["d"] and os.listdir(target) == []


def test_a_tree_of_trees_that_never_ends_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_checkout, "MAX_ENTRIES", 2000)
    folder = site.repository("r.git", {"a": "1"})
    tree = git(folder, "rev-parse", "HEAD^{tree}")
    for _ in range(8):
        raw = b"".join(b"40000 %d\0" % index + bytes.fromhex(tree) for index in range(10))
        tree = _object(folder, "tree", raw)
    _commit_of(folder, [("40000", b"bomb", tree)])
    with pytest.raises(Invalid, match="more than 2000 files"):
        site.tree("FROM base\nADD URL/r.git /d\n")


@pytest.mark.parametrize("url", ["ext::sh -c id", "file:///etc", "/etc", "--upload-pack=x"])
def test_a_submodule_from_elsewhere_is_refused(site: Site, url: str) -> None:
    folder = site.repository("r.git", {".gitmodules": f'[submodule "s"]\n\tpath = s\n\turl = {url}\n'})
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},s")
    git(folder, "commit", "-q", "-m", "module")
    with pytest.raises(Invalid, match="submodule"):
        site.tree("FROM base\nADD URL/r.git /d\n")


def test_a_submodule_of_itself_ends(site: Site) -> None:
    folder = site.repository("r.git", {".gitmodules": '[submodule "s"]\n\tpath = s\n\turl = ./../r.git\n'})
    git(folder, "update-index", "--add", "--cacheinfo", f"160000,{git(folder, 'rev-parse', 'HEAD')},s")
    git(folder, "commit", "-q", "-m", "module")
    tree = site.tree("FROM base\nADD URL/r.git /d\n")
    assert os.listdir(tree / "d/s") == [".gitmodules"]


@pytest.mark.parametrize(("bound", "value"), [("MAX_DEPTH", 4), ("MAX_ENTRIES", 7), ("MAX_BYTES", 150)])
def test_bounds_count_for_a_repository_with_its_submodules(
    site: Site, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """A hundred of them would multiply what is bounded, and nest deeper than Python recurses."""
    inner = site.repository("m.git", {"d/e/f": "x" * 100})
    modules = '[submodule "s"]\n\tpath = a/b/s\n\turl = ../m.git\n'
    outer = site.repository("r.git", {".gitmodules": modules, "a/b/c": "y" * 60})
    git(outer, "update-index", "--add", "--cacheinfo", f"160000,{git(inner, 'rev-parse', 'HEAD')},a/b/s")
    git(outer, "commit", "-q", "-m", "module")
    monkeypatch.setattr(git_checkout, bound, value + 100)
    assert (site.tree("FROM base\nADD URL/r.git /d\n") / "d/a/b/s/d/e/f").exists()
    monkeypatch.setattr(git_checkout, bound, value)
    for text in ("FROM base\nADD URL/m.git /m\n", "FROM base\nADD URL/r.git?submodules=false /r\n"):
        site.tree(text)
    with pytest.raises(Invalid, match=r"nested deeper|more than 7|larger than"):
        site.tree("FROM base\nADD --exclude=none URL/r.git /e\n")


def _pack(objects: list[bytes]) -> bytes:
    body = b"PACK" + (2).to_bytes(4) + len(objects).to_bytes(4) + b"".join(objects)
    return body + hashlib.sha1(body).digest()


def _head(kind: int, size: int) -> bytes:
    out = bytearray([kind << 4 | size & 15])
    size >>= 4
    while size:
        out[-1] |= 0x80
        out.append(size & 0x7F)
        size >>= 7
    return bytes(out)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends in the middle"),
        (b"JUNKJUNKJUNKJUNK", "its header is none"),
        (_pack([]), None),
        (_pack([_head(3, 5) + zlib.compress(b"hello")]), None),
        (_pack([_head(3, 4) + zlib.compress(b"hello")]), "larger than it says"),
        (_pack([_head(3, 6) + zlib.compress(b"hello")]), "smaller than it says"),
        (_pack([_head(3, 5) + b"nonsense"]), "broken pack"),
        (_pack([_head(3, 5) + zlib.compress(b"hello")])[:16], "broken pack"),
        (_pack([_head(3, 10) + zlib.compress(bytes(50 << 20))]), "larger than it says"),
        (_pack([_head(3, 1 << 40) + zlib.compress(b"hello")]), "has an object of 1099511627776 bytes"),
        (_pack([b"\xb0" + b"\xff" * 20]), "size is none"),
        # A delta of a few bytes whose result is a terabyte.
        (
            _pack([_head(7, 7) + bytes(20) + zlib.compress(b"\x05\x80\x80\x80\x80\x80\x20")]),
            "has an object of",
        ),
        (_pack([_head(7, 2) + bytes(20) + zlib.compress(b"\xff\xff")]), "delta has no size"),
        (b"PACK" + (2).to_bytes(4) + b"\xff\xff\xff\xff", "more than"),
    ],
    ids=range(14),
)
def test_a_pack_is_looked_through_before_it_is_unpacked(data: bytes, message: str | None) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        if message is None:
            git_pack.inspect_pack(file.fileno(), threading.Event())
            return
        with pytest.raises(Invalid, match=message):
            git_pack.inspect_pack(file.fileno(), threading.Event())


def _delta(base: int, result: int) -> bytes:
    """Takes `result` bytes from the start of its base; both are small."""
    return zlib.compress(bytes((base, result, 0x90, result)))


def test_deltas_that_hold_their_bases_in_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one delta of a base is applied the others wait for it: a long chain of forks holds all of its objects."""
    monkeypatch.setattr(git_pack, "MAX_CHAIN", 1000)
    first = _head(3, 100) + zlib.compress(bytes(100))
    last = len(first)

    def chain(count: int) -> list[bytes]:
        objects, before = [first], last
        for _ in range(count):
            objects.append(_head(6, 4) + bytes((before,)) + _delta(100, 100))
            before = len(objects[-1])
        return objects

    named = _head(7, 4) + bytes(20) + _delta(100, 100)
    for objects in (chain(9), [first, *[named] * 10]):
        _looked_at(_pack(objects))
    for objects in (chain(10), [first, *[named] * 11]):
        with pytest.raises(Invalid, match="chain of deltas"):
            _looked_at(_pack(objects))
    for back in (b"\0", bytes((last - 1,)), b"\x7f", b"\xff" * 9 + b"\x7f"):
        with pytest.raises(Invalid, match="a delta of nothing"):
            _looked_at(_pack([first, _head(6, 4) + back + _delta(100, 100)]))


def test_gits_own_chains_of_deltas_are_followed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    noise = chance.randbytes(20_000).hex()
    folder = site.repository("r.git", {"a": noise})
    for _ in range(20):
        noise = noise[4000:] + chance.randbytes(2000).hex()  # the nearest one is the best to be a delta of
        site.commit(folder, {"a": noise})
    git(folder, "repack", "-adfq", "--depth=50", "--window=50")
    (pack,) = folder.glob("**/*.pack")
    _looked_at(pack.read_bytes())
    monkeypatch.setattr(git_pack, "MAX_CHAIN", 3 * len(noise))
    with pytest.raises(Invalid, match="chain of deltas"):
        _looked_at(pack.read_bytes())


def _looked_at(data: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        git_pack.inspect_pack(file.fileno(), threading.Event())


def test_a_server_that_says_nothing_does_not_hold_a_cancelled_build() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        cancelled = threading.Event()
        accepted = threading.Thread(target=lambda: (server.accept(), cancelled.set()))
        accepted.start()
        with pytest.raises(BuildCancelled):
            resolve(parse_git(f"http://127.0.0.1:{port}/r.git"), Limits(cancelled))
        accepted.join()


def test_a_server_that_never_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.build.fetch.git_transport.MAX_PACK", 1 << 20)
    monkeypatch.setattr("sampan.build.fetch.git_transport.MAX_REFERENCES", 1 << 20)

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/x-git-upload-pack-advertisement")
            self.end_headers()
            try:
                self.wfile.write(b"001e# service=git-upload-pack\n0000")
                for number in range(1 << 20):
                    line = b"%040x refs/heads/%d" % (number, number)
                    self.wfile.write(b"%04x%s\n" % (len(line) + 5, line))
            except OSError:
                pass

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        with pytest.raises(Invalid, match="sends more than"):
            resolve(parse_git(f"http://127.0.0.1:{server.server_port}/r.git"), Limits(threading.Event()))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_hooks_and_configuration_of_the_host_play_no_part(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = site.repository("r.git", {"a": "1", ".gitattributes": "* filter=evil\n"})
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f'[filter "evil"]\n\tsmudge = touch {tmp_path}/pwned\n[core]\n\tsshCommand = touch {tmp_path}/pwned\n'
        f'\thooksPath = {home}\n[url "file:///etc/"]\n\tinsteadOf = {site.url}/\n'
    )
    hook = home / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/pwned\n")
    hook.chmod(0o755)
    monkeypatch.setenv("HOME", str(home))
    source = parse_git(f"{site.url}/r.git")
    limits = Limits(threading.Event())
    target = tmp_path / "out"
    target.mkdir()
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        check_out(source, resolve(source, limits), fd, limits)
    finally:
        os.close(fd)
    assert (target / "a").read_text() == "1" == (folder / "a").read_text()
    assert not (tmp_path / "pwned").exists()
