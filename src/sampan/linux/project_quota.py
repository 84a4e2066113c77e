"""Limits on directory trees: project quotas of XFS and ext4 (quotactl(2), ioctl_xfs_fsgetxattr(2)).

Every file made below a directory with a project belongs to it too, and counts for its limit.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

from sampan.linux import libc

_FSGETXATTR = 0x801C581F
_FSSETXATTR = 0x401C5820
_XATTR = struct.Struct("=IIIII8x")  # struct fsxattr: flags, extsize, nextents, project, cowextsize
_PROJECT_INHERIT = 0x200

_QUOTACTL_FD = 443
_PROJECTS = 2  # PRJQUOTA
_GET, _SET, _STATE = 3, 4, 5  # Q_XGETQUOTA, Q_XSETQLIM, Q_XGETQSTAT (linux/dqblk_xfs.h)
_ENFORCED = 1 << 5  # FS_QUOTA_PDQ_ENFD
# struct fs_disk_quota: version, flags, field mask, id, hard and soft limit and inodes' of it, blocks used …
_LIMIT = struct.Struct("=bbHIQQQQQ")
_LIMIT_SIZE = 112
_STATE_SIZE = 256
_BLOCK = 512
_OF_PROJECT = 2
_SOFT, _HARD = 1 << 2, 1 << 3


def _call(directory: int, command: int, project: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    """Raises OSError."""
    number = (ord("X") << 8 | command) << 8 | _PROJECTS
    libc.checked("quotactl_fd", f"project {project}", _QUOTACTL_FD, directory, number, project, buffer)


def enforced(directory: int) -> bool:
    """Whether the file system of the directory limits its projects."""
    state = ctypes.create_string_buffer(_STATE_SIZE)
    try:
        _call(directory, _STATE, 0, state)
    except OSError:
        return False  # no such system call (before Linux 5.14), file system without quotas, quotas off
    return bool(struct.unpack_from("=H", state, 2)[0] & _ENFORCED)


def usage(directory: int, project: int) -> tuple[int, int]:
    """(limit, used) of a project in bytes; zeros for one that is not known. Raises OSError."""
    answer = ctypes.create_string_buffer(_LIMIT_SIZE)
    try:
        _call(directory, _GET, project, answer)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return 0, 0
    fields = _LIMIT.unpack_from(answer)
    return fields[4] * _BLOCK, fields[8] * _BLOCK


def set_limit(directory: int, project: int, size: int) -> None:
    """At most `size` bytes, rounded up to 512; 0: no limit. Raises OSError."""
    blocks = -(-size // _BLOCK)
    body = ctypes.create_string_buffer(_LIMIT_SIZE)
    _LIMIT.pack_into(body, 0, 1, _OF_PROJECT, _SOFT | _HARD, project, blocks, blocks, 0, 0, 0)
    _call(directory, _SET, project, body)


def project_of(path: str | os.PathLike[str]) -> int:
    """The project of a directory, 0 for none. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return int(_XATTR.unpack(fcntl.ioctl(directory, _FSGETXATTR, bytes(_XATTR.size)))[3])
    finally:
        os.close(directory)


def set_project(path: str | os.PathLike[str], project: int) -> None:
    """For the directory and what will be made below it. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fields = list(_XATTR.unpack(fcntl.ioctl(directory, _FSGETXATTR, bytes(_XATTR.size))))
        fields[0] |= _PROJECT_INHERIT
        fields[3] = project
        fcntl.ioctl(directory, _FSSETXATTR, _XATTR.pack(*fields))
    finally:
        os.close(directory)
