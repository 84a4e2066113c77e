"""Sizes, durations and times as Docker reads and writes them (go-units and Go's `time`)."""

from __future__ import annotations

import time

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
_SIZE_UNITS = "bkmgtp"
_DURATION_UNITS = (
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
)
_MAX_INT64 = (1 << 63) - 1


def human_size(size: float, precision: int = 4) -> str:
    """Decimal units with significant digits: 1234567 -> "1.235MB" (Docker lists sizes with three digits)."""
    return _scaled(float(size), 1000.0, _DECIMAL, precision)


def binary_size(size: float) -> str:
    """Binary units: 536870912 -> "512MiB"."""
    return _scaled(float(size), 1024.0, _BINARY, 4)


def _scaled(size: float, base: float, units: tuple[str, ...], precision: int) -> str:
    index = 0
    while size >= base and index < len(units) - 1:
        size /= base
        index += 1
    text = f"{size:.{precision}g}"
    if "e" in text:
        text = f"{float(text):.0f}"
    return text + units[index]


def parse_size(text: str, base: int = 1024) -> int:
    """Bytes of "512m", "1.5GiB", "100"; units are binary unless `base` is 1000. Raises `ValueError`."""
    error = ValueError(f"invalid size: '{text}'")
    number = text.rstrip("bBkKmMgGtTpPiI ")
    suffix = text[len(number) :].removeprefix(" ").lower()
    digits = number.replace(".", "", 1)
    if not digits.isascii() or not digits.isdigit() or not number[0].isdigit() or number.endswith("."):
        raise error
    unit = suffix[:1] or "b"
    known = unit in _SIZE_UNITS and suffix in ("", "b", unit, unit + "b", unit + "ib")
    if not known or (unit == "b" and len(suffix) > 1):
        raise error
    factor = base ** _SIZE_UNITS.index(unit)
    size = int(number) * factor if "." not in number else int(float(number) * factor)
    if size >= 1 << 63:  # no engine could hold it
        raise error
    return size


def parse_duration(text: str) -> int:
    """Nanoseconds of Go's duration syntax: "1h30m", "1.5s", "-10ms", "0". Raises `ValueError`."""
    invalid = ValueError(f'time: invalid duration "{text}"')
    rest = text.lstrip("+-") if text[:1] in ("+", "-") else text
    sign = -1 if text.startswith("-") else 1
    if rest == "0":
        return 0
    if not rest:
        raise invalid
    total = 0
    while rest:
        end = 0
        while end < len(rest) and (rest[end].isdigit() or rest[end] == "."):
            end += 1
        number, rest = rest[:end], rest[end:]
        if not number.replace(".", "", 1).isdigit():
            raise invalid
        end = 0
        while end < len(rest) and not rest[end].isdigit() and rest[end] != ".":
            end += 1
        unit, rest = rest[:end], rest[end:]
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        factor = dict(_DURATION_UNITS).get(unit)
        if factor is None:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        whole, _, fraction = number.partition(".")
        total += int(whole or "0") * factor
        if fraction:
            total += int(fraction) * factor // 10 ** len(fraction)
    if total > _MAX_INT64:
        raise invalid
    return sign * total


def human_duration(seconds: float) -> str:
    """An approximate duration for people: "About a minute", "3 hours"."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = int(seconds / 60)
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    for limit, unit_hours, name in (
        (24 * 14, 24, "days"),
        (24 * 60, 24 * 7, "weeks"),
        (24 * 730, 720, "months"),
    ):
        if hours < limit:
            return f"{hours // unit_hours} {name}"
    return f"{int(seconds / 3600 / 24 / 365)} years"


def ago(timestamp: float, now: float | None = None) -> str:
    """ "2 hours ago" for seconds since 1970."""
    return human_duration((time.time() if now is None else now) - timestamp) + " ago"


def parse_rfc3339(text: str) -> tuple[int, int]:
    """(seconds since 1970, nanoseconds) of an RFC 3339 time. Raises `ValueError`."""
    date, separator, clock = text.partition("T")
    if not separator or len(date) != 10:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    offset = 0
    if clock[-1:] in ("Z", "z"):
        clock = clock[:-1]
    else:
        index = max(clock.rfind("+"), clock.rfind("-"))
        if index > 0:
            zone = clock[index + 1 :]
            offset = (int(zone[:2]) * 3600 + int(zone[-2:]) * 60) * (-1 if clock[index] == "-" else 1)
            clock = clock[:index]
    hms, _, fraction = clock.partition(".")
    hour, minute, second = (int(part) for part in hms.split(":"))
    days = days_since_epoch(int(date[:4]), int(date[5:7]), int(date[8:10]))
    nanoseconds = int(fraction[:9].ljust(9, "0")) if fraction else 0
    return days * 86400 + hour * 3600 + minute * 60 + second - offset, nanoseconds


def days_since_epoch(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 in the proleptic Gregorian calendar (what `calendar.timegm` would import much for)."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468


def local_time(seconds: int, layout: str = "%Y-%m-%d %H:%M:%S %z %Z") -> str:
    """The time in the local zone, by default as Go prints one: "2024-01-02 03:04:05 +0000 UTC"."""
    return time.strftime(layout, time.localtime(seconds))


def local_rfc3339(seconds: int, nanoseconds: int = 0) -> str:
    """RFC 3339 with nanoseconds in the local zone, as `docker events` prints times."""
    zone = time.strftime("%z", time.localtime(seconds))
    zone = "Z" if zone == "+0000" and time.localtime(seconds).tm_zone == "UTC" else f"{zone[:3]}:{zone[3:]}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds)) + f".{nanoseconds:09d}{zone}"
