"""What a mistyped name may have meant: the nearest one, by Levenshtein's distance below 3, as BuildKit has it."""

from __future__ import annotations

from collections.abc import Iterable

_TOO_FAR = 3
_LONGEST = 100
"""Characters of a name that is compared."""


def did_you_mean(name: str, options: Iterable[str], prefix: str = "") -> str:
    """` (did you mean NAME?)`, or nothing."""
    found = nearest(name, options)
    return f" (did you mean {prefix}{found}?)" if found else ""


def nearest(name: str, options: Iterable[str]) -> str:
    """The first of the nearest ones; "" when there is none, or `name` itself is one."""
    best, least = "", _TOO_FAR
    for option in options:
        if option == name:
            return ""
        found = distance(name, option)
        if found < least:
            best, least = option, found
    return best


def distance(left: str, right: str) -> int:
    """Of texts that are too long or too different: `_TOO_FAR`."""
    if abs(len(left) - len(right)) >= _TOO_FAR or len(left) > _LONGEST:
        return _TOO_FAR
    row = list(range(len(right) + 1))
    for index, char in enumerate(left, 1):
        previous, row[0] = row[0], index
        for column, other in enumerate(right, 1):
            replaced = previous + (char != other)
            previous = row[column]
            row[column] = min(replaced, row[column] + 1, row[column - 1] + 1)
    return row[-1]
