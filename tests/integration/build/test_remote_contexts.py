"""Contexts that the engine fetches: Git repositories, archives and Dockerfiles behind URLs."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.git_server import GitServer, git

pytestmark = pytest.mark.root

_DOCKERFILE = "FROM busybox\nCOPY . /ctx/\n"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GitServer]:
    made = GitServer(tmp_path / "site")
    try:
        yield made
    finally:
        made.close()


def _listing(sampan: Any, *arguments: str) -> list[str]:
    sampan.ok("build", "-t", "remote:1", *arguments)
    return sorted(sampan.ok("run", "--rm", "--network", "none", "remote:1", "find", "/ctx").split())


def test_a_repository_is_a_context(sampan: Any, site: GitServer, tmp_path: Path) -> None:
    folder = site.repository(
        "r.git", {"Dockerfile": _DOCKERFILE, "a": "one", ".dockerignore": "b\n", "b": "b"}
    )
    site.commit(
        folder, {"sub/Dockerfile": _DOCKERFILE, "sub/c": "c", "sub/other": "FROM busybox\nCOPY c /ctx/\n"}
    )
    git(folder, "tag", "v1")
    site.commit(folder, {"a": "two", "sub/c": "d"})
    url = f"{site.url}/r.git"
    found = _listing(sampan, f"{url}#v1")
    assert {"/ctx/a", "/ctx/sub/c"} <= set(found) and "/ctx/b" not in found and "/ctx/.git" not in found
    assert sampan.ok("run", "--rm", "--network", "none", "remote:1", "cat", "/ctx/a") == "one"
    assert _listing(sampan, f"{url}#:sub") == ["/ctx", "/ctx/Dockerfile", "/ctx/c", "/ctx/other"]
    assert _listing(sampan, "-f", "other", f"{url}#:sub") == ["/ctx", "/ctx/c"]
    kept = _listing(sampan, "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", url)
    assert "/ctx/.git/HEAD" in kept
    # A Dockerfile from here, by standard input or an absolute path, with the files from there.
    own = "FROM busybox\nCOPY a /ctx/own\n"
    sampan.ok("build", "-t", "remote:1", "-f", "-", f"{url}#v1", stdin=own.encode())
    assert sampan.ok("run", "--rm", "--network", "none", "remote:1", "cat", "/ctx/own") == "one"
    (tmp_path / "Own").write_text(own)
    assert _listing(sampan, "-f", str(tmp_path / "Own"), url) == ["/ctx", "/ctx/own"]
    assert "(default)" in sampan.ok("build", "--call", "targets", "-f", str(tmp_path / "Own"), url)
    failed = sampan.run("build", f"{url}#nothing")
    assert failed.returncode == 1 and "does not contain ref nothing" in failed.stderr
    failed = sampan.run("build", f"{url}#main:../..")
    assert failed.returncode == 1 and "leads out" in failed.stderr
    named = "FROM busybox\nCOPY --from=src c /ctx/\n"
    arguments = ("build", "-t", "remote:1", "--build-context", f"src={url}?ref=v1&subdir=sub", "-")
    sampan.ok(*arguments, stdin=named.encode())
    assert sampan.ok("run", "--rm", "--network", "none", "remote:1", "cat", "/ctx/c") == "c"


def test_an_archive_or_a_dockerfile_behind_a_url_is_a_context(sampan: Any, site: GitServer) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in {"Dockerfile": _DOCKERFILE, "x/y": "y"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    site.files["/context.tgz"] = out.getvalue()
    site.files["/Dockerfile.txt"] = b"FROM busybox\nRUN mkdir /ctx && touch /ctx/made\n"
    site.files["/noise"] = b"\0\1\2" * 100
    assert _listing(sampan, f"{site.url}/context.tgz") == ["/ctx", "/ctx/Dockerfile", "/ctx/x", "/ctx/x/y"]
    assert _listing(sampan, f"{site.url}/Dockerfile.txt") == ["/ctx", "/ctx/made"]
    failed = sampan.run("build", f"{site.url}/noise")
    assert failed.returncode == 1 and "neither a tar archive nor a Dockerfile" in failed.stderr
    failed = sampan.run("build", f"{site.url}/missing")
    assert failed.returncode == 1 and "404" in failed.stderr


def test_what_is_behind_a_url_can_be_checked(sampan: Any, site: GitServer) -> None:
    site.repository("r.git", {"Dockerfile": "FROM scratch as a\nCOPY b /\n", ".dockerignore": "b\n"})
    site.files["/Dockerfile.txt"] = b"FROM scratch AS one\n"
    done = sampan.run("build", "--call", "lint", f"{site.url}/r.git")
    assert done.returncode == 1
    assert "WARNING: FromAsCasing" in done.stdout and "WARNING: CopyIgnoredFile" in done.stdout
    assert (
        sampan.ok("build", "--call", "targets", f"{site.url}/Dockerfile.txt").split("\n")[1].strip()
        == "one (default)"
    )
