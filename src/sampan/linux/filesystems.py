"""Which file systems the running kernel can mount."""

from __future__ import annotations

import os

from sampan.linux import libc

_FSOPEN_CLOEXEC = 1


def is_offered(name: str) -> bool:
    """Whether the kernel knows the file system; asking loads its module where it is one (fsopen(2))."""
    try:
        os.close(libc.checked("fsopen", name, libc.FSOPEN, name.encode(), _FSOPEN_CLOEXEC))
    except OSError:
        return False
    return True
