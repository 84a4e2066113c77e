"""A change after the moment is seen, even in the clock step in which the moment was taken; and room is looked after."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.engine.volume_backup import consistency
from sampan.engine.volume_backup.cloning import clone_tree
from sampan.engine.volume_backup.format import Entry
from sampan.engine.volume_backup.reuse import Bases, link_or_copy
from sampan.engine.volume_backup.room import check_room
from sampan.engine.volume_backup.walk import read_target, walk
from sampan.errors import Unavailable


@pytest.fixture
def opened() -> Any:
    descriptors: list[int] = []

    def opener(path: Path) -> int:
        path.mkdir(exist_ok=True)
        descriptors.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY))
        return descriptors[-1]

    yield opener
    for one in descriptors:
        os.close(one)


def test_a_change_right_after_the_moment_is_seen(tmp_path: Path, opened: Callable[[Path], int]) -> None:
    tree = opened(tmp_path / "tree")
    file = tmp_path / "tree/file"
    for number in range(30):
        moment = consistency.begin(tree, tmp_path, flush=False)
        file.write_text(str(number))
        assert b"file" in consistency.changed_since(tree, moment)
    os.fchmod(tree, 0o700)
    moment = consistency.begin(tree, tmp_path, flush=False)
    assert consistency.changed_since(tree, moment) == []


def test_reading_begins_when_the_kernels_clock_has_gone_on(
    tmp_path: Path, opened: Callable[[Path], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older kernels than 6.13 have one time for all changes of 4 or 10 ms."""
    tree = opened(tmp_path / "tree")
    real = os.fstat

    def clock() -> int:
        return time.monotonic_ns() // 10_000_000 * 10_000_000

    def coarse(descriptor: int) -> Any:
        return SimpleNamespace(st_ctime_ns=clock(), st_dev=real(descriptor).st_dev)

    for _ in range(10):
        with monkeypatch.context() as patch:
            patch.setattr("sampan.engine.volume_backup.consistency.os.fstat", coarse)
            moment = consistency.begin(tree, tmp_path, flush=False)
            assert clock() > moment


def test_on_another_file_system_the_trees_own_times_are_the_clock(
    tmp_path: Path, opened: Callable[[Path], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = opened(tmp_path / "tree")
    (tmp_path / "tree/file").touch()
    newest = max(os.stat(tmp_path / "tree" / name).st_ctime_ns for name in (".", "file"))
    later = tmp_path / "later"
    later.touch()
    while later.stat().st_ctime_ns <= newest:
        later.chmod(0o600)
    real = os.stat

    def elsewhere(path: Any, **more: Any) -> Any:
        found = real(path, **more)
        return SimpleNamespace(st_dev=found.st_dev + 1) if path == tmp_path else found

    monkeypatch.setattr("sampan.engine.volume_backup.consistency.os.stat", elsewhere)
    assert consistency.begin(tree, tmp_path, flush=False) == newest


def full(free: int) -> Callable[[int], Any]:
    """A file system of 1 MB blocks with that many free ones: of 1,000 it keeps 20."""
    return lambda _directory: SimpleNamespace(
        f_bavail=free, f_frsize=1 << 20, f_blocks=1000, f_files=0, f_favail=0
    )


def test_room_is_for_what_comes_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sampan.engine.volume_backup.room.os.fstatvfs", full(50))
    check_room(0)
    check_room(0, 30 << 20)
    with pytest.raises(Unavailable, match="no space left on device"):
        check_room(0, 31 << 20)


def test_a_file_of_a_base_is_not_copied_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, opened: Callable[[Path], int]
) -> None:
    def cannot(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no shared contents")

    monkeypatch.setattr("sampan.engine.copy_tree.fcntl.ioctl", cannot)
    root, target = opened(tmp_path / "base"), opened(tmp_path / "new")
    (tmp_path / "base/f").write_bytes(os.urandom(1 << 20))
    bases = Bases("id", root, {b"f": Entry("f", "file")}, ours=False)

    def room(size: int) -> None:
        check_room(target, size)

    monkeypatch.setattr("sampan.engine.volume_backup.room.os.fstatvfs", full(21))
    os.close(link_or_copy(bases, bases.entry(b"f"), target, b"one", room))
    monkeypatch.setattr("sampan.engine.volume_backup.room.os.fstatvfs", full(20))
    with pytest.raises(Unavailable):
        link_or_copy(bases, bases.entry(b"f"), target, b"two", room)
    assert (tmp_path / "new/two").stat().st_blocks == 0


def test_a_link_that_becomes_a_file_meanwhile_is_gone(tmp_path: Path, opened: Callable[[Path], int]) -> None:
    tree, copy = opened(tmp_path / "tree"), opened(tmp_path / "copy")
    for name in ("first", "second"):
        os.symlink("target", tmp_path / "tree" / name)

    def exchange() -> None:
        (tmp_path / "tree/second").unlink()
        (tmp_path / "tree/second").write_text("file")

    gone: list[bytes] = []
    seen = walk(tree)
    assert [next(seen).path, next(seen).path] == [b"", b"first"]
    second = next(seen)
    exchange()
    with pytest.raises(FileNotFoundError):
        read_target(second)
    exchange()
    looks = iter(((), (), (exchange,)))
    os.replace(tmp_path / "tree/first", tmp_path / "tree/second")
    os.symlink("target", tmp_path / "tree/first")
    clone_tree(tree, copy, vanished=gone.append, look=lambda: [do() for do in next(looks)])
    assert (os.listdir(copy), gone) == (["first"], [b"second"])
