"""A context that is read where it is gives what a tar of it gives, and is sent where the engine can't see it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """What a tar tells of files, and what it does not."""
    path = tmp_path / "context"
    (path / "d/sub").mkdir(parents=True)
    (path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    for name in ("Dockerfile.dockerignore", ".dockerignore"):  # Docker's own client knows the second one
        (path / name).write_text("ignored*\n")
    (path / "ignored").write_text("secret")
    (path / "d/set").write_text("1")
    (path / "d/large").write_bytes(os.urandom(100_000))
    (path / "d/sub/empty").touch()
    (path / "d/one").write_text("two names")
    os.link(path / "d/one", path / "d/two")
    os.link(path / "d/set", tmp_path / "a name elsewhere")
    (path / "link").symlink_to("../../../etc/passwd")
    os.mkfifo(path / "ignored.fifo")
    os.chown(path / "d/set", 1000, 1000)
    (path / "d/set").chmod(0o4755)
    os.setxattr(path / "d/set", "user.note", b"not in a tar")
    (path / "d/sub").chmod(0o1777)
    os.utime(path / "d/sub", ns=(0, 1_600_000_000_987_654_321))
    return path


def layers(sampan: Any, image: str) -> list[str]:
    return list(json.loads(sampan.ok("image", "inspect", image))[0]["RootFS"]["Layers"])


def apart(sampan: Any, mounts: dict[Path, Path], *arguments: str) -> None:
    """`sampan ARGUMENTS` in a mount namespace with other directories at these places."""
    script = "".join(f"mount --bind {source} {place} && " for place, source in mounts.items())
    command = f"{script}exec {sys.executable} -m sampan.cli.main {' '.join(arguments)}"
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", command],
        env=sampan.engine.environment,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_layers_are_those_of_a_context_that_was_sent(fresh_sampan: Any, context: Path) -> None:
    fresh_sampan.docker("build", "--no-cache", "-q", "-t", "sent", str(context))
    fresh_sampan.ok("build", "--no-cache", "-q", "-t", "named", str(context))
    assert layers(fresh_sampan, "named") == layers(fresh_sampan, "sent")
    again = fresh_sampan.run("build", "--progress", "plain", str(context))
    assert "CACHED" in again.stderr
    assert "load build context" not in again.stderr


def test_what_runs_sees_the_files_that_were_hashed_and_no_ignored_ones(
    fresh_sampan: Any, context: Path
) -> None:
    (context / "Dockerfile").write_text(
        "FROM busybox\n"
        "RUN --mount=target=/context ls -ln /context /context/d >/listing && ls -a /context >/names\n"
    )
    fresh_sampan.ok("build", "-q", "-t", "bind", str(context))
    names = fresh_sampan.ok("run", "--rm", "bind", "cat", "/names").split()
    assert set(names) == {".", "..", "d", "link", ".dockerignore", "Dockerfile", "Dockerfile.dockerignore"}
    listing = fresh_sampan.ok("run", "--rm", "bind", "cat", "/listing").splitlines()
    assert {tuple(line.split()[2:4]) for line in listing if len(line.split()) > 8} == {("0", "0")}
    assert not list((fresh_sampan.engine.root / "builds").iterdir())


def test_a_dockerfile_from_elsewhere_is_no_file_of_the_context(
    fresh_sampan: Any, context: Path, tmp_path: Path
) -> None:
    text = "FROM busybox\nCOPY . /got/\nRUN ls -a /got >/names\n"
    (tmp_path / "Outside").write_text(text)
    expected = {".", "..", ".dockerignore", "Dockerfile", "Dockerfile.dockerignore", "d", "link"}
    for file, stdin in (("-", text.encode()), (str(tmp_path / "Outside"), None)):
        fresh_sampan.ok("build", "-q", "-t", "outside", "-f", file, str(context), stdin=stdin)
        assert set(fresh_sampan.ok("run", "--rm", "outside", "cat", "/names").split()) == expected
    # Sent, it has a name there that nobody has given it.
    other = tmp_path / "other"
    shutil.copytree(context, other, symlinks=True, ignore=shutil.ignore_patterns("*.fifo"))
    (tmp_path / "context-link").mkdir()
    apart(
        fresh_sampan,
        {tmp_path / "context-link": other},
        "build",
        "-q",
        "-t",
        "outside",
        "-f",
        str(tmp_path / "Outside"),
        str(tmp_path / "context-link"),
    )
    assert set(fresh_sampan.ok("run", "--rm", "outside", "cat", "/names").split()) == expected
    empty = fresh_sampan.run("build", "-f", "-", str(context), stdin=b"")
    assert empty.returncode != 0
    assert "cannot be empty" in empty.stderr


def test_contexts_are_sent_when_the_engine_sees_other_directories_there(
    fresh_sampan: Any, context: Path, tmp_path: Path
) -> None:
    other, further, place = tmp_path / "other", tmp_path / "further", tmp_path / "place"
    for directory, text in ((other, "the client's own"), (further, "named, and the client's own")):
        directory.mkdir()
        (directory / "Dockerfile").write_text("FROM busybox\nCOPY mine /mine\nCOPY --from=named . /named/\n")
        (directory / "mine").write_text(text)
        (directory / "left.out").touch()
        (directory / ".dockerignore").write_text("*.out\n")
    place.mkdir()
    options = ("-q", "-t", "apart", "--build-context", f"named={place}", str(context))
    apart(fresh_sampan, {context: other, place: further}, "build", *options)
    shown = fresh_sampan.ok("run", "--rm", "apart", "sh", "-c", "cat /mine /named/mine; ls -a /named")
    expected = "the client's ownnamed, and the client's own.\n..\n.dockerignore\nDockerfile\nmine"
    assert shown == expected
    assert not (fresh_sampan.engine.root / "context-checksums").exists()
    # The same, read where it is.
    options = ("-q", "-t", "there", "--build-context", f"named={further}", str(other))
    fresh_sampan.ok("build", "--no-cache", *options)
    assert (
        fresh_sampan.ok("run", "--rm", "there", "sh", "-c", "cat /mine /named/mine; ls -a /named") == expected
    )
    missing = fresh_sampan.run("build", "--build-context", f"named={tmp_path}/missing", str(other))
    assert "failed to get build context named: stat" in missing.stderr


def test_other_content_under_equal_metadata_is_built_anew(sampan: Any, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nCOPY d/one /one\n")
    first = sampan.ok("build", "-q", str(context))
    before = (context / "d/one").stat()
    (context / "d/one").write_text("TWO NAMES")
    os.utime(context / "d/one", ns=(before.st_atime_ns, before.st_mtime_ns))
    second = sampan.ok("build", "-q", "-t", "two", str(context))
    assert second != first
    assert sampan.ok("run", "--rm", "two", "cat", "/one") == "TWO NAMES"


def test_a_client_on_a_network_can_not_name_a_directory_of_the_host(
    make_sampan: Any, tmp_path: Path, context: Path
) -> None:
    """Its build is no way to read the engine's files: what it names itself it has to send."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    hosts = (f"unix://{tmp_path}/engine/run/sampan.sock", f"tcp://127.0.0.1:{port}")
    sampan = make_sampan(tmp_path / "engine", options=tuple(f"--host={host}" for host in hosts))
    try:
        there = os.stat(context)
        named = {"path": str(context), "device": there.st_dev, "inode": there.st_ino}
        query = urllib.parse.urlencode({"contextdir": json.dumps(named), "dockerfile": "Dockerfile"})
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        client.request("POST", f"/build?{query}", b"")
        refused = client.getresponse()
        assert refused.status == 409 and b"Unix socket" in refused.read()
        client.close()
        (tmp_path / "main").mkdir()
        (tmp_path / "main/Dockerfile").write_text("FROM scratch\nCOPY --from=more . /\n")
        for name, host in zip(("near", "far"), hosts, strict=True):
            sampan.ok("--host", host, "build", "-q", "-t", name, str(context))
            flags = ("--build-context", f"more={context}/d", "-t", f"{name}-named", str(tmp_path / "main"))
            sampan.ok("--host", host, "build", "-q", "--no-cache", *flags)
        assert layers(sampan, "far") == layers(sampan, "near") != []
        assert layers(sampan, "far-named") == layers(sampan, "near-named") != []
    finally:
        sampan.engine.stop()
