"""No file newer than a given time: what makes a layer the same at whatever time it was made.

As SOURCE_DATE_EPOCH is meant (reproducible-builds.org): a time that is later becomes that one, an earlier one stays.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from sampan.errors import Invalid
from sampan.storage.tar_writer import DEPTH_MAX

_SECOND: Final = 1_000_000_000
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def clamp_times(tree: Path, latest: int) -> None:
    """`latest` in seconds since 1970. Of links their own time counts; nothing is followed.

    Raises `Invalid` for directories that are nested too deep to become a layer, too.
    """
    limit = latest * _SECOND
    top = os.open(tree, _DIRECTORY)
    stack = [(top, os.listdir(top))]
    try:
        while stack:
            fd, names = stack[-1]
            if not names:
                if os.fstat(fd).st_mtime_ns > limit:
                    os.utime(fd, ns=(limit, limit))
                os.close(stack.pop()[0])
                continue
            name = names.pop()
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if len(stack) >= DEPTH_MAX:
                    raise Invalid(f"directories are nested more than {DEPTH_MAX} deep")
                child = os.open(name, _DIRECTORY, dir_fd=fd)
                stack.append((child, os.listdir(child)))
            elif status.st_mtime_ns > limit:
                os.utime(name, ns=(limit, limit), dir_fd=fd, follow_symlinks=False)
    finally:
        for fd, _ in stack:
            os.close(fd)
