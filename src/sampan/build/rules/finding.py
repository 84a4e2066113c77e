"""What a rule is, and what it has found."""

from __future__ import annotations

from dataclasses import dataclass

from sampan.build.model import Instruction


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    description: str
    """Why it matters, in a sentence."""
    url: str = ""
    fix: str = ""
    """What to write instead."""
    experimental: bool = False
    """Only when the options ask for it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`first` and `last` are lines counted from 1; `last` includes continuations and here-documents."""

    rule: Rule
    message: str
    first: int
    last: int
    comments: tuple[str, ...] = ()
    """Those that may silence it (`# check=skip=NAME`)."""


def at(rule: Rule, message: str, instruction: Instruction, *, local: bool = True) -> Finding:
    """`local`: comments above the instruction may silence the rule there, as for most of BuildKit's."""
    first, last = lines_of(instruction)
    return Finding(rule, message, first, last, instruction.comments if local else ())


def lines_of(instruction: Instruction) -> tuple[int, int]:
    """The first and the last line, here-documents included."""
    first = instruction.place().line
    last = instruction.segments[-1].line if instruction.segments else first
    return first, last + sum(doc.content.count("\n") + 1 for doc in instruction.heredocs)
