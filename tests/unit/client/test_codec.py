from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.client import codec

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_read_back_and_is_what_json_reads(value: object) -> None:
    text = codec.dumps(value)
    assert codec.loads(text) == value == json.loads(text)


@pytest.mark.parametrize("text", ["", "{", "[1,]", "nul", '{"a" 1}', "1 2", "NaN", '"\\x"', "[" * 100_000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        codec.loads(text)


def test_indentation_is_gos() -> None:
    value = [{"a": [], "b": {}, "c": [1, "<ü>"]}]
    assert codec.pretty(value) == (
        '[\n    {\n        "a": [],\n        "b": {},\n        "c": [\n            1,\n            "<ü>"\n'
        "        ]\n    }\n]"
    )


def test_documents_are_found_however_the_stream_is_cut() -> None:
    stream = b'{"a": 1}\r\n{"b": "x"}{"c": 2}\n\n{"d": 3}'
    for cut in range(len(stream)):
        decoder = codec.StreamDecoder()
        found = decoder.feed(stream[:cut]) + decoder.feed(stream[cut:]) + decoder.finish()
        assert found == [{"a": 1}, {"b": "x"}, {"c": 2}, {"d": 3}]
