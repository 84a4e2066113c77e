"""Capabilities (capabilities(7)): names, the sets of the calling thread."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterable

from sampan.errors import Invalid
from sampan.linux import libc
from sampan.linux.process import PR_CAP_AMBIENT, PR_CAPBSET_DROP, PR_SET_KEEPCAPS

NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
"""In the order of their numbers (linux/capability.h)."""

_NUMBERS = {name: number for number, name in enumerate(NAMES)}
SYS_ADMIN = 1 << _NUMBERS["CAP_SYS_ADMIN"]

_VERSION_3 = 0x20080522
_AMBIENT_RAISE = 2
_AMBIENT_CLEAR_ALL = 4


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def mask_of(names: Iterable[str]) -> int:
    """The bits of `names`. Raises `Invalid` for one that does not exist."""
    mask = 0
    for name in names:
        if name not in _NUMBERS:
            raise Invalid(f"unknown capability {name!r}")
        mask |= 1 << _NUMBERS[name]
    return mask


def current() -> tuple[int, int, int]:
    """The calling thread's effective, permitted and inheritable sets, as bits."""
    data = (ctypes.c_uint32 * 6)()
    libc.capget(_Header(_VERSION_3, 0), data)
    return tuple(data[index] | data[index + 3] << 32 for index in range(3))  # type: ignore[return-value]


def apply(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2); what the thread does not have permitted can't be gained."""
    low = 0xFFFFFFFF
    data = (ctypes.c_uint32 * 6)(
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    libc.capset(_Header(_VERSION_3, 0), data)


class FilesystemIds:
    """The calling thread acts on files as this user and group, with the capabilities that it has (setfsuid(2))."""

    def __init__(self, uid: int, gid: int) -> None:
        self._ids = uid, gid
        self._before = 0, 0

    def __enter__(self) -> None:
        self._switch(*self._ids)

    def __exit__(self, *_: object) -> None:
        self._switch(*self._before)

    def _switch(self, uid: int, gid: int) -> None:
        held = current()  # with root's id the kernel takes its rights over files away
        self._before = libc.setfsids(uid, gid)
        apply(*held)
        if libc.setfsids(uid, gid) != (uid, gid):
            raise libc.SystemCallError(errno.EPERM, "setfsuid", f"{uid}:{gid}")


def limit_bounding(mask: int) -> None:
    """Drop from the bounding set what is not in `mask`."""
    for number in range(64):
        if mask >> number & 1:
            continue
        try:
            libc.prctl(PR_CAPBSET_DROP, number, subject="PR_CAPBSET_DROP")
        except libc.SystemCallError as error:
            if error.errno == errno.EINVAL and number > 0:
                return  # above the kernel's last capability
            raise


def keep_over_setuid(keep: bool) -> None:
    """Whether permitted capabilities survive the change from uid 0 to another."""
    libc.prctl(PR_SET_KEEPCAPS, int(keep), subject="PR_SET_KEEPCAPS")


def set_ambient(mask: int) -> None:
    """The ambient set becomes those of `mask` that are permitted and inheritable."""
    libc.prctl(PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, subject="PR_CAP_AMBIENT")
    for number, name in enumerate(NAMES):
        if mask >> number & 1:
            libc.prctl(PR_CAP_AMBIENT, _AMBIENT_RAISE, number, subject=f"PR_CAP_AMBIENT {name}")
