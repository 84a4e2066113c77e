"""Which file systems the running kernel can mount."""

from __future__ import annotations

import os

from sampan.errors import Unsupported
from sampan.linux import libc, loop_devices

_FSOPEN_CLOEXEC = 1


def is_offered(name: str) -> bool:
    """Whether the kernel knows the file system; asking loads its module where it is one (fsopen(2))."""
    try:
        os.close(libc.checked("fsopen", name, libc.FSOPEN, name.encode(), _FSOPEN_CLOEXEC))
    except OSError:
        return False
    return True


def kernel_version() -> tuple[int, int]:
    major, minor = os.uname().release.split("-", 1)[0].split(".")[:2]
    return int(major), int(minor)


def mounts_erofs_images() -> bool:
    """Directly from a file (Linux 6.12), or over a loop device."""
    if not is_offered("erofs"):
        return False
    if kernel_version() >= (6, 12):
        return True
    try:
        os.close(loop_devices.open_control())
    except Unsupported:
        return False
    return True
