"""Small files are read, written and copied at once."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from sampan.engine.copy_tree import copy_content
from sampan.engine.volume_backup.walk import Contents


def test_a_file_that_became_shorter_is_filled_up_with_zeros_and_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    contents = Contents()
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert contents.whole(descriptor, 10) == (
            b"content\0\0\0",
            hashlib.sha256(b"content\0\0\0").hexdigest(),
        )
        assert contents.short
        assert contents.whole(descriptor, 7)[0] == b"content"
        assert not contents.short
        assert contents.whole(descriptor, 0) == (b"", hashlib.sha256(b"").hexdigest())
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("size", [0, 1, 4096, 128 << 10, (128 << 10) + 1])
def test_a_copy_has_the_content_whatever_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def cannot(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no shared contents")

    monkeypatch.setattr("sampan.engine.copy_tree.fcntl.ioctl", cannot)
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    asked: list[int] = []
    with open(tmp_path / "source", "rb") as source, open(tmp_path / "target", "wb") as target:
        copy_content(source.fileno(), target.fileno(), asked.append)
    assert (tmp_path / "target").read_bytes() == content
    assert len(asked) == (1 if size else 0)


def test_a_small_file_that_is_all_hole_stays_one_in_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no shared contents")

    monkeypatch.setattr("sampan.engine.copy_tree.fcntl.ioctl", cannot)
    with open(tmp_path / "source", "wb") as source:
        source.truncate(100_000)
    with open(tmp_path / "source", "rb") as read, open(tmp_path / "target", "wb") as target:
        copy_content(read.fileno(), target.fileno())
    status = (tmp_path / "target").stat()
    assert (status.st_size, status.st_blocks) == (100_000, 0)
