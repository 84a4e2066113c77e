"""What differs from run to run is replaced by a name for it, so that the rest can be compared. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

# In this order: a digest is found before the identifier in it.
_PATTERNS = (
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "<time>"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? [+-]\d{4} [A-Z]+", "<time>"),
    (r"\b[0-9a-f]{64}\b", "<id>"),
    (r"\b[0-9a-f]{12}\b", "<short id>"),
    # Signal 32 is the C library's own: no program gives it back its default, and an engine may inherit it ignored.
    (r"\b(Sig(?:Ign|Blk|Cgt):\s+[0-9a-f]{8})[0-9a-f]([0-9a-f]{7})\b", r"\1.\2"),
    (r"<net>\.(?!1\b)\d+", "<address>"),
    (r"\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b", "<mac>"),
    (r"\b(Up|Exited \(\d+\)|Restarting \(\d+\)) (Less than a second|\d+ seconds?)", r"\1 <short time>"),
    (r"\b(Less than a second|\d+ seconds?|About a minute) ago\b", "<short time> ago"),
)
_COMPILED = tuple((re.compile(pattern), name) for pattern, name in _PATTERNS)


@dataclass(frozen=True)
class Normaliser:
    """`texts` are literal texts of one side (directories, its own name), replaced before anything else."""

    texts: Mapping[str, str] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, text: str) -> str:
        for old, new in self.texts.items():
            text = text.replace(old, new)
        for pattern, new in self.patterns.items():
            text = re.sub(pattern, new, text)
        for compiled, new in _COMPILED:
            text = compiled.sub(new, text)
        return text


def without_numbers(text: str) -> str:
    """Numbers with their units and the widths of columns go: what is left is the shape of a listing."""
    text = re.sub(r"\d+(\.\d+)?( ?([kKMGT]?i?B|ms|s|%))?(?![\w])", "<n>", text)
    return re.sub(r"[ \t]{2,}", "  ", text)
