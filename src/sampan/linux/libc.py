"""The C library's functions that Python does not offer, with their prototypes: one place, one check.

Every wrapper raises `SystemCallError`, an OSError that says which call failed on what.
"""

from __future__ import annotations

import ctypes
import os
import sys

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD = -100


class SystemCallError(OSError):
    """`operation` is the system call's name, `subject` the path or value that it was about."""

    def __init__(self, number: int, operation: str, subject: str = "") -> None:
        super().__init__(number, os.strerror(number))
        self.operation = operation
        self.subject = subject

    def __str__(self) -> str:
        what = f"{self.operation} {self.subject}" if self.subject else self.operation
        return f"{what}: {os.strerror(self.errno or 0).lower()}"

    def __reduce__(self) -> tuple[type[SystemCallError], tuple[int, str, str]]:
        return SystemCallError, (self.errno or 0, self.operation, self.subject)


# These numbers are the same on every architecture (all but alpha): calls added since Linux 5.1.
OPEN_TREE = 428
MOVE_MOUNT = 429
FSOPEN = 430
FSCONFIG = 431
FSMOUNT = 432
CLOSE_RANGE = 436
OPENAT2 = 437
MOUNT_SETATTR = 442

_MACHINE = os.uname().machine  # looked at once: a personality changes it
_KEYCTL = {"x86_64": 250, "i686": 288, "armv7l": 311, "ppc64le": 271, "s390x": 280}
_KEYCTL_GENERIC = 219  # aarch64, riscv64, loongarch64

_SIGACTION = {"x86_64": 13, "i686": 174, "armv7l": 174, "ppc64le": 173, "s390x": 174}
_SIGACTION_GENERIC = 134

Argument = int | bytes | ctypes.Array[ctypes.c_char] | ctypes.Structure | None

_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def syscall(number: int, *arguments: Argument) -> int:
    """The raw call; -1 and `ctypes.get_errno()` on error. Integers are passed as longs."""
    passed = [
        ctypes.c_long(value)
        if isinstance(value, int)
        else ctypes.byref(value)
        if isinstance(value, ctypes.Structure)
        else value
        for value in arguments
    ]
    return int(_syscall(ctypes.c_long(number), *passed))


def checked(operation: str, subject: str, number: int, *arguments: Argument) -> int:
    """As `syscall`; raises `SystemCallError`."""
    result = syscall(number, *arguments)
    if result < 0:
        raise SystemCallError(ctypes.get_errno(), operation, subject)
    return result


_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.pivot_root.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_libc.setdomainname.argtypes = (ctypes.c_char_p, ctypes.c_size_t)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_libc.capset.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_libc.capget.argtypes = (ctypes.c_void_p, ctypes.c_void_p)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2), the old interface; for what the descriptor-based one can't do on the running kernel."""
    result = _libc.mount(
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        flags,
        None if data is None else os.fsencode(data),
    )
    if result < 0:
        raise SystemCallError(ctypes.get_errno(), "mount", target)


def umount(target: str, flags: int = 0) -> None:
    if _libc.umount2(os.fsencode(target), flags) < 0:
        raise SystemCallError(ctypes.get_errno(), "umount", target)


def unshare(flags: int) -> None:
    if _libc.unshare(flags) < 0:
        raise SystemCallError(ctypes.get_errno(), "unshare", f"{flags:#x}")


def setns(descriptor: int, flags: int, subject: str = "") -> None:
    if _libc.setns(descriptor, flags) < 0:
        raise SystemCallError(ctypes.get_errno(), "setns", subject or f"{flags:#x}")


def pivot_root(new_root: str, put_old: str) -> None:
    if _libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)) < 0:
        raise SystemCallError(ctypes.get_errno(), "pivot_root", new_root)


def setdomainname(name: str) -> None:
    raw = name.encode()
    if _libc.setdomainname(raw, len(raw)) < 0:
        raise SystemCallError(ctypes.get_errno(), "setdomainname", name)


def prctl(option: int, *arguments: int, subject: str = "") -> int:
    """prctl(2) with up to four integers; missing ones are 0."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    result = int(_libc.prctl(option, *padded))
    if result < 0:
        raise SystemCallError(ctypes.get_errno(), "prctl", subject or str(option))
    return result


_libc.setfsuid.argtypes = (ctypes.c_uint,)
_libc.setfsgid.argtypes = (ctypes.c_uint,)


def setfsids(uid: int, gid: int) -> tuple[int, int]:
    """setfsuid(2) and setfsgid(2) of the calling thread: the ids before. They can't tell of a failure."""
    return int(_libc.setfsuid(uid)), int(_libc.setfsgid(gid))


def capset(header: ctypes.Structure, data: ctypes.Array[ctypes.c_uint32]) -> None:
    if _libc.capset(ctypes.byref(header), ctypes.byref(data)) < 0:
        raise SystemCallError(ctypes.get_errno(), "capset")


def capget(header: ctypes.Structure, data: ctypes.Array[ctypes.c_uint32]) -> None:
    if _libc.capget(ctypes.byref(header), ctypes.byref(data)) < 0:
        raise SystemCallError(ctypes.get_errno(), "capget")


def keyctl(operation: int, subject: str, *arguments: int | bytes) -> int:
    """keyctl(2); `subject` is what an error is about."""
    number = _KEYCTL.get(_MACHINE, _KEYCTL_GENERIC)
    return checked("keyctl", subject, number, operation, *arguments)


_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)


def fstatfs(descriptor: int, buffer: ctypes.Array[ctypes.c_long]) -> None:
    """`buffer` is large enough for struct statfs."""
    if _libc.fstatfs(descriptor, ctypes.byref(buffer)) < 0:
        raise SystemCallError(ctypes.get_errno(), "fstatfs", str(descriptor))


_libc.syncfs.argtypes = (ctypes.c_int,)


def syncfs(descriptor: int, subject: str = "") -> None:
    """Bring everything of the file system that holds the open file to disk (syncfs(2))."""
    if _libc.syncfs(descriptor) < 0:
        raise SystemCallError(ctypes.get_errno(), "syncfs", subject)


_SIG_IGN = 1
_SIGSET_BYTES = 8


def stop_ignoring(number: int) -> None:
    """Give the signal its default action if it is ignored (rt_sigaction(2)); also those that libc keeps to itself."""
    system_call = _SIGACTION.get(os.uname().machine, _SIGACTION_GENERIC)
    action = ctypes.create_string_buffer(32)  # struct kernel_sigaction: the handler comes first
    checked("rt_sigaction", str(number), system_call, number, None, action, _SIGSET_BYTES)
    if int.from_bytes(action.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) == _SIG_IGN:
        default = ctypes.create_string_buffer(32)
        checked("rt_sigaction", str(number), system_call, number, default, None, _SIGSET_BYTES)
