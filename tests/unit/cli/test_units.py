"""Expected values: go-units' and Go's own."""

from __future__ import annotations

import pytest

from sampan.cli import times, units


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (1984000, "1.984MB"), (123456789, "123.5MB"), (10**12, "1TB")],
)
def test_decimal_sizes(size: int, text: str) -> None:
    assert units.human_size(size) == text


def test_lists_show_three_digits() -> None:
    assert units.human_size(1984000, 3) == "1.98MB"
    assert units.human_size(74_043_000, 3) == "74MB"


@pytest.mark.parametrize(("size", "text"), [(0, "0B"), (1024, "1KiB"), (25276993536, "23.54GiB")])
def test_binary_sizes(size: int, text: str) -> None:
    assert units.binary_size(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("32", 32),
        ("32b", 32),
        ("32k", 32768),
        ("32KB", 32768),
        ("32kib", 32768),
        ("1.5g", 1610612736),
        ("2 MB", 2097152),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["9000000000g", "", "x", "-1", "1.", ".5k", "1x", "1kbb", "1 2", "12ib"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("10s", 10**10),
        ("1h30m", 5400 * 10**9),
        ("1.5s", 1_500_000_000),
        ("100ms", 10**8),
        ("-2us", -2000),
        ("0", 0),
    ],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert units.parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", 'time: invalid duration "x"'),
        ("10", 'time: missing unit in duration "10"'),
        ("10y", 'time: unknown unit "y" in duration "10y"'),
    ],
)
def test_bad_durations_are_named_in_gos_words(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="time") as caught:
        units.parse_duration(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (2 * 365 * 86400, "2 years"),
    ],
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert units.human_duration(seconds) == text


def test_times_are_read_with_zone_and_fraction() -> None:
    assert units.parse_rfc3339("1970-01-02T00:00:01.5Z") == (86401, 500_000_000)
    assert units.parse_rfc3339("2000-03-01T02:00:00+02:00") == (951868800, 0)
    assert units.parse_rfc3339("0001-01-01T00:00:00Z") == (-62135596800, 0)


def test_since_takes_dates_seconds_and_durations() -> None:
    assert times.to_timestamp("42m", now=10_000.0) == "7480.000000000"
    assert times.to_timestamp("1700000000.5") == "1700000000.5"
    assert times.to_timestamp("2013-01-02T13:23:37Z") == "1357133017.000000000"
    with pytest.raises(ValueError, match="failed to parse value as time or duration"):
        times.to_timestamp("foo")
