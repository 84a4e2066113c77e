"""Signals by name and number, as `kill`, `stop` and STOPSIGNAL take them."""

from __future__ import annotations

import signal

from sampan.errors import Invalid

_HIGHEST = 64


def parse_signal(text: str) -> int:
    """`KILL`, `SIGKILL`, `9`, `RTMIN+3` -> the number. Raises `Invalid` in Docker's words."""
    name = text.strip().upper()
    if name.isdecimal():
        number = int(name)
        if not 1 <= number <= _HIGHEST:
            raise Invalid(f"Invalid signal: {text}")
        return number
    short = name.removeprefix("SIG")
    for base, sign in (("RTMIN", "+"), ("RTMAX", "-")):
        if short.startswith(base + sign) and short[len(base) + 1 :].isdecimal():
            offset = int(short[len(base) + 1 :])
            number = signal.SIGRTMIN + offset if sign == "+" else signal.SIGRTMAX - offset
            if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
                return number
            raise Invalid(f"Invalid signal: {text}")
    found = getattr(signal, f"SIG{short}", None)
    if not isinstance(found, signal.Signals):
        raise Invalid(f"Invalid signal: {text}")
    return int(found)
