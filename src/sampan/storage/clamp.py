"""No file newer than a given time: what makes a layer the same at whatever time it was made.

As SOURCE_DATE_EPOCH is meant (reproducible-builds.org): a time that is later becomes that one, an earlier one stays.
"""

from __future__ import annotations

import os
from pathlib import Path

_SECOND = 1_000_000_000


def clamp_times(tree: Path, latest: int) -> None:
    """`latest` in seconds since 1970. Of links their own time counts; nothing is followed."""
    limit = latest * _SECOND
    for _, directories, files, fd in os.fwalk(tree, topdown=False, follow_symlinks=False):
        for name in (*directories, *files):
            if os.stat(name, dir_fd=fd, follow_symlinks=False).st_mtime_ns > limit:
                os.utime(name, ns=(limit, limit), dir_fd=fd, follow_symlinks=False)
        if os.fstat(fd).st_mtime_ns > limit:
            os.utime(fd, ns=(limit, limit))
