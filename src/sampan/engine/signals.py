"""Signals by name and number, as `kill`, `stop` and STOPSIGNAL take them."""

from __future__ import annotations

import signal

from sampan.errors import Invalid

_HIGHEST = 64


def parse_signal(text: str) -> int:
    """`KILL`, `SIGKILL`, `9`, `RTMIN+3` -> a number that the kernel knows. Raises `Invalid` in Docker's words."""
    number = parse_number(text)
    if number > _HIGHEST:
        raise Invalid(f"Invalid signal: {text}")
    return number


def check_supported(number: int) -> None:
    """Raises `Invalid` for a number above the kernel's; `kill` tells that after it has looked at the container."""
    if number > _HIGHEST:
        raise Invalid(f"The linux daemon does not support signal {number}")


def parse_number(text: str) -> int:
    """As `parse_signal`, but any number above zero passes."""
    name = text.strip().upper()
    if name.isascii() and name.isdecimal():
        number = int(name[:10])
        if number < 1:
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
