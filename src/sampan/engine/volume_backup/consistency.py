"""Whether a tree stayed as it was while it was read: the kernel notes every change of a file as its ctime.

The kernel's clock for that moves in steps, of 10 ms at most: reading begins in the step after the moment.

A change that is made through memory (mmap) is noted when the page is first written after it was clean; so all is
brought to disk before the moment from which changes count.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Final

from sampan.engine.volume_backup.walk import walk
from sampan.linux.libc import syncfs

_STEP: Final = 0.01
"""Seconds: the longest step of the clock (a kernel whose HZ is 100)."""


def begin(root: int, directory: Path, *, flush: bool) -> int:
    """The moment from which changes count, by the file system's own clock: nanoseconds. `flush` where there is
    somebody who may be writing. `directory`: where a file can be made to ask the clock, if the tree is on the same file
    system; if not, the clock may be a server's, and the newest time of the tree is the moment."""
    if flush:
        syncfs(root, "volume")
    if os.fstat(root).st_dev != os.stat(directory).st_dev:
        newest = max((one.status.st_ctime_ns for one in walk(root, lambda _vanished: None)), default=0)
        time.sleep(2 * _STEP)
        return newest
    with tempfile.TemporaryFile(dir=directory) as probe:
        moment = os.fstat(probe.fileno()).st_ctime_ns
        end = time.monotonic() + 1  # should somebody set the clock back
        while os.fstat(probe.fileno()).st_ctime_ns <= moment and time.monotonic() < end:
            time.sleep(_STEP / 10)
            os.fchmod(probe.fileno(), 0o600)
        return moment


def changed_since(root: int, moment: int) -> list[bytes]:
    """Paths that changed since; of what was removed, the directory that had it."""
    found: list[bytes] = []
    for one in walk(root, found.append):
        if one.status.st_ctime_ns > moment:
            found.append(one.path)
    return found
