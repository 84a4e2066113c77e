"""Whether a tree stayed as it was while it was read: the kernel notes every change of a file as its ctime.

A change that is made through memory (mmap) is noted when the page is first written after it was clean; so all is
brought to disk before the moment from which changes count.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sampan.engine.volume_backup.walk import walk
from sampan.linux.libc import syncfs


def begin(root: int, directory: Path, *, flush: bool) -> int:
    """The moment from which changes count, by the file system's own clock: nanoseconds. `directory` is on the same
    file system as the tree. `flush` where there is somebody who may be writing."""
    if flush:
        syncfs(root, "volume")
    with tempfile.TemporaryFile(dir=directory) as probe:
        return os.fstat(probe.fileno()).st_ctime_ns


def changed_since(root: int, moment: int) -> list[bytes]:
    """Paths that changed since; of what was removed, the directory that had it."""
    found: list[bytes] = []
    for one in walk(root, found.append):
        if one.status.st_ctime_ns > moment:
            found.append(one.path)
    return found
