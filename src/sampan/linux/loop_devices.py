"""Loop devices (loop(4)): files as block devices. Freed by the kernel with their last user."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from sampan.errors import Unsupported

_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_READ_ONLY = 1
_AUTOCLEAR = 4
_CONTROL = "/dev/loop-control"
_CONFIG_SIZE = 304
_FLAGS_OFFSET = 8 + 52
_ATTEMPTS = 32


def open_control() -> int:
    """Opening it loads the kernel's loop module (loop(4)). Raises `Unsupported` where there is none.

    The node exists from the boot on where systemd-tmpfiles made it; elsewhere only once the module is loaded.
    """
    try:
        try:
            return os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            os.mknod(_CONTROL, stat.S_IFCHR | 0o660, os.makedev(10, 237))
            return os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise Unsupported(
            f"this host has no loop devices, which make files mountable: {error.strerror}",
            hint="load the kernel's module: modprobe loop",
        ) from error


def attach(backing: int, *, read_only: bool) -> tuple[int, str]:
    """A loop device on the open file `backing`: its descriptor, which keeps it until it has another user, and path."""
    control = open_control()
    try:
        for _ in range(_ATTEMPTS):
            name = f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}"
            device = os.open(name, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
            # struct loop_config: descriptor, block size, struct loop_info64 (flags at offset 52), reserved.
            config = bytearray(_CONFIG_SIZE)
            struct.pack_into("=II", config, 0, backing, 0)
            struct.pack_into("=I", config, _FLAGS_OFFSET, _AUTOCLEAR | (_READ_ONLY if read_only else 0))
            try:
                fcntl.ioctl(device, _CONFIGURE, bytes(config))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # somebody else was faster
                    raise
                continue
            return device, name
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no free loop device")
