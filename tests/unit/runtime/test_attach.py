from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.runtime.attach import DetachKeys

CTRL_P_Q = b"\x10\x11"


@pytest.mark.parametrize(
    ("keys", "pieces", "passed", "detached"),
    [
        (CTRL_P_Q, [b"ab\x10\x11cd"], b"ab", True),
        (CTRL_P_Q, [b"\x10", b"\x11"], b"", True),
        (CTRL_P_Q, [b"\x10", b"x"], b"\x10x", False),
        (CTRL_P_Q, [b"\x10\x10\x11"], b"\x10", True),
        (CTRL_P_Q, [b"\x11\x10"], b"\x11", False),
        (b"", [b"\x10\x11"], b"\x10\x11", False),
        (b"a", [b"xa"], b"x", True),
    ],
)
def test_the_key_sequence_is_found_over_pieces(
    keys: bytes, pieces: list[bytes], passed: bytes, detached: bool
) -> None:
    finder = DetachKeys(keys)
    result, ended = b"", False
    for piece in pieces:
        more, ended = finder.feed(piece)
        result += more
    assert (result, ended) == (passed, detached)


@given(st.binary(max_size=50).filter(lambda data: b"\x10" not in data), st.integers(1, 5))
def test_input_without_the_sequence_passes_unchanged(data: bytes, size: int) -> None:
    finder = DetachKeys(CTRL_P_Q)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert b"".join(finder.feed(piece)[0] for piece in pieces) == data
