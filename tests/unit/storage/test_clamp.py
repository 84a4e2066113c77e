"""Times of files that are too new."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.errors import Invalid
from sampan.storage.clamp import clamp_times
from sampan.storage.removal import remove_tree
from sampan.storage.tar_writer import DEPTH_MAX


def test_later_times_become_the_limit_and_earlier_ones_stay(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/new").write_text("x")
    (tree / "a/old").write_text("x")
    (tree / "a/link").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").write_text("x")
    outside = (tmp_path / "outside").stat().st_mtime_ns
    os.utime(tree / "a/old", (500, 500))
    clamp_times(tree, 1000)
    assert (tree / "a/old").stat().st_mtime_ns == 500 * 10**9
    for name in ("a", "a/b", "a/new", "a/link"):
        assert (tree / name).lstat().st_mtime_ns == 1000 * 10**9, name
    assert tree.stat().st_mtime_ns == 1000 * 10**9
    assert (tmp_path / "outside").stat().st_mtime_ns == outside


@pytest.mark.parametrize("depth", [DEPTH_MAX - 1, 1200])
def test_a_tree_may_be_as_deep_as_a_layer_and_is_refused_in_words_beyond(tmp_path: Path, depth: int) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    fd = os.open(tree, os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    try:
        if depth < DEPTH_MAX:
            clamp_times(tree, 1000)
            assert os.fstat(fd).st_mtime == 1000
        else:
            with pytest.raises(Invalid, match="nested more than"):
                clamp_times(tree, 1000)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(fd)
        remove_tree(tree)
