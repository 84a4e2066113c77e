"""Filters by name or id: regular expressions, as Docker has them, in bounded time."""

from __future__ import annotations

import re

MAX_PATTERN = 256
MAX_REPEATS = 4

_REPEAT = re.compile(r"(?<!\\)[*+?{]")
_REPEATED_GROUP = re.compile(r"\)[*+?{]|\\\d")


def name_matches(pattern: str, name: str) -> bool:
    """Whether `pattern` is found in `name`. Docker's engine searches in linear time, Python's does not:

    what could take long (repeated groups, references back, many repeats) and what is no regular expression
    is compared as plain text.
    """
    if pattern == name:
        return True
    costly = len(_REPEAT.findall(pattern)) > MAX_REPEATS or _REPEATED_GROUP.search(pattern)
    if len(pattern) > MAX_PATTERN or costly:
        return pattern in name
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return pattern in name
