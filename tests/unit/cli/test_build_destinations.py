"""What a build delivers: a hostile stream leaves its directory no more than a broken one leaves half a result."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from sampan.cli.build.destinations import ArchiveFile, Directory
from sampan.cli.failure import Failure
from sampan.errors import SampanError, Unavailable


class Stream:
    """Gives what it has, then ends or breaks."""

    def __init__(self, *pieces: bytes, broken: bool = False) -> None:
        self._pieces = list(pieces)
        self._broken = broken
        self.ended = False

    def read(self, limit: int = 65536, /) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._broken:
            raise Unavailable("the engine is gone")
        return b""

    def end(self) -> None:
        self.ended = True


def tar(*entries: tuple[str, bytes, str]) -> bytes:
    """Name, type, and link or content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, text in entries:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            if kind == tarfile.REGTYPE:
                entry.size = len(text)
            else:
                entry.linkname = text
            if kind == tarfile.DIRTYPE:
                entry.mode = 0o755
            archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


@pytest.mark.parametrize(
    "entries",
    [
        [("../out", tarfile.REGTYPE, "x")],
        [("a/../../out", tarfile.REGTYPE, "x")],
        [("link", tarfile.SYMTYPE, ".."), ("link/out", tarfile.REGTYPE, "x")],
        [("link", tarfile.SYMTYPE, "/"), ("link", tarfile.DIRTYPE, ""), ("link/out", tarfile.REGTYPE, "x")],
        [("hard", tarfile.LNKTYPE, "../victim")],
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_hostile_names_stay_inside(
    tmp_path: Path, entries: list[tuple[str, bytes, str]], exists: bool
) -> None:
    (tmp_path / "victim").write_text("v")
    target = tmp_path / "dest"
    if exists:
        target.mkdir()
    with pytest.raises((SampanError, OSError)):
        Directory(str(target)).take(Stream(tar(*entries)))
    assert sorted(os.listdir(tmp_path)) == (["dest", "victim"] if exists else ["victim"])
    assert not exists or os.listdir(target) == []
    assert (tmp_path / "victim").stat().st_nlink == 1


def test_a_link_in_the_way_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target, outside = tmp_path / "dest", tmp_path / "outside"
    for directory in (target, outside, target / "sub"):
        directory.mkdir()
    (target / "dir").symlink_to(outside)
    (target / "file").symlink_to(outside / "file")
    (target / "sub/old").write_text("old")
    (target / "was").mkdir()
    (target / "was/inside").write_text("gone")
    stream = Stream(
        tar(
            ("dir", tarfile.DIRTYPE, ""),
            ("dir/new", tarfile.REGTYPE, "1"),
            ("file", tarfile.REGTYPE, "2"),
            ("sub", tarfile.DIRTYPE, ""),
            ("sub/new", tarfile.REGTYPE, "3"),
            ("was", tarfile.REGTYPE, "4"),
        )
    )
    Directory(str(target)).take(stream)
    assert stream.ended
    assert os.listdir(outside) == []
    assert {
        str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()
    } == {
        "dir/new": "1",
        "file": "2",
        "sub/old": "old",
        "sub/new": "3",
        "was": "4",
    }


@pytest.mark.parametrize("cut", [100, 700, 10240])
def test_a_stream_that_breaks_off_leaves_what_was_there(tmp_path: Path, cut: int) -> None:
    whole = tar(("a", tarfile.REGTYPE, "new"))
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest/a").write_text("old")
    (tmp_path / "file").write_text("old")
    for destination in (Directory(str(tmp_path / "dest")), Directory(str(tmp_path / "fresh")),
                        ArchiveFile(str(tmp_path / "file"))):  # fmt: skip
        stream = Stream(whole[:cut], broken=True)
        with pytest.raises(SampanError):
            destination.take(stream)
        assert not stream.ended
    assert sorted(os.listdir(tmp_path)) == ["dest", "file"]
    assert os.listdir(tmp_path / "dest") == ["a"]
    assert (tmp_path / "dest/a").read_text() == (tmp_path / "file").read_text() == "old"


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    whole = tar(("a", tarfile.REGTYPE, "new"))
    (tmp_path / "file").write_text("")
    for destination in (ArchiveFile, Directory):
        place = str(tmp_path / "file" / "below")
        with pytest.raises(Failure, match=f"^write {place}: (not a directory|file exists)$"):
            destination(place).deliver(Stream(whole))
