"""Sealed memory files: a copy of a program, or data, that nobody can change any more (memfd_create(2))."""

from __future__ import annotations

import errno
import fcntl
import os

_MFD_EXEC = 0x0010
_F_ADD_SEALS = 1033
_F_GET_SEALS = 1034
_ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write


def sealed_copy(path: str, name: str) -> int:
    """A descriptor (close-on-exec) of an executable, sealed copy of the file at `path`. Raises OSError."""
    target = _executable_memory(name)
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while os.sendfile(target, source, None, 1 << 30):
                pass
        finally:
            os.close(source)
        fcntl.fcntl(target, _F_ADD_SEALS, _ALL_SEALS)
    except BaseException:
        os.close(target)
        raise
    return target


def sealed_data(data: bytes, name: str) -> int:
    """A descriptor (close-on-exec) of a sealed file of these bytes. Raises OSError."""
    target = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(target, rest) :]
        fcntl.fcntl(target, _F_ADD_SEALS, _ALL_SEALS)
    except BaseException:
        os.close(target)
        raise
    return target


def is_sealed(descriptor: int) -> bool:
    """Whether the file can't be changed by anybody; False for what is not a memory file."""
    try:
        seals: int = fcntl.fcntl(descriptor, _F_GET_SEALS)
    except OSError:
        return False
    return seals & _ALL_SEALS == _ALL_SEALS


def _executable_memory(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.memfd_create(name, flags)  # before Linux 6.3 every memory file is executable
