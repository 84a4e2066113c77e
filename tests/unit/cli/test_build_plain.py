"""`--progress plain`: events in, BuildKit's lines out (expected texts are from its documented look)."""

from __future__ import annotations

import base64

import msgspec

from sampan.cli.build.plain import PlainProgress, SolveStatus

_T = "2026-01-01T00:00:0"


def _feed(progress: PlainProgress, **lists: list[dict[str, object]]) -> str:
    return progress.feed(msgspec.convert(lists, SolveStatus))


def _vertex(digest: str, name: str, **fields: object) -> dict[str, object]:
    return {"digest": digest, "name": name, "started": _T + "1Z", **fields}


def _log(digest: str, data: bytes, at: str = "1.123Z") -> dict[str, object]:
    return {"vertex": digest, "data": base64.b64encode(data).decode(), "timestamp": _T + at}


def test_a_step_is_shown_with_its_output_and_how_long_it_took() -> None:
    progress = PlainProgress()
    text = _feed(progress, vertexes=[_vertex("a", "[2/4] RUN make")])
    text += _feed(progress, logs=[_log("a", b"cc -c x.c\nhal")])
    text += _feed(progress, logs=[_log("a", b"f\n", "1.5Z")])
    text += _feed(progress, vertexes=[_vertex("a", "[2/4] RUN make", completed=_T + "2.2Z")])
    assert text == "#1 [2/4] RUN make\n#1 0.123 cc -c x.c\n#1 0.500 half\n#1 DONE 1.2s\n\n"


def test_a_cached_step_and_a_failed_one_say_so() -> None:
    done = _T + "1Z"
    text = _feed(
        PlainProgress(),
        vertexes=[
            _vertex("a", "[1/2] WORKDIR /x", completed=done, cached=True),
        ],
    )
    assert text == "#1 [1/2] WORKDIR /x\n#1 CACHED\n\n"
    failed = _vertex("b", "[2/2] RUN false", completed=done, error="exit code: 1")
    assert _feed(PlainProgress(), vertexes=[failed]) == "#1 [2/2] RUN false\n#1 ERROR: exit code: 1\n\n"


def test_steps_at_the_same_time_are_told_apart_and_keep_their_numbers() -> None:
    progress = PlainProgress()
    _feed(progress, vertexes=[_vertex("a", "[a 1/1] RUN a")])
    assert _feed(progress, vertexes=[_vertex("b", "[b 1/1] RUN b")]) == "#1 ...\n\n#2 [b 1/1] RUN b\n"
    assert _feed(progress, logs=[_log("a", b"x\n")]) == "#2 ...\n\n#1 [a 1/1] RUN a\n#1 0.123 x\n"


def test_output_and_names_cannot_give_orders_to_the_terminal() -> None:
    progress = PlainProgress()
    text = _feed(
        progress, vertexes=[_vertex("a", "RUN \x1b[2J")], logs=[_log("a", b"\x1b]0;title\x07\tz\r\n")]
    )
    assert text == "#1 RUN ?[2J\n#1 0.123 ?]0;title?\tz\n"


def test_a_last_line_without_end_is_shown_when_the_step_ends() -> None:
    progress = PlainProgress()
    _feed(progress, vertexes=[_vertex("a", "RUN x")], logs=[_log("a", b"tail")])
    text = _feed(progress, vertexes=[_vertex("a", "RUN x", completed=_T + "3Z")])
    assert text == "#1 2.000 tail\n#1 DONE 2.0s\n\n"
