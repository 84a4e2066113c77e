"""A case as data: command lines for both engines, and for each what of its outcome is compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

KINDS = {
    "setup": "has to succeed on both sides; its output does not matter",
    "code": "the exit code",
    "out": "exit code and standard output",
    "all": "exit code, standard output and standard error",
    "sorted": "exit code and standard output, its lines in any order",
    "shape": "exit code and standard output, every number in it taken as equal",
    "json": "exit code and standard output as JSON (one document, or one a line), field by field",
}


@dataclass(frozen=True)
class Step:
    """One line of a case. `kind` is a key of KINDS, `line` a shell command line with `{cli}` in it."""

    kind: str
    line: str


@dataclass(frozen=True)
class Case:
    """`name` is a sentence, `text` holds the steps, one a line: `KIND: COMMAND LINE`.

    In a command line `{cli}` is the engine's command and `{c}` a name that no other case uses. Both sides run in
    an empty directory of their own. A line that ends with a backslash goes on with the next.

    `but` are replacements (regular expression: text) for what differs by chance and the normalisers don't know.
    `ignore` are paths of JSON fields (with `*`) that are not compared at all, with the reason why.
    `pending` says what is not done yet: a difference is expected then, and no failure.
    `deliberate` names the row of docs/compatibility.md that says why this case differs: it must differ, then.
    """

    name: str
    text: str
    but: Mapping[str, str] = field(default_factory=dict)
    ignore: Mapping[str, str] = field(default_factory=dict)
    deliberate: str = ""
    pending: str = ""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Raises ValueError when a line is none of `KIND: COMMAND LINE`."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return tuple(_step(line.strip()) for line in lines if line.strip())


def _step(line: str) -> Step:
    kind, colon, command = line.partition(":")
    if not colon or kind not in KINDS:
        raise ValueError(f"{line!r} does not begin with one of {', '.join(KINDS)}")
    return Step(kind, command.strip())
