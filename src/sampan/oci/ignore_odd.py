"""Patterns of ignore files for which a regular expression would go back and forth without end. Pure.

Such are those in which something that ends inside a name stands between two `**`: every place where it ends must be
kept in mind. Here all of them are, at once, as the bits of one number: bit N means that what was looked at so far can
end before character N. Each token of a pattern takes one pass over the number, whatever the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

SLASH, STAR = "/", "*"
Chunks = Sequence[Sequence[str]]
"""What stands between the `**`s of a pattern, as tokens: `*`, `/`, or the regular expression of one character."""


class OddPatterns:
    def __init__(self, patterns: Sequence[Chunks]) -> None:
        self._patterns = patterns
        self._single = {
            token: re.compile(token, re.DOTALL)
            for chunks in patterns
            for chunk in chunks
            for token in chunk
            if token not in (SLASH, STAR)
        }

    def fullmatch(self, path: str) -> bool:
        """Whether one of the patterns matches `path`, or a directory that it lies in."""
        places = {token: _bits(map(one.fullmatch, path)) for token, one in self._single.items()}
        places[SLASH] = _bits(char == SLASH for char in path)
        whole = 1 << len(path)
        return any(_matches(chunks, places, whole) for chunks in self._patterns)


def _matches(chunks: Chunks, places: dict[str, int], whole: int) -> bool:
    """`places`: for each token where a character is that it matches. `whole`: the bit behind the last character."""
    slashes = places[SLASH]
    names = (whole - 1) & ~slashes
    ends = 1
    for number, chunk in enumerate(chunks):
        if number and not chunk:
            return True  # `**` at the end takes all the rest
        if number:
            ends |= (slashes & -(ends & -ends)) << 1
        for token in chunk:
            # A sum's carry runs through the rest of a name from each place in it.
            ends = (names + (ends & names)) ^ names | ends if token == STAR else (ends & places[token]) << 1
        if not ends:
            return False
    return bool(ends & (slashes | whole))


def _bits(flags: Iterable[object]) -> int:
    """Bit N is whether the flag N is true."""
    return int("".join("1" if flag else "0" for flag in flags)[::-1] or "0", 2)
