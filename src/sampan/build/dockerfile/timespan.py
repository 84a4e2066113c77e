"""Go's duration syntax (`1h30m`, `1.5s`, `300ms`), as HEALTHCHECK uses it."""

from __future__ import annotations

import re
from decimal import Decimal

from sampan.errors import Invalid

_PART = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_MAX = 2**63 - 1


def parse_duration(text: str) -> int:
    """Nanoseconds. Raises `Invalid` with Go's words."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    total = Decimal(0)
    position = 0
    while position < len(rest):
        match = _PART.match(rest, position)
        if not match:
            missing = re.fullmatch(r"[0-9.]+", rest[position:]) is not None
            reason = "missing unit in duration" if missing else "invalid duration"
            raise Invalid(f'time: {reason} "{text}"')
        total += Decimal(match[1]) * _NANOSECONDS[match[2]]
        position = match.end()
    if not rest or total > _MAX:
        raise Invalid(f'time: invalid duration "{text}"')
    return sign * int(total)
