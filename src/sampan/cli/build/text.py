"""Text from builds made safe for a terminal, and how many columns it takes there. Pure.

Output of steps, names and messages are strangers' words: nothing in them may move the cursor, set a title,
change colours or turn the direction of writing.
"""

from __future__ import annotations

import unicodedata

TAB = 8

_ESCAPE = "\x1b"
_STRINGS = "]PX^_"
"""OSC, DCS, SOS, PM and APC: they go on to BEL or to ST (ECMA-48, 5.6)."""
_HIDDEN = {"Mn", "Me", "Cf", "Cc", "Cs"}


def plain(text: str) -> str:
    """`text` on one line without control sequences; other control characters become "?", tabs stay.

    What a carriage return was followed by has overwritten what stood before, as progress bars do.
    """
    if text.isprintable():
        return text
    if _ESCAPE in text or "\x9b" in text:
        text = _without_sequences(text)
    if "\r" in text:
        text = next((part for part in reversed(text.split("\r")) if part), "")
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    if char.isprintable() or char == "\t":
        return char
    # Format characters (joiners, direction marks) take no room; nothing is lost without them.
    return "" if unicodedata.category(char) == "Cf" else "?"


def _without_sequences(text: str) -> str:
    kept = []
    position = 0
    while position < len(text):
        char = text[position]
        if char == _ESCAPE:
            position = _after_sequence(text, position + 1)
        elif char == "\x9b":
            position = _after_parameters(text, position + 1)
        else:
            kept.append(char)
            position += 1
    return "".join(kept)


def _after_sequence(text: str, position: int) -> int:
    """Where the text goes on after an escape character; a sequence that does not end takes all of the text."""
    kind = text[position : position + 1]
    if kind == "[":
        return _after_parameters(text, position + 1)
    if kind and kind in _STRINGS:
        ends = [(text.find(end, position), len(end)) for end in ("\x07", "\x1b\\", "\x9c")]
        found = [index + length for index, length in ends if index >= 0]
        return min(found, default=len(text))
    while position < len(text) and " " <= text[position] <= "/":
        position += 1
    return position + 1


def _after_parameters(text: str, position: int) -> int:
    """After a CSI: parameters and intermediates (0x20-0x3f), then one final byte (0x40-0x7e)."""
    while position < len(text) and " " <= text[position] <= "?":
        position += 1
    return position + (1 if position < len(text) and "@" <= text[position] <= "~" else 0)


def width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters and emoji take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(_width(char) for char in text)


def _width(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.category(char) in _HIDDEN:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def fit(text: str, columns: int) -> str:
    """`text`, cut to so many columns; three dots tell of a cut where there is room for them."""
    text = text.expandtabs(TAB)
    if width(text) <= columns:
        return text
    dots = "..." if columns >= 8 else ""
    left = columns - len(dots)
    kept = []
    for char in text:
        left -= _width(char)
        if left < 0:
            break
        kept.append(char)
    return "".join(kept) + dots


def pad(text: str, columns: int) -> str:
    """`text` with spaces up to so many columns."""
    return text + " " * (columns - width(text))
