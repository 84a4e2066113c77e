"""Pseudo-terminals by descriptor (ioctl_tty(2)): nothing is looked up by a name that a container controls."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import termios

from sampan.errors import Invalid
from sampan.linux.process import DEVPTS_SUPER_MAGIC, filesystem_type

_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431
_PTMX_DEVICE = os.makedev(5, 2)


def master_of(ptmx_fd: int) -> None:
    """Check that an opened `ptmx` is one, on a devpts, and unlock its other side. Raises `Invalid`."""
    status = os.fstat(ptmx_fd)
    genuine = stat.S_ISCHR(status.st_mode) and status.st_rdev == _PTMX_DEVICE
    if not genuine or filesystem_type(ptmx_fd) != DEVPTS_SUPER_MAGIC:
        raise Invalid("the container's ptmx is not a pseudo-terminal multiplexer")
    fcntl.ioctl(ptmx_fd, _TIOCSPTLCK, struct.pack("i", 0))


def slave_of(master_fd: int) -> int:
    """The other side, opened by the master's descriptor."""
    return fcntl.ioctl(master_fd, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def set_size(descriptor: int, height: int, width: int) -> None:
    """Rows and columns."""
    if not (0 <= height <= 0xFFFF and 0 <= width <= 0xFFFF):
        raise Invalid(f"invalid terminal size {height}x{width}")
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def make_controlling(descriptor: int) -> None:
    """The caller leads a session without a terminal; this becomes its terminal."""
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


def is_hangup(error: OSError) -> bool:
    """Reading a master whose other side is closed by everybody gives EIO."""
    return error.errno == errno.EIO
