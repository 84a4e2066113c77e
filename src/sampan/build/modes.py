"""`--chmod`: octal digits or chmod(1)'s symbolic form (`u=rwX,go=rX`, `+x`, `g=u`, `a-st`). Pure.

No umask takes part, as in BuildKit, which follows BSD's setmode(3).
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass

from sampan.errors import Invalid

_OCTAL = re.compile(r"[0-7]{1,16}")
_MAX_TEXT = 1024
_ALL = stat.S_ISUID | stat.S_ISGID | 0o777
_OTHERS = stat.S_IRWXO
_WHO = {"a": _ALL, "u": stat.S_ISUID | stat.S_IRWXU, "g": stat.S_ISGID | stat.S_IRWXG, "o": _OTHERS}
_SHIFT = {"u": 6, "g": 3, "o": 0}
_PERMISSIONS = {"r": 0o444, "w": 0o222, "x": 0o111}
_EXECUTE = 0o111


@dataclass(frozen=True, slots=True)
class _Step:
    """One change: `kind` is "+" or "-" (bits), "X" (bits when executable), or "u", "g", "o" (a copy of theirs)."""

    kind: str
    bits: int
    clears: bool = False
    sets: bool = True


@dataclass(frozen=True, slots=True)
class ModeChange:
    absolute: int | None
    steps: tuple[_Step, ...] = ()

    def apply(self, mode: int, *, is_dir: bool) -> int:
        """The permission bits (07777) that a file with the permission bits `mode` gets."""
        if self.absolute is not None:
            return self.absolute
        before = mode
        for step in self.steps:
            if step.kind == "+":
                mode |= step.bits
            elif step.kind == "-":
                mode &= ~step.bits
            elif step.kind == "X":
                if before & _EXECUTE or is_dir:
                    mode |= step.bits
            else:
                mode = _copied(mode, step)
        return mode


def parse_mode(text: str) -> ModeChange:
    """Raises `Invalid`, in BuildKit's words."""
    if _OCTAL.fullmatch(text) and int(text, 8) <= 0o7777:
        return ModeChange(int(text, 8))
    if not text or text[0].isdigit() or len(text) > _MAX_TEXT:
        raise _refused(text)
    steps: list[_Step] = []
    for clause in text.split(","):
        steps += _clause(clause, text)
    return ModeChange(None, tuple(steps))


def _copied(mode: int, step: _Step) -> int:
    value = mode >> _SHIFT[step.kind] & 0o7
    spread = value << 6 | value << 3 | value
    if step.clears:
        mode &= ~((0o777 if step.sets else spread) & step.bits)
    return mode | (spread & step.bits) if step.sets else mode


def _clause(clause: str, text: str) -> list[_Step]:
    """`[ugoa]*` and then one or more of `[+-=][rwxXstugo]*`."""
    match = re.fullmatch(r"([ugoa]*)((?:[-+=][rwxXstugo]*)+)", clause)
    if not match:
        raise _refused(text)
    who = 0
    for char in match[1]:
        who |= _WHO[char]
    steps: list[_Step] = []
    for operation in re.findall(r"[-+=][rwxXstugo]*", match[2]):
        steps += _operation(operation[0], operation[1:], who)
    return steps


def _operation(sign: str, letters: str, who: int) -> list[_Step]:
    """A copy (`g=u`) ends the permissions collected before it: each counts alone, in its order."""
    steps: list[_Step] = []
    bits = conditional = 0
    equal_done = False
    # "Others" alone have neither set-id bits nor the sticky one.
    special = not who or bool(who & ~_OTHERS)
    for char in letters:
        if char in _PERMISSIONS or (char == "X" and sign == "-"):
            bits |= _PERMISSIONS.get(char, _EXECUTE)
        elif char == "X":
            conditional = _EXECUTE
        elif char == "s":
            bits |= stat.S_ISUID | stat.S_ISGID if special else 0
        elif char == "t":
            if special:
                who |= stat.S_ISVTX
                bits |= stat.S_ISVTX
        else:
            steps += _flushed(sign, bits, conditional, who, done=not bits)
            bits = conditional = 0
            equal_done = True
            steps.append(_Step(char, _copy_bits(who), clears=sign in "-=", sets=sign in "+="))
    return steps + _flushed(sign, bits, conditional, who, done=equal_done and not bits)


def _flushed(sign: str, bits: int, conditional: int, who: int, *, done: bool) -> list[_Step]:
    steps: list[_Step] = []
    limit = who or 0o7777
    if bits or (sign == "=" and not done):
        if sign == "=":
            steps.append(_Step("-", who or _ALL))
        steps.append(_Step("-" if sign == "-" else "+", bits & limit))
    if conditional:
        steps.append(_Step("X", conditional & limit))
    return steps


def _copy_bits(who: int) -> int:
    return who & 0o777 if who else 0o777


def _refused(text: str) -> Invalid:
    shown = text if len(text) <= 100 else text[:100] + "..."
    return Invalid(
        f"invalid chmod parameter: '{shown}'. it should be octal string and between 0 and 07777",
        hint="an octal number such as 755, or a symbolic mode such as u=rwX,go=rX",
    )
