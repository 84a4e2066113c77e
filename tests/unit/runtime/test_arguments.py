"""The command line's own notations: sizes and durations."""

from __future__ import annotations

import pytest

from sampan.errors import Invalid
from sampan.runtime.arguments import parser, seconds, size


@pytest.mark.parametrize(
    ("text", "value"),
    [("1024", 1024), ("64M", 64 << 20), ("64m", 64 << 20), ("2GiB", 2 << 30), ("10kb", 10240), ("-1", -1)],
)
def test_sizes_have_units_as_in_runc(text: str, value: int) -> None:
    assert size(text) == value


@pytest.mark.parametrize("text", ["", "M", "1X", "1.5.2M", "one"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="invalid size"):
        size(text)


@pytest.mark.parametrize(("text", "value"), [("5s", 5), ("250ms", 0.25), ("2m", 120), ("1h", 3600), ("3", 3)])
def test_durations_have_units(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0s", "-1s", "5 s", "soon"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="invalid duration"):
        seconds(text)


def test_every_command_of_runc_is_there() -> None:
    commands = (
        "create run start state kill delete exec ps list spec features pause resume update events checkpoint"
    )
    told = parser().format_help()
    assert [name for name in commands.split() if name not in told] == []
