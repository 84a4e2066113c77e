"""Processes: prctl, descriptors to close, start times, file systems behind a descriptor."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from functools import cache

from sampan.linux import libc

PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47

_CLOSE_RANGE_CLOEXEC = 4
_KEYCTL_JOIN_SESSION_KEYRING = 1
_KEYCTL_SETPERM = 5
_KEY_SPEC_SESSION_KEYRING = -3
_KEY_POSSESSOR_ALL = 0x3F000000


def set_dumpable(dumpable: bool) -> None:
    """Not dumpable: others without CAP_SYS_PTRACE in the initial namespace can't look at us through /proc."""
    libc.prctl(PR_SET_DUMPABLE, int(dumpable), subject="PR_SET_DUMPABLE")


def set_subreaper() -> None:
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, subject="PR_SET_CHILD_SUBREAPER")


def set_no_new_privileges() -> None:
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, subject="PR_SET_NO_NEW_PRIVS")


def set_name(name: str) -> None:
    """The name in /proc/<pid>/comm, cut to 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    libc.prctl(PR_SET_NAME, ctypes.addressof(buffer), subject="PR_SET_NAME")


@cache
def _title_area() -> tuple[int, int]:
    """Where the kernel reads /proc/self/cmdline from: start and end in this process (proc(5), stat 48 and 49)."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    return int(fields[45]), int(fields[46])


def remember_title_area() -> None:
    """Look it up while /proc is trusted; forked children know it then."""
    _title_area()


_IOPRIO_SET = {"x86_64": 251, "i686": 289, "armv7l": 314}
_PERSONALITY = {"x86_64": 135, "i686": 136, "armv7l": 136}
_GENERIC_CALLS = 30, 92  # ioprio_set and personality in asm-generic/unistd.h (aarch64, riscv64)
_IOPRIO_WHO_PROCESS = 1


def set_io_priority(kind: int, priority: int) -> None:
    """ioprio_set(2) for the calling process. `kind`: 1 real-time, 2 best effort, 3 idle. Raises OSError."""
    number = _IOPRIO_SET.get(os.uname().machine, _GENERIC_CALLS[0])
    if libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, kind << 13 | priority) < 0:
        raise libc.SystemCallError(ctypes.get_errno(), "ioprio_set", f"class {kind}, priority {priority}")


def set_personality(persona: int) -> None:
    """personality(2). Raises OSError."""
    number = _PERSONALITY.get(os.uname().machine, _GENERIC_CALLS[1])
    if libc.syscall(number, persona) < 0:
        raise libc.SystemCallError(ctypes.get_errno(), "personality", hex(persona))


def set_title(title: str) -> None:
    """Replace what /proc/<pid>/cmdline shows, cut to the room that the original arguments took."""
    start, end = _title_area()
    ctypes.memmove(start, title.encode()[: end - start - 1].ljust(end - start, b"\0"), end - start)


def join_session_keyring(name: str) -> bool:
    """A new session keyring: the caller's is out of reach then. False where there are none, or the quota is full.

    By default every process of the same user, root of another container too, might link the ring to its own and so
    come to possess the keys in it (keyrings(7)): here only who possesses it already may do anything.
    """
    try:
        libc.keyctl(_KEYCTL_JOIN_SESSION_KEYRING, name, name.encode())
        libc.keyctl(_KEYCTL_SETPERM, name, _KEY_SPEC_SESSION_KEYRING, _KEY_POSSESSOR_ALL)
    except libc.SystemCallError as error:
        if error.errno in (errno.ENOSYS, errno.EACCES, errno.EPERM, errno.EDQUOT):
            return False
        raise
    return True


def close_on_exec_above(first: int) -> None:
    """Mark every descriptor from `first` on close-on-exec."""
    if libc.syscall(libc.CLOSE_RANGE, first, 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC) == 0:
        return
    # Before Linux 5.11 the flag is not known.
    for descriptor in range(first, os.sysconf("SC_OPEN_MAX")):
        try:
            os.set_inheritable(descriptor, False)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise


def close_except(keep: set[int]) -> None:
    """Close every descriptor above 2 that is not in `keep`."""
    previous = 2
    for descriptor in sorted(number for number in keep if number > 2):
        os.closerange(previous + 1, descriptor)
        previous = descriptor
    os.closerange(previous + 1, max(os.sysconf("SC_OPEN_MAX"), previous + 1))


def start_time(pid: int) -> int:
    """When `pid` started, in clock ticks since boot (proc(5), stat field 22). Raises OSError when it is gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        content = file.read(4096)
    # The name (field 2) is in parentheses and may hold anything.
    return int(content.rpartition(b")")[2].split()[19])


def state(pid: int) -> str:
    """The state letter of `pid` (proc(5), stat field 3). Raises OSError when it is gone."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        content = file.read(4096)
    return content.rpartition(b")")[2].split()[0].decode()


def filesystem_type(descriptor: int) -> int:
    """The magic number of the file system that `descriptor` is on (statfs(2))."""
    buffer = (ctypes.c_long * 32)()
    libc.fstatfs(descriptor, buffer)
    return int(buffer[0])


PROC_SUPER_MAGIC = 0x9FA0
DEVPTS_SUPER_MAGIC = 0x1CD1
CGROUP2_SUPER_MAGIC = 0x63677270
KERNELS_OWN = frozenset(
    (
        PROC_SUPER_MAGIC,
        DEVPTS_SUPER_MAGIC,
        CGROUP2_SUPER_MAGIC,
        0x27E0EB,  # cgroup
        0x62656572,  # sysfs
        0x64626720,  # debugfs
        0x73636673,  # securityfs
        0x74726163,  # tracefs
        0xCAFE4A11,  # bpf
        0x19800202,  # mqueue
    )
)
"""File systems whose files the kernel makes up as they are looked at (linux/magic.h)."""


def kill_process(pid: int, started: int) -> None:
    """SIGKILL to this very process: `started` is its start in clock ticks since boot. Nothing when it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if start_time(pid) == started:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return
    finally:
        os.close(descriptor)
