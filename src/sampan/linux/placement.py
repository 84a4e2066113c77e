"""Where a file system puts what is made in a directory."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_TOP_OF_HIERARCHIES: Final = 0x00020000
"""FS_TOPDIR_FL of ioctl_iflags(2), which takes an int although the request's number says long."""
_NOT_HERE: Final = frozenset(
    (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS)
)


def spread_children(path: str | os.PathLike[str]) -> bool:
    """Directories made in `path` from now on have nothing to do with each other. False where nobody wants to know.

    ext4 puts each of them into a block group of its own choice then, instead of all into that of `path`. There, it
    looks for a free inode past all that were deleted in the last minutes, one by one, for every single new file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        answer = fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8))
        flags = struct.unpack_from("I", answer)[0]
        if not flags & _TOP_OF_HIERARCHIES:
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("II", flags | _TOP_OF_HIERARCHIES, 0))
        return True
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        return False
    finally:
        os.close(descriptor)
