"""Times that people type for --since and --until: a date, seconds since 1970, or a duration back from now."""

from __future__ import annotations

import time

from sampan.cli import units


def to_timestamp(text: str, now: float | None = None) -> str:
    """The API's form, "SECONDS.NANOSECONDS". Raises `ValueError`."""
    try:
        back = units.parse_duration(text)
    except ValueError:
        back = None
    if back is not None and text != "0":
        instant = int((time.time() if now is None else now) * 1e9) - back
        return f"{instant // 10**9}.{instant % 10**9:09d}"
    if "-" in text:
        return _from_date(text)
    seconds, _, fraction = text.partition(".")
    if not seconds.isdigit() or (fraction and not fraction.isdigit()):
        raise ValueError(f'failed to parse value as time or duration: "{text}"')
    return text


def _from_date(text: str) -> str:
    """A date with as much of the time as is given; without a zone it is local time."""
    date, _, clock = text.partition("T")
    zone = ""
    if clock.endswith("Z"):
        clock, zone = clock[:-1], "Z"
    elif "+" in clock or "-" in clock:
        index = max(clock.rfind("+"), clock.rfind("-"))
        clock, zone = clock[:index], clock[index:]
    parts = clock.split(":") if clock else []
    clock = ":".join([*parts, *["00"] * (3 - len(parts))])
    try:
        seconds, nanoseconds = units.parse_rfc3339(f"{date}T{clock}{zone or 'Z'}")
        if not zone:
            seconds = _local(date, clock)
    except ValueError:
        raise ValueError(f'failed to parse value as time or duration: "{text}"') from None
    return f"{seconds}.{nanoseconds:09d}"


def _local(date: str, clock: str) -> int:
    year, month, day = (int(part) for part in date.split("-"))
    hour, minute, second = (int(part) for part in clock.partition(".")[0].split(":"))
    return int(time.mktime((year, month, day, hour, minute, second, 0, 0, -1)))
