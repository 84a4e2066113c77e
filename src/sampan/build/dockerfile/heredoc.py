"""Here-documents: which words of an instruction announce one. Pure.

A word `<<NAME`, `<<-NAME` (leading tabs do not count), `3<<NAME` or `<< NAME` outside quotes; a NAME with a quote
in it leaves the content as it is, as in a shell. The escape character is the backslash here, whatever the
`escape` directive says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sampan.build.dockerfile.expand import unquoted_words
from sampan.errors import Invalid

_MARKER = re.compile(r"([0-9]*)<<(-?)\s*+([^<]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Marker:
    name: str
    expand: bool
    strip_tabs: bool


def marker_of(word: str) -> Marker | None:
    """The here-document that `word` announces; None when it is a word like any other."""
    match = _MARKER.fullmatch(word)
    if not match:
        return None
    try:
        names = unquoted_words(match[3])
    except Invalid:
        return None  # an odd quote: the shell's business
    if len(names) != 1 or not names[0]:
        return None
    return Marker(names[0], not _is_quoted(match[3]), bool(match[2]))


def markers_of(text: str) -> list[Marker]:
    """All that a logical line announces, in order; none when its quotes do not match."""
    words = _words(text)
    return [marker for marker in map(marker_of, words) if marker is not None]


def _is_quoted(name: str) -> bool:
    return re.search(r"""(?:^|[^\\])(?:\\\\)*['"]""", name) is not None


def _words(text: str) -> list[str]:
    """Cut at blanks outside quotes, quotes and escapes kept; the blanks behind `<<` belong to the word."""
    words: list[str] = []
    start = -1
    position = 0
    while position < len(text):
        char = text[position]
        if char.isspace():
            if start >= 0 and not _is_open(text, start, position):
                words.append(text[start:position])
                start = -1
            position += 1
            continue
        start = position if start < 0 else start
        if char == "\\":
            position += 2
        elif char in "'\"":
            end = _quote_end(text, position)
            if end < 0:
                return []
            position = end + 1
        else:
            position += 1
    if start >= 0:
        words.append(text[start:])
    return words


def _is_open(text: str, start: int, position: int) -> bool:
    """Whether only blanks stand between the last `<<` or `<<-` of the word and `position`."""
    end = position
    while end > start and text[end - 1] in " \t\r" and position - end < 64:
        end -= 1
    end -= text[end - 1] == "-"
    return text[start:end].endswith("<<")


def _quote_end(text: str, position: int) -> int:
    quote = text[position]
    if quote == "'":
        return text.find("'", position + 1)
    position += 1
    while position < len(text):
        if text[position] == "\\":
            position += 1
        elif text[position] == quote:
            return position
        position += 1
    return -1
