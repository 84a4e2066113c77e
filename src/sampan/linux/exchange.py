"""renameat2(2) with RENAME_EXCHANGE: two names change places, at once."""

from __future__ import annotations

import os
from pathlib import Path

from sampan.linux import libc

_EXCHANGE = 2
_RENAMEAT2 = {"x86_64": 316, "i686": 353, "armv7l": 382, "ppc64le": 357, "s390x": 347}
_RENAMEAT2_GENERIC = 276  # aarch64, riscv64, loongarch64


def exchange(first: Path, second: Path) -> None:
    """Raises `SystemCallError`: EINVAL where the file system can't, ENOENT when one of them is missing."""
    libc.checked(
        "renameat2",
        str(first),
        _RENAMEAT2.get(os.uname().machine, _RENAMEAT2_GENERIC),
        libc.AT_FDCWD,
        os.fsencode(first),
        libc.AT_FDCWD,
        os.fsencode(second),
        _EXCHANGE,
    )
