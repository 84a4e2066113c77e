"""Files that appear when they are complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.cli.replacing import Replacing


def test_the_file_is_there_when_all_was_written_and_no_sooner(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("old")
    with Replacing(str(place), 0o600) as descriptor:
        os.write(descriptor, b"new")
        assert place.read_text() == "old"
    assert place.read_text() == "new"
    assert place.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("old")
    with pytest.raises(ZeroDivisionError), Replacing(str(place)) as descriptor:
        os.write(descriptor, b"new")
        raise ZeroDivisionError
    assert place.read_text() == "old"
    place.unlink()
    place.mkdir()
    with pytest.raises(OSError), Replacing(str(place)) as descriptor:
        os.write(descriptor, b"new")
    assert os.listdir(tmp_path) == ["file"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("others'")
    (tmp_path / "link").symlink_to(elsewhere)
    with Replacing(str(tmp_path / "link")) as descriptor:
        os.write(descriptor, b"ours")
    assert elsewhere.read_text() == "others'"
    assert not (tmp_path / "link").is_symlink()
