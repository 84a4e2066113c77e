"""Filters of lists and prunes as the Engine API has them. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from sampan.errors import Invalid

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|ns)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def check_filters(filters: Mapping[str, Sequence[str]], known: Iterable[str]) -> None:
    """Raises `Invalid` for a filter that this list does not have."""
    for name in filters:
        if name not in known:
            raise Invalid(f"invalid filter '{name}'")


def label_matches(labels: Mapping[str, str], filters: Mapping[str, Sequence[str]]) -> bool:
    """Every `label` must be there, no `label!` may."""
    if not all(_has_label(labels, wanted) for wanted in filters.get("label", ())):
        return False
    return not any(_has_label(labels, unwanted) for unwanted in filters.get("label!", ()))


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def parse_duration(text: str) -> float:
    """Go's durations (`1h30m`, `10s`) in seconds. Raises `Invalid`."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise Invalid(f"invalid duration {text!r}")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def parse_time(text: str) -> int:
    """A moment as the API takes it, in nanoseconds since the epoch.

    Seconds since the epoch with an optional fraction, an RFC 3339 time or its beginning (UTC where no zone is
    given), or a duration before now. Raises `Invalid`.
    """
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        whole, _, fraction = text.partition(".")
        return int(whole) * 1_000_000_000 + int((fraction or "0").ljust(9, "0")[:9])
    if _DURATION.match(text) and "T" not in text:
        return time.time_ns() - int(parse_duration(text) * 1e9)
    fraction_match = re.search(r"\.(\d+)", text)
    nanoseconds = int(fraction_match[1].ljust(9, "0")[:9]) if fraction_match else 0
    plain = re.sub(r"\.\d+", "", text)
    try:
        moment = datetime.fromisoformat(plain)
    except ValueError:
        raise Invalid(f"invalid time {text!r}: expected seconds since 1970, RFC 3339 or a duration") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000 + nanoseconds
