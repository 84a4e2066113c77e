"""A hostile tar unpacked safely below a directory descriptor.

Used for build contexts, `ADD` of an archive, `cp` into a container, and layers where EROFS can't be mounted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

import msgspec


class ExtractOptions(msgspec.Struct, frozen=True):
    """What to take over from the archive.

    owner: None keeps the archive's numeric owners; (uid, gid) gives everything to one owner; -1 leaves the caller's.
    """

    owner: tuple[int, int] | None = None
    mtime: bool = True
    xattrs: bool = True
    devices: bool = True  # device nodes and fifos; False: `Invalid` when one comes
    whiteouts: bool = False  # `.wh.` entries become overlayfs marks
    no_overwrite_dir_non_dir: bool = False  # Docker's cp rule
    max_bytes: int = 1 << 40
    max_entries: int = 4_000_000


class Extracted(msgspec.Struct, frozen=True):
    entries: int
    size: int  # bytes of regular files' content


def extract_tar(
    stream: BinaryIO | Iterable[bytes],
    root_fd: int,
    options: ExtractOptions = ExtractOptions(),
    *,
    directory: str = "",
) -> Extracted:
    """Unpack a plain or compressed (gzip, zstd, bzip2, xz) tar into `directory` inside the root `root_fd`.

    Symlinks are resolved inside the root as after a chroot. Raises `Invalid`.
    """
    raise NotImplementedError
