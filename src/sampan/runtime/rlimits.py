"""Resource limits of a container's process: as much as takes privileges beforehand, what would hurt us at the end.

Until its execve the process is a Python interpreter, which a small stack or address space kills (SIGSEGV, MemoryError).
Raising a hard limit takes CAP_SYS_RESOURCE on the host, which is given up early; the rest takes nothing.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence

from sampan.errors import Denied, Invalid
from sampan.oci.spec import Rlimit

_HURTING = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_STACK")
_UNLIMITED = resource.RLIM_INFINITY


def early_limit(present: tuple[int, int], hard: int) -> tuple[int, int]:
    """What is set of a limit while we need more than it allows: a higher hard one. -1 is unlimited. Pure."""
    raised = hard == _UNLIMITED or (present[1] != _UNLIMITED and hard > present[1])
    return (present[0], hard) if raised else present


def set_early(name: str, soft: int, hard: int) -> None:
    """A limit, or as much of one that would hurt us as takes privileges. -1 is unlimited. Raises `Denied`, `Invalid`.

    `name`: RLIMIT_*, as in the runtime-spec.
    """
    number = getattr(resource, name, None) if name.startswith("RLIMIT_") else None
    if number is None:
        raise Invalid(f"invalid rlimit type {name!r}")
    if hard != _UNLIMITED and (soft == _UNLIMITED or soft > hard):
        raise Invalid(f"{name}: the soft limit {soft} is above the hard limit {hard}")
    present = resource.getrlimit(number)
    try:
        resource.setrlimit(number, early_limit(present, hard) if name in _HURTING else (soft, hard))
    except (ValueError, OSError) as error:
        raise Denied(
            f"error setting rlimit {name} to {soft}:{hard}: operation not permitted",
            hint=f"the hard limit of {name.removeprefix('RLIMIT_').lower()} is {present[1]} here, "
            "and raising it takes CAP_SYS_RESOURCE",
        ) from error


def set_late(limits: Sequence[Rlimit]) -> None:
    """The rest of what `set_early` has let pass: shortly before the execve, with no privileges."""
    for limit in limits:
        if limit.type in _HURTING:
            resource.setrlimit(getattr(resource, limit.type), limit.values)
