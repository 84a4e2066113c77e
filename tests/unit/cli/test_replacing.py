"""Files that appear when they are complete."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sampan.cli.replacing import Replacing


@pytest.fixture(params=["without a name", "with a name"], autouse=True)
def file_system(request: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One that has files without a name, and one that has not."""
    plain = os.open

    def refuse(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return plain(path, flags, *more, **named)

    if request.param == "with a name":
        monkeypatch.setattr(os, "open", refuse)
    return request.param


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


def test_a_file_without_a_name_is_gone_with_a_process_that_is_killed(
    tmp_path: Path, file_system: str
) -> None:
    child = os.fork()
    if child == 0:
        with Replacing(str(tmp_path / "file")) as descriptor:
            os.write(descriptor, b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert len(os.listdir(tmp_path)) == (0 if file_system == "without a name" else 1)
