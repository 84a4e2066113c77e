"""Bringing to disk what must be there after a crash of the host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sampan.linux.libc import syncfs

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def sync_all(path: Path) -> None:
    """The whole file system of the directory `path`: one syncfs, since one fsync per file costs far more."""
    descriptor = os.open(path, _DIRECTORY)
    try:
        syncfs(descriptor, str(path))
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """The names in a directory, not what they name."""
    descriptor = os.open(path, _DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
