"""The differential suite's power: what differs is found, what differs by chance is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.testing.differential.case import Case
from sampan.testing.differential.compare import Outcome, differences, json_differences
from sampan.testing.differential.normalise import Normaliser, without_numbers
from sampan.testing.differential.run import Side, run_case


def side(name: str, place: Path, command: str = "echo") -> Side:
    return Side(name, command, {"PATH": "/usr/bin:/bin"}, place / name)


def found(case: Case, place: Path, ours: str = "echo") -> list[str]:
    report = run_case(case, side("docker", place), side("sampan", place, ours), {})
    assert report.broken == []
    return report.found


def test_two_equal_sides_agree(tmp_path: Path) -> None:
    assert found(Case("equal", "all: {cli} a\nout: {cli} b | tr b c\ncode: exit 3"), tmp_path) == []


def test_another_output_is_found_and_shown_with_its_command_line(tmp_path: Path) -> None:
    assert found(Case("out", "out: {cli} a"), tmp_path, "echo more") == [
        "$ {cli} a",
        "    stdout: -a",
        "    stdout: +more a",
    ]


def test_another_exit_code_is_found(tmp_path: Path) -> None:
    assert found(Case("code", "code: {cli}"), tmp_path, "sh -c 'exit 4'")[1].startswith(
        "    exit code: 0 != 4"
    )


def test_standard_error_counts_where_all_is_compared(tmp_path: Path) -> None:
    loud = "sh -c 'echo err >&2; echo a'"
    assert found(Case("err", "out: {cli} a"), tmp_path, loud) == []
    assert found(Case("err", "all: {cli} a"), tmp_path, loud) == ["$ {cli} a", "    stderr: +err"]


def test_a_setup_that_fails_is_told_and_ends_the_case(tmp_path: Path) -> None:
    report = run_case(
        Case("broken", "setup: {cli} a\nout: {cli} b"),
        side("docker", tmp_path),
        side("sampan", tmp_path, "false"),
        {},
    )
    assert report.broken == ["sampan: {cli} a: 1: "] and report.found == []


@pytest.mark.parametrize("text", ["run: {cli}", "{cli} a", "out {cli}"])
def test_a_line_without_a_kind_is_no_step(text: str) -> None:
    with pytest.raises(ValueError, match="does not begin with one of"):
        _ = Case("wrong", text).steps


def test_a_line_goes_on_after_a_backslash() -> None:
    assert [step.line for step in Case("long", "out: a \\\n    b\ncode: c").steps] == ["a b", "c"]


@pytest.mark.parametrize(
    ("expected", "given", "told"),
    [
        ({"a": 1}, {}, "a: missing, 1 expected"),
        ({}, {"a": 1}, "a: 1 not expected"),
        ({"a": None}, {"a": []}, "a: null != []"),
        ({"a": []}, {"a": {}}, "a: [] != {}"),
        ({"a": 0}, {"a": False}, "a: 0 != false"),
        ({"a": {"b": [1]}}, {"a": {"b": [2]}}, "a.b[0]: 1 != 2"),
        ([1, 2], [2], ": -1"),
    ],
)
def test_every_kind_of_difference_in_json_is_found(expected: object, given: object, told: str) -> None:
    assert json_differences(expected, given, {}) == [told]


def test_ignored_fields_are_ignored_in_lists_of_any_length() -> None:
    assert json_differences([{"a": 1, "t": 1}], [{"a": 1, "t": 2}], {"[[]].t": "when"}) == []
    assert json_differences([{"t": 1}, {"t": 2}], [{"t": 3}], {"[[]].t": "when"}) == [": -{}"]


def test_output_that_is_no_json_is_compared_as_text() -> None:
    assert differences("json", Outcome(0, "x", ""), Outcome(0, "x", ""), {}) == []
    assert differences("json", Outcome(0, "x", ""), Outcome(0, "{}", ""), {}) != []


def test_what_differs_from_run_to_run_is_made_equal() -> None:
    normalise = Normaliser({"10.9.8": "<net>", "/tmp/root": "<engine>"})
    text = (
        f"{'ab12' * 16} 0123456789ab 2026-11-25T00:31:18.123Z 02:42:0a:09:08:05 10.9.8.7 10.9.8.1 /tmp/root/x"
    )
    assert normalise(text) == "<id> <short id> <time> <mac> <address> <net>.1 <engine>/x"
    assert (
        normalise("Up 3 seconds, Exited (1) 2 seconds ago") == "Up <short time>, Exited (1) <short time> ago"
    )


def test_words_and_numbers_that_are_no_identifiers_stay() -> None:
    assert Normaliser()("deadbeef 1234567890123 feed") == "deadbeef 1234567890123 feed"


def test_the_shape_of_a_listing_has_no_numbers_and_no_widths() -> None:
    assert without_numbers("a      1.5MiB / 64MiB   0.1%") == without_numbers("a  20kB / 1GiB  12%")
    assert without_numbers("a 1") != without_numbers("b 1")
