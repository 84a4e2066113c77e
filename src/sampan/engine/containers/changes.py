"""What a container has changed: its overlay upper directory against the layers below it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from sampan.linux.paths import open_in_root
from sampan.storage.overlay_marks import OPAQUE_VALUE, OPAQUE_XATTR

MODIFIED, ADDED, DELETED = 0, 1, 2
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def changes_of(upper: int, lower: int) -> list[tuple[str, int]]:
    """(path, kind), sorted by path. Both are directory descriptors; no link in either is followed."""
    return sorted(_walk(upper, lower, ""))


def _walk(upper: int, lower: int, path: str) -> Iterator[tuple[str, int]]:
    for name in os.listdir(upper):
        full = f"{path}/{name}"
        info = os.lstat(name, dir_fd=upper)
        below = _lower_stat(lower, full)
        if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
            if below is not None:
                yield full, DELETED
            continue
        yield full, ADDED if below is None else MODIFIED
        if stat.S_ISDIR(info.st_mode):
            directory = os.open(name, _DIRECTORY, dir_fd=upper)
            try:
                if _opaque(directory) and below is not None and stat.S_ISDIR(below.st_mode):
                    yield from _hidden(directory, lower, full)
                yield from _walk(directory, lower, full)
            finally:
                os.close(directory)


def _lower_stat(lower: int, path: str) -> os.stat_result | None:
    try:
        found = open_in_root(lower, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise
    try:
        return os.fstat(found)
    finally:
        os.close(found)


def _opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, OPAQUE_XATTR) == OPAQUE_VALUE
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def _hidden(directory: int, lower: int, path: str) -> Iterator[tuple[str, int]]:
    """What a directory made anew hides of the one below it."""
    there = set(os.listdir(directory))
    below = open_in_root(lower, path, _DIRECTORY)
    try:
        for name in os.listdir(below):
            if name not in there:
                yield f"{path}/{name}", DELETED
    finally:
        os.close(below)
