"""Times of files that are too new."""

from __future__ import annotations

import os
from pathlib import Path

from sampan.storage.clamp import clamp_times


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
