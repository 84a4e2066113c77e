"""Tar streams out (contexts, cp) and in (cp), with hostile ones."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from sampan.cli.build_context import open_context
from sampan.cli.extract import Extractor
from sampan.cli.failure import Failure
from sampan.cli.tarball import END, TreeWriter, header


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def test_a_context_leaves_out_what_is_ignored_and_keeps_what_the_build_needs(tmp_path: Path) -> None:
    for name in ("a", "skipped/x", "skipped/wanted", "Dockerfile"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text("skipped\n!skipped/wanted\nDockerfile\n.dockerignore\n")
    context = open_context(str(tmp_path), "")
    assert context.body is not None and context.dockerfile == "Dockerfile"
    found = members(b"".join(context.body))
    assert sorted(found) == [".dockerignore", "Dockerfile", "a", "skipped/wanted"]
    assert (found["a"].uid, found["a"].gid, found["a"].uname) == (0, 0, "root")


def test_the_same_tree_gives_the_same_stream(tmp_path: Path) -> None:
    for name in "cab":
        (tmp_path / name).write_text(name)
    (tmp_path / "Dockerfile").write_text("FROM x")
    streams = [b"".join(open_context(str(tmp_path), "").body or ()) for _ in range(2)]
    assert streams[0] == streams[1]


def test_a_dockerfile_outside_of_the_context_is_sent_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "other").write_text("FROM y")
    monkeypatch.chdir(tmp_path)
    context = open_context("context", "other")
    found = members(b"".join(context.body or ()))
    assert sorted(found) == [context.dockerfile, f"{context.dockerfile}.dockerignore"]
    assert context.dockerfile.startswith(".dockerfile.")


def test_an_ignore_file_beside_a_dockerfile_outside_of_the_context_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "context").mkdir()
    for name in ("kept", "left", ".dockerignore"):
        (tmp_path / "context" / name).write_text("kept\n")
    (tmp_path / "other").write_text("FROM y")
    (tmp_path / "other.dockerignore").write_text("left\n")
    monkeypatch.chdir(tmp_path)
    context = open_context("context", "other")
    assert context.directory is None
    data = b"".join(context.body or ())
    own = [context.dockerfile, f"{context.dockerfile}.dockerignore"]
    assert sorted(members(data)) == sorted([".dockerignore", "kept", *own])
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile(own[1])
        # What the engine reads keeps the two files of ours out of `COPY . .`.
        assert file is not None and file.read().decode().split() == ["left", *own]


@pytest.mark.parametrize(
    ("place", "dockerfile", "message"),
    [
        ("nodir", "", 'unable to prepare context: path "nodir" not found'),
        (".", "nofile", "unable to evaluate symlinks in Dockerfile path: lstat"),
        ("-", "-", "can't use stdin for both build context and dockerfile"),
    ],
)
def test_a_context_that_is_none_is_refused(
    place: str, dockerfile: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Failure) as caught:
        open_context(place, dockerfile)
    assert message in caught.value.message


def test_long_names_links_and_hard_links_survive(tmp_path: Path) -> None:
    name = "d" * 90 + "/" + "ü" * 60
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("x")
    (tmp_path / "link").symlink_to("t" * 150)
    os.link(tmp_path / name, tmp_path / "zhard")
    data = b"".join(TreeWriter(owner=True).tree(str(tmp_path), "")) + END
    found = members(data)
    assert found[name].isreg() and found["link"].linkname == "t" * 150
    assert found["zhard"].islnk() and found["zhard"].linkname == name


def test_big_numbers_stand_in_a_pax_header() -> None:
    data = header("x", size=0, uid=3_000_000_000) + END
    assert members(data)["x"].uid == 3_000_000_000


def archive(*entries: tarfile.TarInfo) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    buffer.seek(0)
    return buffer


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.mtime = kind, link, mode, 1_600_000_000
    info.size = 3 if kind == tarfile.REGTYPE else 0
    return info


def test_an_archive_is_unpacked_with_modes_and_times(tmp_path: Path) -> None:
    entries = (
        entry("d", tarfile.DIRTYPE, mode=0o555),
        entry("d/f", mode=0o640),
        entry("d/l", tarfile.SYMTYPE, "f"),
    )
    Extractor(str(tmp_path)).extract(archive(*entries))
    assert (tmp_path / "d/l").read_text() == "xxx"
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o555
    assert (tmp_path / "d/f").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "d").stat().st_mtime == 1_600_000_000


def test_the_first_component_can_be_renamed(tmp_path: Path) -> None:
    directory = entry("a", tarfile.DIRTYPE)
    directory.mode = 0o755
    Extractor(str(tmp_path)).extract(archive(directory, entry("a/f")), ("a", "b"))
    assert (tmp_path / "b/f").exists()


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../out")],
        [entry("a/../../out")],
        [entry("l", tarfile.SYMTYPE, "OUTSIDE"), entry("l/out")],
        [entry("h", tarfile.LNKTYPE, "../secret")],
        [entry("d", tarfile.DIRTYPE), entry("d/l", tarfile.SYMTYPE, ".."), entry("d/l/l2/out")],
    ],
)
def test_an_archive_cannot_write_outside(tmp_path: Path, entries: list[tarfile.TarInfo]) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_text("s")
    for item in entries:
        item.linkname = item.linkname.replace("OUTSIDE", str(tmp_path))
    with pytest.raises(Failure):
        Extractor(str(inside)).extract(archive(*entries))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "secret"]


def test_an_existing_link_is_replaced_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/f").symlink_to(tmp_path / "victim")
    Extractor(str(tmp_path / "in")).extract(archive(entry("f")))
    assert (tmp_path / "victim").read_text() == "untouched"
    assert (tmp_path / "in/f").read_text() == "xxx"


def test_an_absolute_name_lands_inside(tmp_path: Path) -> None:
    Extractor(str(tmp_path)).extract(archive(entry("/abs")))
    assert (tmp_path / "abs").read_text() == "xxx"
