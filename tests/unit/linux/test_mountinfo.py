"""The mount table. Lines: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
from pathlib import Path

from sampan.linux.mountinfo import mount_points, mounted_below

TABLE = r"""22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
37 35 98:0 / /with\040space\011tab rw - ext4 /dev/loop0 rw
"""


def test_places_of_mounts_are_read_with_their_escapes() -> None:
    assert mount_points(TABLE) == ["/proc", "/mnt2", "/with space\ttab"]


def test_what_is_mounted_below_a_path_is_found() -> None:
    assert "/proc" in mounted_below("/")
    assert mounted_below("/proc")[-1] == "/proc"
    assert mounted_below("/proc/self/fd") == []
    assert mounted_below("/pro") == []


def test_a_directory_of_files_has_no_mounts(tmp_path: Path) -> None:
    assert mounted_below(os.path.realpath(tmp_path)) == []
