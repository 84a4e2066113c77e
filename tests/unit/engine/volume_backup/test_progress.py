"""What is told while one large file is read, copied or unpacked, and that it can be ended there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sampan.engine.volume_backup.cloning import clone_tree
from sampan.engine.volume_backup.format import FORMAT, Head
from sampan.engine.volume_backup.messages import bar, stepped
from sampan.engine.volume_backup.reading import unpack
from sampan.engine.volume_backup.snapshots import Source
from sampan.engine.volume_backup.writing import write_backup

SIZE = 40 << 20


class Whole:
    full = overfull = False

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: bytes, /) -> None:
        self.pieces.append(bytes(data))

    def cut(self) -> None:
        return


@contextmanager
def opened(path: Path) -> Iterator[int]:
    path.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    return tmp_path / "tree"


def archive_of(tree: Path, work: Path) -> list[bytes]:
    target = Whole()
    with opened(tree) as root:
        write_backup(root, target, Head(FORMAT, "v", "2026-11-25T15:00:00Z", size=SIZE), directory=work)
    return target.pieces


class GivenUp(Exception):
    pass


def test_a_restore_tells_how_far_it_is_within_a_file(tree: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with opened(tmp_path / "new") as place:
        unpack([archive_of(tree, tmp_path)], place, tmp_path, progress=lambda *state: told.append(state))
    sizes = [size for size, _ in told]
    assert {total for _, total in told} == {SIZE}
    assert sizes == sorted(sizes) and sizes[-1] == SIZE
    assert len({size for size in sizes if 0 < size < SIZE}) > 4


def test_a_restore_can_be_ended_within_a_file(tree: Path, tmp_path: Path) -> None:
    def progress(size: int, _total: int) -> None:
        if size > SIZE // 2:
            raise GivenUp

    with opened(tmp_path / "new") as place, pytest.raises(GivenUp):
        unpack([archive_of(tree, tmp_path)], place, tmp_path, progress=progress)
    assert (tmp_path / "new/large").stat().st_size < SIZE


def test_a_copy_tells_how_far_it_is_within_a_file_and_can_be_ended_there(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no shared contents")

    monkeypatch.setattr("sampan.engine.copy_tree.fcntl.ioctl", cannot)
    told: list[int] = []
    with opened(tree) as source, opened(tmp_path / "whole") as target:
        clone_tree(source, target, progress=told.append)
    assert told == sorted(told) and told[-1] == SIZE and 0 < told[0] < SIZE
    assert (tmp_path / "whole/large").read_bytes() == (tree / "large").read_bytes()

    seen: list[int] = []

    def look() -> None:
        if seen:
            raise GivenUp

    with opened(tree) as source, opened(tmp_path / "half") as target, pytest.raises(GivenUp):
        clone_tree(source, target, progress=seen.append, look=look)
    assert (tmp_path / "half/large").stat().st_size < SIZE


def test_reports_are_some_megabytes_apart_and_begin_anew_with_another_backup() -> None:
    told: list[tuple[int, int]] = []
    progress = stepped(lambda *state: told.append(state))
    for size in (0, 1 << 20, 5 << 20, 6 << 20, 1 << 20, 2 << 20, 7 << 20):
        progress(size, 9 << 20)
    assert [size >> 20 for size, _ in told] == [0, 5, 1, 7]
    assert bar(Source("v"), "Restoring", 10, 5)["progressDetail"] == {"current": 10, "total": 10}
