"""How much a volume holds. Blocking."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from sampan.linux.paths import RESOLVE_NO_SYMLINKS, open_in_root

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_GONE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.EAGAIN, errno.ENAMETOOLONG}
)
"""Removed, renamed or swapped for a symbolic link meanwhile; or deeper than a path can be long: a container's joke."""


def directory_size(path: Path) -> int:
    """Bytes of the regular files below `path`, hard links counted once; what vanishes meanwhile counts nothing.

    No symbolic link below it is followed, whoever puts one there meanwhile.
    """
    try:
        root = os.open(path, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    try:
        return _size(root)
    finally:
        os.close(root)


def _size(root: int) -> int:
    total = 0
    seen: set[tuple[int, int]] = set()
    pending = ["."]
    while pending:
        above = pending.pop()
        try:
            directory = open_in_root(root, above, _DIRECTORY, resolve=RESOLVE_NO_SYMLINKS)
        except OSError as error:
            if error.errno in _GONE:
                continue
            raise
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISDIR(info.st_mode):
                        pending.append(f"{above}/{entry.name}")
                    elif stat.S_ISREG(info.st_mode) and (info.st_dev, info.st_ino) not in seen:
                        seen.add((info.st_dev, info.st_ino))
                        total += info.st_size
        finally:
            os.close(directory)
    return total
