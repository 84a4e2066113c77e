"""System call filters: what a filter says, and loading it into the calling thread.

The names and numbers are those of the OCI runtime-spec (config-linux.md, "Seccomp") and of libseccomp. Compiling is in
`seccomp_compiler`, which is imported only when a program is not in the caller's cache.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    """`action` (SCMP_ACT_*) for the system calls `names` when all of `args` hold. `errno`: None is EPERM."""

    names: tuple[str, ...]
    action: str
    errno: int | None = None
    args: tuple[Arg, ...] = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """`architectures`: SCMP_ARCH_* names; the native one is always included. `flags`: SECCOMP_FILTER_FLAG_* names."""

    default_action: str
    default_errno: int | None = None
    architectures: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    flags: tuple[str, ...] = ()


def compile_filter(wanted: Filter) -> bytes:
    """The classic BPF program (an array of struct sock_filter) of a filter.

    Raises `Invalid` for unknown actions, operators, architectures and for a program that is too long.
    """
    raise NotImplementedError


def load_filter(program: bytes, flags: tuple[str, ...] = ()) -> int | None:
    """Load a compiled filter into the calling thread; it can never be removed.

    The caller has CAP_SYS_ADMIN or has set no_new_privs. Returns the listener's descriptor with
    SECCOMP_FILTER_FLAG_NEW_LISTENER, else None. Raises `Unsupported`, `Denied` or `Invalid`.
    """
    raise NotImplementedError
