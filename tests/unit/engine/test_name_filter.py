from __future__ import annotations

import time

import pytest

from sampan.engine.name_filter import name_matches


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("web", "my-web-1", True),
        ("^web", "my-web-1", False),
        ("^/?web-[0-9]$", "/web-1", True),
        ("web|db", "db", True),
        ("we?b", "wb", True),
        ("(unclosed", "name(unclosed", True),
        ("other", "web", False),
    ],
)
def test_a_name_filter_is_a_search_for_a_regular_expression(pattern: str, name: str, expected: bool) -> None:
    assert name_matches(pattern, name) is expected


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*$", "a*a*a*a*a*a*a*a*b", "(a?){64}a{64}", "(.*)\\1\\1b"]
)
def test_a_pattern_made_to_take_for_ever_does_not(pattern: str) -> None:
    begin = time.process_time()
    name_matches(pattern, "a" * 128 + "!")
    assert time.process_time() - begin < 1
