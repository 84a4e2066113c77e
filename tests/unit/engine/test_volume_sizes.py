"""How much a volume holds: its own regular files, whatever a container does meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.engine.volumes.sizes import directory_size


def test_regular_files_count_and_each_once(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/one").write_bytes(bytes(1000))
    (tmp_path / "two").write_bytes(bytes(50))
    os.link(tmp_path / "two", tmp_path / "a/again")
    os.symlink("/etc", tmp_path / "link")
    os.mkfifo(tmp_path / "fifo")
    assert directory_size(tmp_path) == 1050
    os.symlink(tmp_path, tmp_path / "a/top")
    assert directory_size(tmp_path / "a/top") == 1050
    assert directory_size(tmp_path / "none") == 0


def test_a_directory_that_becomes_a_symbolic_link_meanwhile_counts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    for directory in (volume / "above/swapped", outside / "swapped"):
        directory.mkdir(parents=True)
    (outside / "swapped/secret").write_bytes(bytes(1000))
    (volume / "own").write_bytes(bytes(7))
    real = os.scandir
    looked: list[object] = []

    def swapping(directory: int | str) -> object:
        found = real(directory)
        looked.append(directory)
        if len(looked) == 2:  # the look into "above": what is in it comes next
            (volume / "above").rename(tmp_path / "away")
            os.symlink(outside, volume / "above")
        return found

    monkeypatch.setattr("sampan.engine.volumes.sizes.os.scandir", swapping)
    assert directory_size(volume) == 7
    assert len(looked) == 2
