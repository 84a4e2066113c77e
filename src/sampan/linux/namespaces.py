"""Namespaces: flags, unsharing, joining and comparing them (namespaces(7))."""

from __future__ import annotations

import os

from sampan.linux import libc

NEWTIME = 0x00000080
NEWNS = 0x00020000
NEWCGROUP = 0x02000000
NEWUTS = 0x04000000
NEWIPC = 0x08000000
NEWUSER = 0x10000000
NEWPID = 0x20000000
NEWNET = 0x40000000

FILES = {
    NEWUSER: "user",
    NEWCGROUP: "cgroup",
    NEWIPC: "ipc",
    NEWUTS: "uts",
    NEWNET: "net",
    NEWPID: "pid",
    NEWNS: "mnt",
    NEWTIME: "time",
}
"""Flag to the name below /proc/<pid>/ns, in the order in which they are to be joined (user first, mount last)."""


def unshare(flags: int) -> None:
    """New namespaces for the calling process (for NEWPID: for its next child)."""
    libc.unshare(flags)


def join(descriptor: int, flags: int, subject: str = "") -> None:
    """Enter a namespace by its descriptor, or several at once by a process's (pidfd, Linux 5.8)."""
    libc.setns(descriptor, flags, subject)


def open_namespace(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def has_time() -> bool:
    """Whether this kernel has time namespaces (Linux 5.6, CONFIG_TIME_NS)."""
    return os.path.exists("/proc/self/ns/time")


Identity = tuple[int, int]
"""Device and inode of a namespace: two of them are the same when these are (ioctl_ns(2))."""


def own() -> dict[int, Identity]:
    """The caller's namespaces, of those kinds that this kernel knows."""
    found = {}
    for flag, name in FILES.items():
        try:
            status = os.stat(f"/proc/self/ns/{name}")
        except FileNotFoundError:
            continue
        found[flag] = status.st_dev, status.st_ino
    return found


def different(pid: int, ours: dict[int, Identity]) -> int:
    """The flags of those of our namespaces (as of `own`) that `pid` is not in. Raises OSError when it is gone."""
    result = 0
    for flag, identity in ours.items():
        status = os.stat(f"/proc/{pid}/ns/{FILES[flag]}")
        if (status.st_dev, status.st_ino) != identity:
            result |= flag
    return result
