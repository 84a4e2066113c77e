"""The mount table. Lines: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
from pathlib import Path

from sampan.linux.mountinfo import Mount, mount_in, mount_of, mount_points, mounted_below

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


def test_the_mount_of_a_path_is_the_last_and_longest_above_it() -> None:
    table = r"""1 0 8:1 / / rw - ext4 /dev/sda rw
2 1 8:2 / /data rw shared:7 - ext4 /dev/sdb rw
3 1 8:3 / /data rw master:7 - ext4 /dev/sdc rw
4 1 8:4 / /data/a\040b rw shared:8 master:7 - ext4 /dev/sdd rw
"""
    assert mount_in(table, "/etc") == Mount("/", False, False)
    assert mount_in(table, "/database") == Mount("/", False, False)
    assert mount_in(table, "/data/x") == Mount("/data", False, True)
    assert mount_in(table, "/data/a b") == Mount("/data/a b", True, True)
    assert mount_of("/proc/self").place == "/proc"
