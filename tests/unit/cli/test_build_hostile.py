"""Whatever an engine sends as the progress of a build: no display fails, and none writes beyond its terminal."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.cli.build.explain import as_json, note_reasons
from sampan.cli.build.failed import build_failed
from sampan.cli.build.frame import final_frame, running_frame
from sampan.cli.build.plain import PlainProgress
from sampan.cli.build.show import summary_text
from sampan.cli.build.status import SolveStatus
from sampan.cli.build.steps import Steps
from sampan.cli.build.text import width

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_DIGEST = st.sampled_from(["a", "b", "c"]) | _JSON
_TIME = (
    st.sampled_from(["2026-01-01T00:00:01Z", "2026-01-01T00:00:09.5+01:00", "9999-99-99T99:99:99Z"]) | _JSON
)
_TEXT = (
    st.sampled_from(["[1/2] RUN x", "\x1b[2J\x1b]0;t\x07", "日本\u202e語", "a\nb\rc", "eA==", "="]) | _JSON
)
_COUNT = st.sampled_from([0, 7, 10**6, 10**400, -1]) | _JSON


def _object(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional=fields) | _JSON


_LISTS = {
    "vertexes": _object(digest=_DIGEST, name=_TEXT, started=_TIME, completed=_TIME, cached=_JSON, error=_TEXT),
    "statuses": _object(
        id=_TEXT, vertex=_DIGEST, name=_TEXT, current=_COUNT, total=_COUNT, started=_TIME, completed=_TIME,
        timestamp=_TIME,
    ),
    "logs": _object(vertex=_DIGEST, data=_TEXT, timestamp=_TIME),
    "warnings": _object(vertex=_DIGEST, short=_TEXT, detail=_JSON, sourceInfo=_JSON, range=_JSON),
}  # fmt: skip
_STATUS = st.fixed_dictionaries(
    {}, optional={name: st.lists(each, max_size=3) | _JSON for name, each in _LISTS.items()}
)


def _is_harmless(text: str) -> bool:
    return all(char.isprintable() or char in "\n\t" for char in text)


@settings(max_examples=60, deadline=None)
@given(st.lists(_STATUS, max_size=6), st.integers(1, 12), st.integers(1, 90))
def test_no_status_breaks_the_displays(messages: list[dict[str, Any]], rows: int, columns: int) -> None:
    plain, steps = PlainProgress(), Steps()
    for now, message in enumerate(messages):
        assert _is_harmless(plain.feed(SolveStatus(message), float(now)))
        steps.feed(SolveStatus(message), float(now))
        frame = running_frame(steps, now + 0.5, rows, now + 0.5)
        assert len(frame) <= rows
        for line in frame:
            text = line.render(columns, colour=False)
            assert width(text) <= columns
            assert _is_harmless(text)
    assert _is_harmless(plain.finish(99.0))
    assert _is_harmless(summary_text(steps, 1.0, "", []))
    for line in final_frame(steps, 99.0, 99.0, failed=True):
        assert width(line.render(columns, colour=False)) <= columns


@settings(max_examples=40, deadline=None)
@given(
    _STATUS,
    _object(
        message=_TEXT,
        code=_COUNT,
        sampan=_object(
            vertex=_DIGEST, file=_TEXT, line=_COUNT, lastLine=_COUNT, column=st.integers(-2, 50) | _JSON, hint=_TEXT,
            failure=_TEXT, excerpt=st.lists(_object(line=_COUNT, text=_TEXT), max_size=3) | _JSON,
        ),
    ),
    _object(explain=_object(vertex=_DIGEST, reasons=st.lists(_TEXT, max_size=3) | _JSON)),
)  # fmt: skip
def test_no_error_and_no_reason_breaks_what_is_told_of_it(
    status: dict[str, Any], detail: Any, more: Any
) -> None:
    steps = Steps()
    steps.feed(SolveStatus(status), 0.0)
    note_reasons(steps, more)
    as_json(steps, "")
    failed = build_failed({"error": "x", "errorDetail": detail}, steps)
    assert 0 < failed.status < 256
    assert _is_harmless(failed.told + failed.message + failed.hint)
