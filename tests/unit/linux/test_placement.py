"""Where a file system puts what is made in a directory. Linux: ioctl_iflags(2), chattr(1) attribute T."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sampan.linux.placement import spread_children


def attributes(path: Path) -> str:
    if shutil.which("lsattr") is None:
        pytest.skip("no lsattr here")
    shown = subprocess.run(["lsattr", "-d", str(path)], capture_output=True, text=True, check=False)
    if shown.returncode != 0:
        pytest.skip(f"this file system has no attributes: {shown.stderr.strip()}")
    return shown.stdout.split()[0]


def test_a_directory_says_that_its_children_are_unrelated_where_the_file_system_knows_that(
    tmp_path: Path,
) -> None:
    before = attributes(tmp_path)
    known = spread_children(tmp_path)
    assert attributes(tmp_path).replace("T", "-") == before
    assert ("T" in attributes(tmp_path)) is known
    assert spread_children(tmp_path) is known


def test_a_file_system_without_such_attributes_is_no_error() -> None:
    assert spread_children("/proc/self") is False
