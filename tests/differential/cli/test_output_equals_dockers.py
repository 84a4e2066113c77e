"""Output, messages and exit codes are those of Docker's client on the same engine, our name in place of its."""

from __future__ import annotations

import io
import os
import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

REFUSALS = [
    "run --foo x",
    "run -m x busybox",
    "run -Z x",
    "run --rm=x busybox",
    "run --network",
    "run -p x busybox",
    "run -p 80:x busybox",
    "run -p 1-3:4-5 busybox",
    "run -p 300.1.1.1:80:80 busybox",
    "run -v x:y:z:w busybox true",
    "run -e =x busybox true",
    "run --add-host x busybox",
    "run --dns x busybox",
    "run --link a:b:c busybox",
    "run --ulimit x busybox",
    "run --ulimit nofile=20:10 busybox",
    "run --ulimit foo=1 busybox",
    "run --mount x busybox",
    "run --cpus x busybox",
    "run --restart foo busybox true",
    "run --health-interval x busybox",
    "run --health-interval 10 busybox",
    "run --no-healthcheck --health-cmd x busybox",
    "run --env-file /nope busybox",
    "run --memory-swappiness 200 busybox",
    "run --pid x busybox",
    "run --uts x busybox",
    "run --security-opt foo busybox",
    "run --name a/b busybox",
    "run -a foo busybox",
    "run -d -a stdin busybox",
    "run --log-driver none --log-opt a=b busybox",
    "create -d busybox",
    "ps -n x",
    "ps --last",
    "ps --filter foo",
    "ps --filter foo=bar",
    "ps --format {{.Foo}}",
    "ps --format {{.ID",
    "ps --format '{{foo .ID}}'",
    "ps extra",
    "inspect nosuch",
    "inspect -f {{.Foo}} busybox",
    "inspect -f {{.Foo busybox",
    "image inspect nosuch",
    "volume inspect nosuch",
    "network inspect nosuch",
    "container inspect nosuch",
    "images --filter foo=bar",
    "images a b",
    "rm nosuch",
    "rm",
    "rmi nosuch",
    "stop nosuch",
    "start nosuch",
    "start -a a b",
    "restart nosuch",
    "kill nosuch",
    "pause nosuch",
    "wait nosuch",
    "rename nosuch x",
    "logs nosuch",
    "logs --since foo nosuch",
    "exec nosuch ls",
    "exec nosuch",
    "attach nosuch",
    "top nosuch",
    "port nosuch",
    "diff nosuch",
    "cp a b",
    "cp nosuch:/x y",
    "cp a:/x b:/y",
    "tag a",
    "tag nosuch x",
    "history nosuch",
    "save nosuch",
    "export nosuch",
    "build",
    "build nodir",
    "network rm nosuch",
    "network create",
    "network create --subnet x n",
    "network create --subnet 10.1.0.0/16 --gateway 10.2.0.1 n",
    "network create --gateway 10.2.0.1 n",
    "network disconnect nosuch c",
    "volume rm nosuch",
    "commit nosuch",
    "update nosuch",
    "update -m 10m nosuch",
    "version extra",
]


@pytest.mark.parametrize("line", REFUSALS)
def test_a_refusal_has_dockers_words_and_exit_code(
    pair: Any, renamed: Callable[[str], str], line: str
) -> None:
    theirs, ours = pair.both(*shlex.split(line))
    expected = renamed(theirs.err)
    given = ours.err
    if "Usage:  " in expected:
        # The last paragraph is the command's summary, which is worded by each for itself.
        expected, given = expected.rpartition("\n\n")[0], given.rpartition("\n\n")[0]
    assert (given, ours.status, ours.out) == (expected, theirs.status, theirs.out)


# Here the words are those of newer clients (28), which Debian's does not have yet.
NEWER = {
    "run --mount type=bind,foo=bar busybox": (125, "unknown option 'foo' in 'foo=bar'"),
    "run --restart on-failure:x busybox true": (
        125,
        "invalid restart policy format: maximum retry count must be an integer",
    ),
    "run --rm --restart always busybox true": (
        125,
        "conflicting options: cannot specify both --restart and --rm",
    ),
    "stop -t x y": (125, 'invalid argument "x" for "-t, --timeout" flag'),
    "events --since foo": (1, 'invalid value for "since": failed to parse value as time or duration: "foo"'),
}


@pytest.mark.parametrize("line", NEWER)
def test_some_refusals_have_the_words_of_newer_clients(pair: Any, line: str) -> None:
    status, words = NEWER[line]
    theirs, ours = pair.both(*shlex.split(line))
    assert (ours.status, ours.out) == (status, "") and words in ours.err
    assert theirs.status == status


LISTINGS = [
    "ps -a",
    "ps -a --no-trunc",
    "ps -as",
    "ps -aq",
    "ps -a --format '{{.ID}} {{.Names}} {{.Label \"a\"}} {{.Ports}}'",
    "ps -a --format 'table {{.Names}}\\t{{.Status}}\\t{{.Label \"com.example.a-b\"}}'",
    "ps -a --format {{json\\ .}}",
    "images",
    "images --digests --no-trunc",
    "images -q",
    "images --format {{.Repository}}:{{.Tag}}",
    "images busybox",
    "network ls",
    "network ls --no-trunc --filter driver=null",
    "network inspect host",
    "volume ls",
    "volume ls -q",
    "volume inspect vol1",
    "history busybox",
    "history --no-trunc -H=false busybox",
    "inspect one",
    "inspect -s one",
    "inspect busybox",
    "inspect -f '{{.State.Status}} {{.Config.Labels.a}} {{json .Config.Env}}' one",
    "inspect -f '{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}' one",
    "inspect -f '{{if .State.Health}}h{{else}}none{{end}}' one",
    "inspect -f '{{index .Config.Cmd 0}} {{len .Config.Cmd}} {{join .Config.Cmd \",\"}}' one",
    "inspect -f '{{.Config.Labels.nosuch}}' one",
    "inspect -f '{{println .Name}}{{printf \"%q %5d\" .Name .RestartCount}}' one",
    "inspect -f '{{with .HostConfig}}{{.Memory}} {{.NanoCpus}} {{.RestartPolicy.Name}}{{end}}' one",
    'inspect --format \'{{title "ab cd"}} {{upper .Name}} {{split "a,b" ","}} {{pad "x" 1 2}}|\' one',
    'inspect -f \'{{eq .State.Status "created"}} {{ne 1 2}} {{lt 1 2}} {{and 1 0}} {{or 0 "x"}} {{not true}}\' one',
    "inspect -f '{{range .Mounts}}{{.Type}}:{{.Destination}}{{end}}' one",
    "inspect -f '{{.Config.Cmd}} {{.Config.Tty}} {{.Config.Labels}}' one",
    "inspect -f '  {{- \" x \" -}}   {{/* c */}} {{$x := 1}}{{$x}}' one",
    "system df",
    "system df -v",
    "info",
    "port one",
    "diff one",
]


def by_line(text: str) -> list[str]:
    """`info` names the runtimes in the order of a map of Go's, another one in every answer."""
    return [
        " ".join(sorted(line.split())) if line.startswith(" Runtimes: ") else line
        for line in text.splitlines()
    ]


@pytest.mark.parametrize("line", LISTINGS)
def test_a_listing_is_the_same(pair: Any, line: str) -> None:
    pair.docker.run("volume", "create", "--label", "a=b", "vol1")
    options = ["-l", "a=1", "-l", "com.example.a-b=2", "-e", "X=<y>", "-m", "64m", "-v", "vol1:/v"]
    created = pair.docker.run("create", "--name", "one", *options, "busybox", "sh", "-c", 'echo "a b"')
    assert created.status == 0, created.err
    theirs, ours = pair.both(*shlex.split(line))
    for _ in range(3):
        if ours == theirs or "second" not in theirs.out:
            break
        # A second passed between the two.
        theirs, ours = pair.both(*shlex.split(line))
    assert (by_line(ours.out), ours.status) == (by_line(theirs.out), theirs.status)
    assert ours.err == theirs.err


def _runs(line: str) -> list[str]:
    return shlex.split(line)


RUNS = [
    "run --rm --network none busybox sh -c 'echo out; echo err >&2; exit 7'",
    "run --rm --network none busybox nosuchcommand",
    "run --rm --network none busybox /etc",
    "run --rm --network none -e A=1 -w /tmp -u 1:1 busybox sh -c 'echo $A; pwd; id -u'",
    "run --rm --network none --entrypoint echo busybox x y",
    "run --rm --network none -h host busybox hostname",
    "run --rm --network none busybox sh -c 'kill -9 $$'",
]


@pytest.mark.parametrize("line", RUNS)
def test_a_run_gives_the_same_output_and_exit_code(
    pair: Any, renamed: Callable[[str], str], line: str
) -> None:
    theirs, ours = pair.both(*_runs(line))
    assert (ours.out, ours.status) == (theirs.out, theirs.status)
    if "level=error" not in theirs.err:
        assert ours.err == renamed(theirs.err)


def test_input_reaches_the_container_and_its_end_too(pair: Any) -> None:
    data = os.urandom(3_000_000)
    ours = pair.sampan.run("run", "-i", "--rm", "--network", "none", "busybox", "sha256sum", input=data)
    theirs = pair.docker.run("run", "-i", "--rm", "--network", "none", "busybox", "sha256sum", input=data)
    assert ours == theirs


def test_a_container_that_cannot_start_leaves_its_reason(pair: Any, renamed: Callable[[str], str]) -> None:
    theirs, ours = pair.both("run", "--network", "nosuch", "busybox", "true")
    assert ours.status == theirs.status == 125
    # Docker adds a log line of its own.
    assert ours.err == renamed(theirs.err).partition("time=")[0]


def test_the_life_of_a_container(pair: Any) -> None:
    sampan = pair.sampan
    started = sampan.run(
        "run", "-d", "--name", "life", "--network", "none", "busybox", "sh", "-c", "echo hi; sleep 60"
    )
    assert started.status == 0 and len(started.out) == 65
    assert sampan.run("exec", "life", "sh", "-c", "echo in; exit 4").status == 4
    assert sampan.run("exec", "-i", "life", "cat", input=b"typed").out == "typed"
    theirs, ours = pair.both("logs", "life")
    assert ours == theirs
    theirs, ours = pair.both("top", "life", "-o", "pid,args")
    assert ours == theirs
    for line in (
        "pause life",
        "unpause life",
        "kill life",
        "start life",
        "stop -t 0 life",
        "rename life other",
    ):
        assert sampan.run(*line.split()).status == 0
    theirs, ours = pair.both("wait", "other")
    assert ours == theirs
    assert sampan.run("rm", "other").out == "other\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "dir/sub").mkdir(parents=True)
    (root / "file").write_text("file\n")
    (root / "dir/inner").write_text("inner\n")
    (root / "dir/sub/deep").write_text("deep\n")
    (root / "link").symlink_to("file")
    os.chmod(root / "file", 0o640)
    return root


COPIES_IN = [
    ("file", "/tmp"),
    ("file", "/tmp/new"),
    ("file", "/tmp/nodir/"),
    ("file", "/nodir/x"),
    ("file", "/etc/passwd"),
    ("dir", "/tmp"),
    ("dir", "/tmp/new"),
    ("dir/.", "/tmp"),
    ("dir/.", "/tmp/new"),
    ("dir", "/etc/passwd"),
    ("dir/", "/tmp/new/"),
    ("link", "/tmp"),
    ("nosuch", "/tmp"),
]
LIST = ["export", "copy"]


def _content(pair: Any) -> dict[str, tuple[int, bytes]]:
    """Files of the container by name: mode and content or link."""
    import subprocess

    side = pair.docker
    data = subprocess.run(
        [*side.command, *LIST], capture_output=True, env=side.environment, check=True
    ).stdout
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            if member.name.startswith(("tmp", "etc", "nodir")):
                file = archive.extractfile(member) if member.isreg() else None
                found[member.name] = (member.mode, file.read() if file else member.linkname.encode())
    return found


@pytest.mark.parametrize(("source", "target"), COPIES_IN)
def test_a_copy_into_a_container_ends_where_dockers_does(
    pair: Any, tree: Path, source: str, target: str
) -> None:
    results = []
    for side in (pair.docker, pair.sampan):
        pair.docker.run("create", "--name", "copy", "busybox")
        outcome = side.run("cp", source, f"copy:{target}", cwd=tree)
        results.append((outcome.status, _content(pair)))
        pair.docker.run("rm", "copy")
    assert results[1] == results[0]


COPIES_OUT = [
    ("/etc/passwd", "."),
    ("/etc/passwd", "new"),
    ("/etc/passwd", "nodir/"),
    ("/etc/passwd", "nodir/x"),
    ("/etc/passwd", "there"),
    ("/etc", "."),
    ("/etc", "new"),
    ("/etc/.", "there"),
    ("/etc/.", "new"),
    ("/etc/", "new/"),
    ("/bin/sh", "."),
    ("/nosuch", "."),
    ("/etc", "file"),
]


def _mode_and_content(path: Path) -> tuple[int, bytes]:
    return path.lstat().st_mode, path.read_bytes() if path.is_file() and not path.is_symlink() else b""


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize(("source", "target"), COPIES_OUT)
def test_a_copy_out_of_a_container_ends_where_dockers_does(
    pair: Any, tmp_path: Path, source: str, target: str, follow: bool
) -> None:
    pair.docker.run("create", "--name", "copy", "busybox")
    results = []
    for name, side in (("a", pair.docker), ("b", pair.sampan)):
        place = tmp_path / name
        (place / "there").mkdir(parents=True)
        (place / "file").write_text("old")
        outcome = side.run("cp", *(["-L"] * follow), f"copy:{source}", target, cwd=place)
        files = {str(path.relative_to(place)): _mode_and_content(path) for path in sorted(place.rglob("*"))}
        results.append((outcome.status, files))
    assert results[1] == results[0]


def test_a_build_is_shown_as_docker_shows_it(pair: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text('FROM busybox\nCOPY a b\nENV X=1\nCMD ["cat", "/b"]\n')
    (tmp_path / "a").write_text("a")
    (tmp_path / "ignored").write_text("i")
    (tmp_path / ".dockerignore").write_text("ignored\n")
    pair.docker.run("build", "-t", "t", ".", cwd=tmp_path)
    theirs, ours = pair.both("build", "-t", "t", ".", cwd=tmp_path)
    assert "Using cache" in theirs.out
    sending, _, steps = ours.out.partition("\n")
    assert sending.startswith("Sending build context to Docker daemon  ")
    assert steps == theirs.out.partition("\n")[2].lstrip("\r\n")
    theirs, ours = pair.both("build", "-q", ".", cwd=tmp_path)
    assert ours == theirs


def test_a_failing_build_says_what_docker_says(pair: Any, tmp_path: Path) -> None:
    for text in (
        "FROM busybox\nRUN --network=none exit 3\n",
        "FROM busybox\nFOO bar\n",
        "FROM nosuch.invalid/x\n",
    ):
        (tmp_path / "Dockerfile").write_text(text)
        theirs, ours = pair.both("build", ".", cwd=tmp_path)
        assert (ours.status, ours.err) == (theirs.status, theirs.err)


def test_archives_go_both_ways(pair: Any, tmp_path: Path) -> None:
    assert pair.sampan.run("save", "-o", "ours.tar", "busybox", cwd=tmp_path).status == 0
    assert pair.docker.run("save", "-o", "theirs.tar", "busybox", cwd=tmp_path).status == 0
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()
    theirs, ours = pair.both("load", "-i", "ours.tar", cwd=tmp_path)
    assert ours == theirs
    imported = pair.sampan.run("import", "-", "again:1", input=(tmp_path / "ours.tar").read_bytes())
    assert imported.status == 0 and imported.out.startswith("sha256:")
