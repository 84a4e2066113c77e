"""What a rule is, and what it has found."""

from __future__ import annotations

from dataclasses import dataclass

from sampan.build.model import Instruction


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    description: str
    url: str


@dataclass(frozen=True, slots=True)
class Finding:
    """`first` and `last` are lines counted from 1; `last` includes continuations and here-documents."""

    rule: Rule
    message: str
    first: int
    last: int


def at(rule: Rule, message: str, instruction: Instruction) -> Finding:
    first = instruction.place().line
    last = instruction.segments[-1].line if instruction.segments else first
    return Finding(
        rule, message, first, last + sum(doc.content.count("\n") + 1 for doc in instruction.heredocs)
    )
