"""What `build --list-context` says is what the context stream does."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from sampan.cli.build_context import open_context
from sampan.cli.failure import Failure
from sampan.cli.list_context import LeftOut, list_context
from sampan.cli.main import main

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
