"""From a seccomp `Filter` to a classic BPF program. Pure.

What a filter means, where the OCI runtime-spec leaves it open, follows libseccomp and runc:

* System calls that an architecture does not have are skipped.
* A rule without conditions beats rules with conditions for the same call. Among rules with conditions the
  first that matches decides. Rules whose action is the default action are left out beforehand.
* On 32-bit architectures, x32 among them, conditions compare the lower 32 bits.
* A call number above the highest one that the filter names is newer than the filter's author: it fails with
  ENOSYS, so that programs fall back to older calls, unless the default action lets it pass.
* Rules without conditions for socket and System V IPC calls also apply to their multiplexed form on 32-bit
  x86 (socketcall, ipc). A rule with conditions does not: there the arguments are behind a pointer, and
  libseccomp's way of dropping the condition would allow what it is to keep out (CVE-2026-31431).
* Calls of an architecture that the filter does not list kill the thread.

Shape of the program: a test of the architecture, then a binary search over intervals of call numbers with
the same outcome. Jumps have 8-bit distances; longer ones go over an unconditional jump. Only instructions
that the kernel's own constant-action analysis understands come before the decision, so that it can skip the
filter for calls that are always allowed (Linux 5.11, kernel/seccomp.c).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sampan.errors import Invalid, Unsupported
from sampan.linux.seccomp import Arg, Filter, Rule
from sampan.linux.seccomp_syscalls import X86_MULTIPLEXED, numbers

_EPERM = 1
_ENOSYS = 38

_KILL_THREAD = 0x0000_0000
_ERRNO = 0x0005_0000
_TRACE = 0x7FF0_0000
_ACTIONS = {
    "SCMP_ACT_KILL": _KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": _KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": 0x8000_0000,
    "SCMP_ACT_TRAP": 0x0003_0000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_NOTIFY": 0x7FC0_0000,
    "SCMP_ACT_TRACE": _TRACE,
    "SCMP_ACT_LOG": 0x7FFC_0000,
    "SCMP_ACT_ALLOW": 0x7FFF_0000,
}
_PASSING = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
_MAX_ERRNO = 4095

_X32_BIT = 0x4000_0000
_NO_CALL = 0xFFFF_FFFF
"""What a tracer writes as the call number (-1) to skip a call."""

_AUDIT_ARCH = {
    "x86_64": 0xC000_003E,
    "x86": 0x4000_0003,
    "aarch64": 0xC000_00B7,
    "arm": 0x4000_0028,
}
_WIDE = ("x86_64", "aarch64")
_NATIVE = {
    "x86_64": "x86_64",
    "aarch64": "aarch64",
    "i386": "x86",
    "i686": "x86",
    "armv7l": "arm",
    "armv8l": "arm",
}
_FOREIGN = frozenset(
    ("mips", "mips64", "mips64n32", "mipsel", "mipsel64", "mipsel64n32", "ppc", "ppc64", "ppc64le", "s390")
    + ("s390x", "parisc", "parisc64", "riscv64", "loongarch64", "m68k", "sh", "sheb", "native")
)
"""Architectures that a filter may list though no process of the supported machines can have them."""

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_IF_EQUAL = 0x15
_IF_GREATER = 0x25
_IF_NOT_LESS = 0x35
_RETURN = 0x06
_MAX_DISTANCE = 255
_MAX_INSTRUCTIONS = 4096

# Offsets in struct seccomp_data of linux/seccomp.h.
_NUMBER = 0
_ARCHITECTURE = 4
_ARGUMENTS = 16

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, k: struct sock_filter."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """`action` when all of `args` hold. `wide`: all 64 bits of the arguments are compared."""

    action: int
    args: tuple[Arg, ...]
    wide: bool


_Outcome = int | tuple[_Choice, ...]
"""An action, or choices tried in turn before the default action."""


def compile_program(wanted: Filter, machine: str) -> bytes:
    """See `sampan.linux.seccomp.compile_filter`."""
    default = _action(wanted.default_action, wanted.default_errno)
    program: list[Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE)]
    architectures = _architectures(wanted.architectures, machine)
    for architecture in architectures:
        if architecture == "x32":
            continue
        intervals = _intervals(wanted, architecture, default)
        if architecture == "x86_64":
            intervals += _upper_half(wanted, "x32" in architectures, default)
        block = [(_LOAD, 0, 0, _NUMBER), *_search(_merged(intervals), default)]
        program += _unless_equal(_AUDIT_ARCH[architecture], len(block)) + block
    program.append((_RETURN, 0, 0, _KILL_THREAD))
    if len(program) > _MAX_INSTRUCTIONS:
        raise Invalid(
            f"the seccomp profile is too long: {len(program)} instructions, at most {_MAX_INSTRUCTIONS}"
        )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _architectures(names: Iterable[str], machine: str) -> list[str]:
    """Those of the filter that exist on this machine and have a table; the native one first."""
    native = _NATIVE.get(machine)
    if native is None:
        raise Unsupported(f"seccomp filters are not supported on {machine}")
    found = [native]
    for name in names:
        architecture = name.removeprefix("SCMP_ARCH_").lower()
        ours = architecture in _AUDIT_ARCH or architecture == "x32"
        if not name.startswith("SCMP_ARCH_") or not (ours or architecture in _FOREIGN):
            raise Invalid(f"unknown seccomp architecture: {name!r}")
        if ours and architecture not in found:
            found.append(architecture)
    return found


def _action(name: str, errno: int | None) -> int:
    if name not in _ACTIONS:
        raise Invalid(f"unknown seccomp action: {name!r}")
    value = _ACTIONS[name]
    if value not in (_ERRNO, _TRACE):
        return value
    number = _EPERM if errno is None else errno
    if not 0 <= number <= _MAX_ERRNO:
        raise Invalid(f"invalid errno for a seccomp action: {number}")
    return value | number


def _outcomes(wanted: Filter, architecture: str, default: int) -> tuple[dict[int, _Outcome], int]:
    """What happens to each call number that differs from the default, and the highest number named."""
    table = numbers(architecture)
    wide = architecture in _WIDE
    fixed: dict[int, int] = {}
    choices: dict[int, list[_Choice]] = {}
    last = -1
    for rule in wanted.rules:
        action = _action(rule.action, rule.errno)
        alternatives = _alternatives(rule)
        for name in rule.names:
            number = table.get(name, -1)
            last = max(last, number)
            if action == default:
                continue
            if not rule.args and architecture == "x86" and name in X86_MULTIPLEXED:
                call, kind = X86_MULTIPLEXED[name]
                # ipc(2) takes a version in the upper half of its first argument.
                condition = Arg(0, 0xFFFF if call == "ipc" else 0xFFFF_FFFF, "SCMP_CMP_MASKED_EQ", kind)
                choices.setdefault(table[call], []).append(_Choice(action, (condition,), False))
                last = max(last, table[call])
            if number < 0:
                continue
            if rule.args:
                choices.setdefault(number, []).extend(_Choice(action, args, wide) for args in alternatives)
            else:
                # As in libseccomp: of two actions without conditions the first counts.
                fixed.setdefault(number, action)
    conditional: dict[int, _Outcome] = {
        number: tuple(dict.fromkeys(listed)) for number, listed in choices.items()
    }
    return {**conditional, **fixed}, last


def _alternatives(rule: Rule) -> list[tuple[Arg, ...]]:
    for arg in rule.args:
        if not 0 <= arg.index <= 5:
            raise Invalid(f"invalid seccomp argument index: {arg.index}")
        if not (0 <= arg.value < 1 << 64 and 0 <= arg.value_two < 1 << 64):
            raise Invalid(f"seccomp argument value out of range: {arg.value}, {arg.value_two}")
        if arg.op not in _COMPARISONS:
            raise Invalid(f"unknown seccomp operator: {arg.op!r}")
    if len({arg.index for arg in rule.args}) < len(rule.args):
        return [(arg,) for arg in rule.args]
    return [rule.args]


_Interval = tuple[int, _Outcome]
"""The first number of an interval, and what happens in it."""


def _intervals(wanted: Filter, architecture: str, default: int, base: int = 0) -> list[_Interval]:
    outcomes, last = _outcomes(wanted, architecture, default)
    intervals: list[_Interval] = [(base, default)]
    for number in sorted(outcomes):
        intervals.append((base + number, outcomes[number]))
        intervals.append((base + number + 1, default))
    if wanted.default_action not in _PASSING and last >= 0:
        intervals.append((base + last + 1, _ERRNO | _ENOSYS))
    return intervals


def _upper_half(wanted: Filter, x32: bool, default: int) -> list[_Interval]:
    """Numbers from bit 30 up under the architecture code that x86_64 and x32 share."""
    if x32:
        return _intervals(wanted, "x32", default, _X32_BIT)
    return [(_X32_BIT, _KILL_THREAD), (_NO_CALL, default)]


def _merged(intervals: Iterable[_Interval]) -> list[_Interval]:
    """Sorted, with one outcome for each first number (the last given) and no two neighbours alike."""
    merged: list[_Interval] = []
    for start, outcome in sorted(dict(intervals).items()):
        if not merged or merged[-1][1] != outcome:
            merged.append((start, outcome))
    return merged


def _search(intervals: Sequence[_Interval], default: int) -> list[Instruction]:
    if len(intervals) == 1:
        outcome = intervals[0][1]
        if isinstance(outcome, int):
            return [(_RETURN, 0, 0, outcome)]
        return _choose(outcome, default)
    middle = len(intervals) // 2
    lower = _search(intervals[:middle], default)
    upper = _search(intervals[middle:], default)
    border = intervals[middle][0]
    if len(lower) <= _MAX_DISTANCE:
        return [(_IF_NOT_LESS, len(lower), 0, border), *lower, *upper]
    return [(_IF_NOT_LESS, 0, 1, border), (_JUMP, 0, 0, len(lower)), *lower, *upper]


def _unless_equal(value: int, distance: int) -> list[Instruction]:
    """Skip `distance` instructions unless the accumulator is `value`."""
    if distance <= _MAX_DISTANCE:
        return [(_IF_EQUAL, 0, distance, value)]
    return [(_IF_EQUAL, 1, 0, value), (_JUMP, 0, 0, distance)]


def _choose(choices: Sequence[_Choice], default: int) -> list[Instruction]:
    code: list[Instruction] = []
    for choice in choices:
        code += _when(choice)
    return [*code, (_RETURN, 0, 0, default)]


# A jump target inside a rule: the next instruction, the end of this condition, the end of this rule.
_NEXT, _HOLDS, _FAILS = 0, -1, -2

_COMPARISONS = frozenset(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))


def _when(choice: _Choice) -> list[Instruction]:
    """Return the action when all conditions hold, else fall out at the end."""
    conditions = [list(_condition(arg, choice.wide)) for arg in choice.args]
    length = sum(map(len, conditions)) + 1
    code: list[Instruction] = []
    for condition in conditions:
        end = len(code) + len(condition)
        for instruction, true, false, k in condition:
            after = len(code) + 1
            targets = {_NEXT: 0, _HOLDS: end - after, _FAILS: length - after}
            code.append((instruction, targets[true], targets[false], k))
    return [*code, (_RETURN, 0, 0, choice.action)]


def _condition(arg: Arg, wide: bool) -> Iterator[Instruction]:
    """The test of a 64-bit argument by its two halves; the jumps are of the three targets above."""
    low_offset = _ARGUMENTS + 8 * arg.index  # both supported families are little-endian
    high, low = arg.value >> 32, arg.value & 0xFFFF_FFFF
    load_high = (_LOAD, _NEXT, _NEXT, low_offset + 4)
    load_low = (_LOAD, _NEXT, _NEXT, low_offset)
    op = arg.op.removeprefix("SCMP_CMP_")
    if op == "MASKED_EQ":
        wanted = arg.value_two & arg.value
        if wide:
            yield from (load_high, (_AND, _NEXT, _NEXT, high), (_IF_EQUAL, _NEXT, _FAILS, wanted >> 32))
        yield from (load_low, (_AND, _NEXT, _NEXT, low), (_IF_EQUAL, _NEXT, _FAILS, wanted & 0xFFFF_FFFF))
        return
    if wide:
        yield load_high
        # Where the upper halves differ they decide.
        if op in ("GT", "GE"):
            yield (_IF_GREATER, _HOLDS, _NEXT, high)
        elif op in ("LT", "LE"):
            yield (_IF_GREATER, _FAILS, _NEXT, high)
        yield (_IF_EQUAL, _NEXT, _HOLDS if op in ("NE", "LT", "LE") else _FAILS, high)
    yield load_low
    yield {
        "EQ": (_IF_EQUAL, _HOLDS, _FAILS, low),
        "NE": (_IF_EQUAL, _FAILS, _HOLDS, low),
        "GT": (_IF_GREATER, _HOLDS, _FAILS, low),
        "GE": (_IF_NOT_LESS, _HOLDS, _FAILS, low),
        "LT": (_IF_NOT_LESS, _FAILS, _HOLDS, low),
        "LE": (_IF_GREATER, _FAILS, _HOLDS, low),
    }[op]
