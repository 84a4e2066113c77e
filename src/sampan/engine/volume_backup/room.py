"""Whether the file system has room for what a restore or a copy brings: others' room is left to them."""

from __future__ import annotations

import os

from sampan.storage.metadata import no_space


def check_room(directory: int, wanted: int = 0) -> None:
    """Raises `Unavailable` when the file system is all but full, or will be with `wanted` bytes more."""
    status = os.fstatvfs(directory)
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    if free - wanted < min(total // 50, 1 << 30) or (status.f_files and status.f_favail < 1024):
        raise no_space("volumes")
