"""System call filters: what a filter says, and loading it into the calling thread.

The names are those of the OCI runtime-spec (config-linux.md, "Seccomp") and of libseccomp. Compiling is in
`seccomp_compiler`, which is imported only when a program is not in the caller's cache.
"""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass

from sampan.errors import Denied, Internal, Invalid, Unsupported
from sampan.linux import libc


@dataclass(frozen=True, slots=True)
class Arg:
    """A condition on argument `index` (0 to 5): `op` is an SCMP_CMP_* name.

    For SCMP_CMP_MASKED_EQ `value` is the mask and `value_two` what the masked argument must equal.
    """

    index: int
    value: int
    op: str
    value_two: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """`action` (SCMP_ACT_*) for the system calls `names` when all of `args` hold. `errno`: None is EPERM.

    As in runc, conditions on the same argument within one rule are alternatives.
    """

    names: tuple[str, ...]
    action: str
    errno: int | None = None
    args: tuple[Arg, ...] = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """`architectures`: SCMP_ARCH_* names; the native one is always included.

    `flags`: SECCOMP_FILTER_FLAG_* names, for `load_filter`.
    """

    default_action: str
    default_errno: int | None = None
    architectures: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    flags: tuple[str, ...] = ()


def compile_filter(wanted: Filter, machine: str | None = None) -> bytes:
    """The classic BPF program (an array of struct sock_filter) of a filter.

    `machine`: as in uname(2), None is this one. The semantics are in `seccomp_compiler`.
    Raises `Invalid` for unknown actions, operators, architectures and for a program that is too long,
    `Unsupported` for a machine without a system call table.
    """
    from sampan.linux import seccomp_compiler

    return seccomp_compiler.compile_program(wanted, machine or os.uname().machine)


_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1 << 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_NEW_LISTENER": 1 << 3,
    "SECCOMP_FILTER_FLAG_TSYNC_ESRCH": 1 << 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}
_NEW_LISTENER = 1 << 3
_MACHINE = os.uname().machine  # looked at once: a personality changes it
_SECCOMP_CALL = {"x86_64": 317, "aarch64": 277, "i686": 354, "armv7l": 383, "riscv64": 277}
_SET_MODE_FILTER = 1
_MAX_INSTRUCTIONS = 4096
_INSTRUCTION_SIZE = 8


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def load_filter(program: bytes, flags: tuple[str, ...] = ()) -> int | None:
    """Load a compiled filter into the calling thread; it can never be removed.

    The caller has CAP_SYS_ADMIN or has set no_new_privs. Returns the listener's descriptor with
    SECCOMP_FILTER_FLAG_NEW_LISTENER, else None. Raises `Unsupported`, `Denied` or `Invalid`.
    """
    length, rest = divmod(len(program), _INSTRUCTION_SIZE)
    if rest or not 0 < length <= _MAX_INSTRUCTIONS:
        raise Invalid(f"a seccomp program of {len(program)} bytes cannot be loaded")
    bits = 0
    for flag in flags:
        if flag not in _FLAGS:
            raise Invalid(f"unknown seccomp flag: {flag!r}")
        bits |= _FLAGS[flag]
    if _MACHINE not in _SECCOMP_CALL:
        raise Unsupported(f"seccomp is not supported on {_MACHINE}")
    wanted = _Program(length, program)
    result = libc.syscall(_SECCOMP_CALL[_MACHINE], _SET_MODE_FILTER, bits, wanted)
    if result < 0:
        raise _load_error(ctypes.get_errno(), length)
    if result > 0 and not bits & _NEW_LISTENER:
        # With TSYNC the kernel answers with the thread that could not be brought along.
        raise Denied(f"seccomp: thread {result} has a filter of its own")
    return result if bits & _NEW_LISTENER else None


def _load_error(code: int, length: int) -> Denied | Invalid | Unsupported | Internal:
    text = f"loading a seccomp filter of {length} instructions: {os.strerror(code)}"
    if code == errno.EACCES:
        return Denied(text, hint="no_new_privs or CAP_SYS_ADMIN is needed")
    if code in (errno.ENOSYS, errno.EOPNOTSUPP):
        return Unsupported(text, hint="the kernel is built without CONFIG_SECCOMP_FILTER")
    if code == errno.EINVAL:
        return Invalid(text)
    return Internal(text)
