"""Mounts by descriptor: fsopen, fsconfig, fsmount, open_tree, move_mount, mount_setattr.

A mount is made detached, given its attributes and only then moved to a place that is itself a descriptor, so that no
path is looked up a second time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence

from sampan.linux import libc, loop_devices
from sampan.linux.libc import SystemCallError

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_REC = 0x4000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MNT_DETACH = 0x2

ATTR_RDONLY = 0x00000001
ATTR_NOSUID = 0x00000002
ATTR_NODEV = 0x00000004
ATTR_NOEXEC = 0x00000008
ATTR_ATIME = 0x00000070
ATTR_NOATIME = 0x00000010
ATTR_STRICTATIME = 0x00000020
ATTR_NODIRATIME = 0x00000080
ATTR_IDMAP = 0x00100000
ATTR_NOSYMFOLLOW = 0x00200000

_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_AT_SYMLINK_NOFOLLOW = 0x100
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_FROM_EMPTY_PATH = 0x04
_TO_EMPTY_PATH = 0x40
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_SET_FLAG = 0
_SET_STRING = 1
_CMD_CREATE = 6

MAX_OPTION = 255
"""Bytes of a mount option's value that fsconfig(2) takes."""

_SETATTR = struct.Struct("=QQQQ")

_OLD_FLAGS = (
    (ATTR_RDONLY, MS_RDONLY),
    (ATTR_NOSUID, MS_NOSUID),
    (ATTR_NODEV, MS_NODEV),
    (ATTR_NOEXEC, MS_NOEXEC),
    (ATTR_NOATIME, MS_NOATIME),
    (ATTR_NODIRATIME, MS_NODIRATIME),
)


def old_flags(attributes: int) -> int:
    """The MS_* flags of mount(2) that mean what these ATTR_* flags do."""
    return sum(old for new, old in _OLD_FLAGS if attributes & new)


class Filesystem:
    """A file system context (fsopen(2)): options are set one by one, then `create` gives a detached mount."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._fd = libc.checked("fsopen", kind, libc.FSOPEN, kind.encode(), _FSOPEN_CLOEXEC)

    def set(self, key: str, value: str | None = None) -> None:
        """An option with a value (at most 255 bytes), or a flag. Raises `SystemCallError`."""
        if value is None:
            arguments: tuple[libc.Argument, ...] = (_SET_FLAG, key.encode(), None, 0)
        else:
            arguments = (_SET_STRING, key.encode(), os.fsencode(value), 0)
        if libc.syscall(libc.FSCONFIG, self._fd, *arguments) < 0:
            raise self._error(ctypes.get_errno(), "fsconfig", key if value is None else f"{key}={value}")

    def create(self, attributes: int = 0) -> int:
        """The descriptor of the detached mount with these ATTR_* flags."""
        if libc.syscall(libc.FSCONFIG, self._fd, _CMD_CREATE, None, None, 0) < 0:
            raise self._error(ctypes.get_errno(), "mount", "")
        return libc.checked("fsmount", self.kind, libc.FSMOUNT, self._fd, _FSMOUNT_CLOEXEC, attributes)

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Filesystem:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _error(self, number: int, operation: str, subject: str) -> SystemCallError:
        """With what the kernel wrote into the context's message log, if anything."""
        try:
            said = os.read(self._fd, 1024).decode(errors="replace").strip()
        except OSError:
            said = ""  # ENODATA: no message
        what = " ".join(part for part in (self.kind, subject, f"({said})" if said else "") if part)
        return SystemCallError(number, operation, what)


def make_filesystem(
    kind: str, options: Sequence[tuple[str, str | None]] = (), attributes: int = 0, source: str | None = None
) -> int:
    """A detached mount of a new file system instance."""
    with Filesystem(kind) as context:
        if source is not None:
            context.set("source", source)
        for key, value in options:
            context.set(key, value)
        return context.create(attributes)


def clone_tree(directory: int, path: str = "", *, recursive: bool = False, follow: bool = True) -> int:
    """A detached bind mount of what `path` (or, empty, `directory` itself) is; with the mounts below if `recursive`."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    flags |= _AT_RECURSIVE if recursive else 0
    flags |= 0 if path else _AT_EMPTY_PATH
    flags |= 0 if follow else _AT_SYMLINK_NOFOLLOW
    return libc.checked("open_tree", path, libc.OPEN_TREE, directory, os.fsencode(path), flags)


def attach(mount_fd: int, target_fd: int, subject: str = "") -> None:
    """Put a detached mount on what `target_fd` refers to."""
    flags = _FROM_EMPTY_PATH | _TO_EMPTY_PATH
    libc.checked("move_mount", subject, libc.MOVE_MOUNT, mount_fd, b"", target_fd, b"", flags)


def set_attributes(
    mount_fd: int,
    add: int = 0,
    clear: int = 0,
    *,
    propagation: int = 0,
    recursive: bool = False,
    user_namespace: int = 0,
) -> None:
    """Change ATTR_* flags and the propagation (one MS_* of private, slave, shared, unbindable) of a mount.

    Before Linux 5.12 the mount must be attached, and `recursive` can change the propagation only.
    """
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    packed = _SETATTR.pack(add, clear, propagation, user_namespace)
    if libc.syscall(libc.MOUNT_SETATTR, mount_fd, b"", flags, packed, len(packed)) == 0:
        return
    number = ctypes.get_errno()
    if number != errno.ENOSYS or add & ATTR_IDMAP or (recursive and (add or clear)):
        raise SystemCallError(number, "mount_setattr")
    path = f"/proc/self/fd/{mount_fd}"
    if add or clear:
        present = os.fstatvfs(mount_fd).f_flag
        kept = sum(old for new, old in _OLD_FLAGS if add & new or (present & old and not clear & new))
        libc.mount(None, path, None, MS_BIND | MS_REMOUNT | kept)
    if propagation:
        libc.mount(None, path, None, propagation | (MS_REC if recursive else 0))


def set_root_propagation(propagation: int) -> None:
    """The propagation of every mount of the caller's namespace (MS_PRIVATE, MS_SLAVE, …)."""
    libc.mount(None, "/", None, propagation | MS_REC)


def open_erofs(image: str) -> int:
    """A detached, read-only mount of an EROFS image file: directly (Linux 6.12), else over a loop device."""
    source = image if len(os.fsencode(image)) <= MAX_OPTION else None
    held = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            return make_filesystem("erofs", (("ro", None),), ATTR_RDONLY, source or f"/proc/self/fd/{held}")
        except SystemCallError as error:
            if error.errno != errno.ENOTBLK:
                raise
        loop, name = loop_devices.attach(held, read_only=True)
        try:
            return make_filesystem("erofs", (("ro", None),), ATTR_RDONLY, name)
        finally:
            os.close(loop)
    finally:
        os.close(held)


def mount_erofs(image: str, target: str) -> None:
    """Mount an EROFS image file, read-only, on the directory `target`."""
    mounted = open_erofs(image)
    try:
        place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attach(mounted, place, target)
        finally:
            os.close(place)
    finally:
        os.close(mounted)
