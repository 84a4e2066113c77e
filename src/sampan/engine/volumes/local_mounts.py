"""Mounting the local volumes that are mounts, in the host's mount namespace, where people expect to see them."""

from __future__ import annotations

import errno
import os
import socket
import stat

from sampan.engine.volumes.local_options import LocalMount, with_address, without_passwords
from sampan.errors import Internal
from sampan.linux import libc, loop_devices
from sampan.linux import mount as m
from sampan.linux.mountinfo import mounted_below

_UMOUNT_NOFOLLOW = 8


def is_mounted(place: str) -> bool:
    """Whether something is mounted at `place`, a path without symbolic links."""
    return place in mounted_below(place)


def mount_volume(wanted: LocalMount, place: str) -> None:
    """Blocking. Raises `Internal` in Docker's words, without passwords."""
    try:
        wanted = with_address(wanted, _look_up)
        if _is_image(wanted):
            _mount_image(wanted, place)
        else:
            _mount(wanted, wanted.device, place)
    except OSError as error:
        text = (
            f"error while mounting volume '{place}': failed to mount local volume: mount {wanted.device}:{place}"
            + (f", flags: {wanted.flags:#x}" if wanted.flags else "")
            + (f", data: {wanted.data}" if wanted.data else "")
            + f": {os.strerror(error.errno or errno.EIO).lower()}"
        )
        raise Internal(without_passwords(text, wanted.data), hint=_hint(wanted, error)) from error


def _mount(wanted: LocalMount, device: str, place: str) -> None:
    libc.mount(device, place, wanted.kind, wanted.flags, wanted.data or None)
    try:
        if wanted.propagation:
            libc.mount(None, place, None, wanted.propagation)
        if wanted.is_bind and wanted.flags & ~(m.MS_BIND | m.MS_REC):
            # The first call has made the bind mount, and ignored the other flags (mount(2)).
            libc.mount(None, place, None, wanted.flags & ~m.MS_REC | m.MS_REMOUNT)
    except OSError:
        unmount_all(place)
        raise


def _is_image(wanted: LocalMount) -> bool:
    """A regular file that holds a file system: it goes onto a loop device, as mount(8) has it."""
    if wanted.is_bind or not wanted.device.startswith("/"):
        return False
    try:
        return stat.S_ISREG(os.stat(wanted.device).st_mode)
    except OSError:
        return False  # the mount will say what is wrong


def _mount_image(wanted: LocalMount, place: str) -> None:
    flags = os.O_RDONLY if wanted.read_only else os.O_RDWR
    backing = os.open(wanted.device, flags | os.O_CLOEXEC)
    try:
        loop, device = loop_devices.attach(backing, read_only=wanted.read_only)
        try:
            # Mounted, it keeps the device; the kernel frees it with the last unmounting.
            _mount(wanted, device, place)
        finally:
            os.close(loop)
    finally:
        os.close(backing)


def unmount_all(place: str) -> None:
    """Everything at and below `place`, also what containers still use in namespaces of theirs. Idempotent."""
    for point in mounted_below(place):
        try:
            libc.umount(point, m.MNT_DETACH | _UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # gone with the one above it
                raise


def _look_up(host: str) -> str:
    """Raises OSError when the name can't be resolved."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(errno.EHOSTUNREACH, f"{host}: {error.strerror}", host) from error
    return str(found[0][4][0])


def _hint(wanted: LocalMount, error: OSError) -> str:
    if error.errno == errno.ENODEV:
        return f"this kernel has no file system {wanted.kind!r}, or its module is not loaded: modprobe {wanted.kind}"
    if error.errno == errno.EHOSTUNREACH and error.filename:
        return f"the name {error.filename} could not be resolved"
    if error.errno == errno.ENOTBLK:
        return "the device is no block device: a directory takes o=bind"
    return ""
