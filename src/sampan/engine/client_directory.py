"""A build context that the client names instead of sending it: a directory that both see."""

from __future__ import annotations

import os
from dataclasses import dataclass

from sampan.errors import Conflict
from sampan.linux.process import filesystem_type

_OTHERS = frozenset(
    (
        0x6969,  # NFS
        0xFE534D42,  # SMB2
        0xFF534D42,  # CIFS
        0x517B,  # SMB
        0x65735546,  # FUSE
        0x01021997,  # 9P
        0x00C36400,  # Ceph
        0x5346414F,  # AFS
    )
)
"""File systems on which root may be refused what the client may read, or whose ctimes are another machine's."""


@dataclass(frozen=True, slots=True)
class ClientDirectory:
    """`path` is absolute and without symbolic links, as the client sees it; what it found there."""

    path: str
    device: int
    inode: int

    def open(self) -> int:
        """A descriptor, which the caller closes.

        Raises `Conflict` when the directory that is seen from here is another one (the client may be in a mount
        namespace of its own), or none that can be read reliably: the client sends its content then.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise self._unreachable(str(error)) from error
        info = os.fstat(fd)
        if (info.st_dev, info.st_ino) != (self.device, self.inode):
            os.close(fd)
            raise self._unreachable("the engine sees another directory there")
        if filesystem_type(fd) & 0xFFFFFFFF in _OTHERS:
            os.close(fd)
            raise self._unreachable("it is on a network file system")
        return fd

    def _unreachable(self, reason: str) -> Conflict:
        return Conflict(
            f"build context {self.path!r} can't be read where it is: {reason}", hint="send it as a tar"
        )

    def verify(self) -> None:
        """Raises `Conflict` as `open` does."""
        os.close(self.open())
