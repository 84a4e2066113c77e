"""Strangers' text made safe for a terminal, and its width there."""

from __future__ import annotations

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cli.build.text import fit, pad, plain, width


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "plain words"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("a\x1b[2J\x1b[Hb", "ab"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1$r\x1b\\x", "x"),
        ("\x9b31mx", "x"),
        ("\x1b(0x", "x"),
        ("never ends \x1b]0;", "never ends "),
        ("\x1b", ""),
        ("10%\r50%\r100%\r", "100%"),
        ("bell\x07", "bell?"),
        ("evil\u202egnp.exe", "evilgnp.exe"),
        ("tab\there", "tab\there"),
    ],
)
def test_orders_to_the_terminal_are_taken_out(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_whatever_comes_moves_no_cursor_but_forward(text: str) -> None:
    screen = pyte.Screen(400, 4)
    # Not at a line's start, where no text of a build's stands: there pyte puts a combining mark onto the line above.
    pyte.Stream(screen).feed("first\r\n|" + fit(plain(text), 200))
    assert screen.display[0].rstrip() == "first"
    assert screen.cursor.y == 1
    assert screen.title == ""


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("🚢", 2), ("ｆ", 2), ("\u200b", 0)]
)
def test_width_is_counted_in_columns(text: str, columns: int) -> None:
    assert width(text) == columns


@given(st.text(max_size=40), st.integers(min_value=0, max_value=60))
def test_what_is_fitted_is_never_wider(text: str, columns: int) -> None:
    assert width(fit(plain(text), columns)) <= columns


def test_a_cut_shows_and_never_halves_a_wide_character() -> None:
    assert fit("abcdefghijkl", 10) == "abcdefg..."
    assert fit("日本語日本語", 10) == "日本語..."
    assert pad("日本", 6) == "日本  "
