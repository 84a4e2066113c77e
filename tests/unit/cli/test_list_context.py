"""What `build --list-context` says is what the context stream does."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from sampan.cli.build.calls import question
from sampan.cli.build_context import open_context
from sampan.cli.failure import Failure
from sampan.cli.list_context import LeftOut, list_context
from sampan.cli.main import main
from sampan.errors import Invalid

IGNORE = "# comment\n\n*.log\nskipped\n!skipped/wanted\nmodules/\n!keep.log\n.dockerignore\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    for name in ("a", "b.log", "keep.log", "skipped/x", "skipped/wanted", "modules/m/deep", "Dockerfile"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    os.link(tmp_path / "a", tmp_path / "z")
    os.symlink("nowhere", tmp_path / "link")
    (tmp_path / ".dockerignore").write_text(IGNORE)
    return tmp_path


def test_what_is_left_out_is_told_with_the_line_that_decided(context: Path) -> None:
    assert list_context(str(context), "").left_out == [
        LeftOut("b.log", ".dockerignore", 3, "*.log"),
        LeftOut("modules/", ".dockerignore", 6, "modules/"),
        LeftOut("skipped/x", ".dockerignore", 4, "skipped"),
    ]


def test_what_is_listed_is_what_the_stream_has(context: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(b"".join(open_context(str(context), "").body or ()))) as archive:
        members = {m.name: m.size for m in archive if not m.isdir()}
    listing = list_context(str(context), "")
    assert {item.path: item.size for item in listing.sent} == members
    assert listing.total == sum(members.values())


def test_the_dockerfiles_own_ignore_file_wins_and_is_named(context: Path) -> None:
    (context / "Dockerfile.dockerignore").write_text("a\n")
    left_out = list_context(str(context), "").left_out
    assert left_out == [LeftOut("a", "Dockerfile.dockerignore", 1, "a")]


def test_a_dockerfile_outside_of_the_context_brings_its_ignore_file(tmp_path: Path) -> None:
    context, elsewhere = tmp_path / "context", tmp_path / "elsewhere"
    for directory in (context, elsewhere):
        directory.mkdir()
    (context / "a.log").write_text("")
    (context / ".dockerignore").write_text("nothing\n")
    # One of its name in the context is not its own.
    (context / "Outer.dockerignore").write_text("*\n")
    (elsewhere / "Outer").write_text("FROM scratch")
    place = str(elsewhere / "Outer")
    assert list_context(str(context), place).left_out == []
    (elsewhere / "Outer.dockerignore").write_text("*.log\n")
    left_out = list_context(str(context), place).left_out
    assert left_out == [LeftOut("a.log", "../elsewhere/Outer.dockerignore", 1, "*.log")]
    asked = question(str(context), place)
    with tarfile.open(fileobj=io.BytesIO(b"".join(asked.body))) as archive:
        ignored = archive.extractfile("Outer.dockerignore")
        assert asked.name == "Outer" and ignored is not None and ignored.read() == b"*.log\n"


def test_a_pattern_that_is_malformed_is_told_with_its_line(context: Path) -> None:
    (context / ".dockerignore").write_text("# [\n*.log\n[\n")
    for act in (list_context, lambda *place: list(open_context(*place).body or ())):
        with pytest.raises(Invalid, match=r"error reading \.dockerignore:3: syntax error in pattern '\['"):
            act(str(context), "")


def test_trees_deeper_than_the_interpreters_stack_are_listed_and_sent(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch")
    deepest = str(tmp_path)
    for _ in range(1200):
        deepest += "/d"
        os.mkdir(deepest)
    Path(deepest, "x").write_text("x")
    try:
        listed = [item.path for item in list_context(str(tmp_path), "").sent]
        assert listed == ["Dockerfile", f"{'d/' * 1200}x"]
        assert b"d/d/x\n" in b"".join(open_context(str(tmp_path), "").body or ())
    finally:  # shutil.rmtree would not get so deep
        os.unlink(f"{deepest}/x")
        os.removedirs(deepest)


def test_any_name_is_one_line_and_good_json(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    names = (b"Dockerfile", b"a\nb", b"c\x1b[2J", b"\xff")
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"")
    assert main(["build", "--list-context", "--format", "json", str(tmp_path)]) == 0
    sent = json.loads(capfdbinary.readouterr().out)["sent"]
    assert [item["path"] for item in sent] == ["Dockerfile", "a\nb", "c\x1b[2J", "\N{REPLACEMENT CHARACTER}"]
    assert main(["build", "--list-context", str(tmp_path)]) == 0
    lines = capfdbinary.readouterr().out.decode("utf-8", "surrogateescape").split("\n")
    assert [line.split()[-1] for line in lines[1:3]] == ["a?b", "c?[2J"]


@pytest.mark.parametrize(
    ("there", "wanted", "hint"),
    [
        ("Dockefile", "", "Did you mean -f Dockefile?"),
        ("DockerFile", "", "Did you mean -f DockerFile?"),
        ("Containerfile", "", "Did you mean -f Containerfile?"),
        ("prod.Dockerfile", "dev.Dockerfile", "Did you mean -f prod.Dockerfile?"),
        ("main.go", "", ""),
        ("main.go", "docker/Dockerfile", "there is no directory {directory}/docker"),
    ],
)
def test_a_missing_dockerfile_is_told_with_what_may_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, wanted: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / there).write_text("")
    with pytest.raises(Failure, match="no such file or directory") as caught:
        open_context(".", wanted)
    assert caught.value.hint == hint.format(directory=tmp_path)


def test_a_dockerfile_that_is_a_directory_is_refused_by_that_name(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").mkdir()
    with pytest.raises(Failure, match=f"the Dockerfile is a directory: {tmp_path}/Dockerfile"):
        open_context(str(tmp_path), "")


def test_the_command_lists_as_json_and_needs_no_engine(
    context: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--host", f"unix://{context}/no-engine", "build", "--list-context"]
    assert main([*where, "--format", "json", str(context)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["leftOut"][0] == {"path": "b.log", "file": ".dockerignore", "line": 3, "pattern": "*.log"}
    assert main([*where, "--format", "xml", str(context)]) != 0


@pytest.mark.parametrize("change", ["longer", "shorter", "same size, time set back"])
def test_a_file_that_changes_while_it_is_sent_ends_the_build(tmp_path: Path, change: str) -> None:
    (tmp_path / "Dockerfile").write_text("FROM x")
    big = tmp_path / "big"
    big.write_bytes(bytes(1 << 20))
    before = big.stat()
    stream = iter(open_context(str(tmp_path), "").body or ())
    while len(next(stream)) < 1 << 18:
        pass  # until the first piece of the big file is there
    if change == "longer":
        with big.open("ab") as file:
            file.write(b"x")
    elif change == "shorter":
        os.truncate(big, 1 << 19)
    else:
        with big.open("r+b") as file:
            file.write(b"x")
        os.utime(big, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Failure, match=f"changed while it was read: {big}"):
        list(stream)
