"""Seccomp profiles in Docker's JSON form, and what one means for a container on this host. Pure.

A profile differs from the OCI configuration's `linux.seccomp`: rules may depend on the container's capabilities, on
the architecture and on the kernel, and architectures may be given as a map.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache

import msgspec

from sampan.engine import seccomp_default
from sampan.errors import Invalid
from sampan.oci.spec import Seccomp, SeccompArg, SeccompRule

_MAX_PROFILE = 4 << 20
_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
_NATIVE = {
    "amd64": "SCMP_ARCH_X86_64",
    "arm64": "SCMP_ARCH_AARCH64",
    "386": "SCMP_ARCH_X86",
    "arm": "SCMP_ARCH_ARM",
    "ppc64le": "SCMP_ARCH_PPC64LE",
    "s390x": "SCMP_ARCH_S390X",
    "riscv64": "SCMP_ARCH_RISCV64",
    "loong64": "SCMP_ARCH_LOONGARCH64",
}
_ACTION_PATTERN = r"^SCMP_ACT_(KILL|KILL_PROCESS|KILL_THREAD|TRAP|ERRNO|TRACE|ALLOW|LOG|NOTIFY)$"
_OPERATOR_PATTERN = r"^SCMP_CMP_(NE|LT|LE|EQ|GE|GT|MASKED_EQ)$"

_MaybeNames = tuple[str, ...] | None


class _Camel(msgspec.Struct, frozen=True, rename="camel"):
    pass


class _Condition(_Camel, frozen=True):
    """`min_kernel`: "4.8"."""

    arches: _MaybeNames = None
    caps: _MaybeNames = None
    min_kernel: str | None = None


class _ProfileArg(_Camel, frozen=True):
    index: int
    value: int
    op: str
    value_two: int = 0


class _ProfileRule(_Camel, frozen=True):
    action: str
    names: _MaybeNames = None
    name: str | None = None
    errno_ret: int | None = None
    args: tuple[_ProfileArg, ...] | None = None
    includes: _Condition | None = None
    excludes: _Condition | None = None


class _Architecture(_Camel, frozen=True):
    architecture: str
    sub_architectures: _MaybeNames = None


class Profile(_Camel, frozen=True):
    """A profile file; see https://docs.docker.com/engine/security/seccomp/."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: _MaybeNames = None
    arch_map: tuple[_Architecture, ...] | None = None
    flags: _MaybeNames = None
    listener_path: str | None = None
    listener_metadata: str | None = None
    syscalls: tuple[_ProfileRule, ...] | None = None


def load_profile(raw: bytes) -> Profile:
    """A user's profile file. Raises `Invalid` that says what is wrong in it."""
    if len(raw) > _MAX_PROFILE:
        raise Invalid(f"Decoding seccomp profile failed: larger than {_MAX_PROFILE} bytes")
    try:
        profile = msgspec.json.decode(raw, type=Profile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"Decoding seccomp profile failed: {error}") from error
    for problem in _problems(profile):
        raise Invalid(f"seccomp profile: {problem}")
    return profile


def _problems(profile: Profile) -> Iterator[str]:
    if profile.architectures and profile.arch_map:
        yield "both 'architectures' and 'archMap' are specified in the seccomp profile, use either one"
    if not re.match(_ACTION_PATTERN, profile.default_action):
        yield f"unknown defaultAction {profile.default_action!r}"
    for place, rule in enumerate(profile.syscalls or ()):
        where = f"syscalls[{place}]"
        if rule.name and rule.names:
            yield f"{where}: both 'name' and 'names' are specified, use either one"
        if not rule.name and not rule.names:
            yield f"{where}: no 'names'"
        if not re.match(_ACTION_PATTERN, rule.action):
            yield f"{where}: unknown action {rule.action!r}"
        for arg in rule.args or ():
            if not re.match(_OPERATOR_PATTERN, arg.op):
                yield f"{where}: unknown operator {arg.op!r}"
            if not 0 <= arg.index <= 5:
                yield f"{where}: no system call has an argument {arg.index}"
            if not (0 <= arg.value < 1 << 64 and 0 <= arg.value_two < 1 << 64):
                yield f"{where}: the value of argument {arg.index} does not fit in 64 bits"
        for condition in (rule.includes, rule.excludes):
            if (
                condition
                and condition.min_kernel
                and not re.match(r"^\d{1,4}\.\d{1,4}$", condition.min_kernel)
            ):
                yield f'{where}: invalid minKernel {condition.min_kernel!r}, expected for example "4.8"'


@cache
def default_profile() -> Profile:
    """Docker's, which the package ships."""
    return Profile(
        default_action=seccomp_default.DEFAULT_ACTION,
        default_errno_ret=seccomp_default.DEFAULT_ERRNO,
        arch_map=tuple(
            _Architecture(name, below or None) for name, below in seccomp_default.ARCHITECTURES.items()
        ),
        syscalls=tuple(_shipped(rule) for rule in seccomp_default.RULES),
    )


def _shipped(rule: seccomp_default.Rule) -> _ProfileRule:
    names, extra = rule
    kernel = extra.get("kernel")
    includes = _Condition(
        extra.get("arches"), extra.get("caps"), f"{kernel[0]}.{kernel[1]}" if kernel else None
    )
    excludes = _Condition(extra.get("not_arches"), extra.get("not_caps"))
    return _ProfileRule(
        action=extra.get("action", "SCMP_ACT_ALLOW"),
        names=tuple(names.split()),
        errno_ret=extra.get("errno"),
        args=tuple(_ProfileArg(*arg) for arg in extra.get("args", ())) or None,
        includes=None if includes == _Condition() else includes,
        excludes=None if excludes == _Condition() else excludes,
    )


def parse_kernel(release: str) -> tuple[int, int]:
    """Major and minor of a release as uname(2) gives it. Raises `Invalid`."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found is None:
        raise Invalid(f"unknown kernel version: {release!r}")
    return int(found[1]), int(found[2])


def resolve(
    profile: Profile, capabilities: Collection[str], architecture: str, kernel: tuple[int, int]
) -> Seccomp:
    """The OCI section for a container with these (bounding) capabilities on this host.

    `architecture`: Go's name (`amd64`) or the kernel's (`x86_64`). `kernel`: major, minor (`parse_kernel`).
    """
    arch = _GO_ARCHITECTURES.get(architecture, architecture)
    rules = tuple(
        SeccompRule(
            names=rule.names or (rule.name or "",),
            action=rule.action,
            errno_ret=rule.errno_ret,
            args=tuple(SeccompArg(arg.index, arg.value, arg.op, arg.value_two) for arg in rule.args or ()),
        )
        for rule in profile.syscalls or ()
        if _applies(rule, capabilities, arch, kernel)
    )
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=_architectures(profile, arch),
        flags=profile.flags or (),
        listener_path=profile.listener_path or None,
        listener_metadata=profile.listener_metadata or None,
        syscalls=rules,
    )


def _architectures(profile: Profile, arch: str) -> tuple[str, ...]:
    if profile.architectures:
        return profile.architectures
    native = _NATIVE.get(arch)
    for entry in profile.arch_map or ():
        if entry.architecture == native:
            return (entry.architecture, *(entry.sub_architectures or ()))
    return ()


def _applies(rule: _ProfileRule, capabilities: Collection[str], arch: str, kernel: tuple[int, int]) -> bool:
    """All of `includes` must hold, and nothing of `excludes`."""
    if (excludes := rule.excludes) is not None:
        if arch in (excludes.arches or ()) or any(name in capabilities for name in excludes.caps or ()):
            return False
        if excludes.min_kernel and kernel >= parse_kernel(excludes.min_kernel):
            return False
    if (includes := rule.includes) is not None:
        if includes.arches and arch not in includes.arches:
            return False
        if not all(name in capabilities for name in includes.caps or ()):
            return False
        if includes.min_kernel and kernel < parse_kernel(includes.min_kernel):
            return False
    return True
