"""`--progress plain`: events in, BuildKit's lines out (expected texts are from its documented look)."""

from __future__ import annotations

import base64

from sampan.cli.build.plain import PATIENCE, PlainProgress
from sampan.cli.build.status import SolveStatus

_T = "2026-01-01T00:00:0"
_MEGABYTE = 10**6


def _feed(progress: PlainProgress, now: float = 0.0, **lists: object) -> str:
    return progress.feed(SolveStatus(lists), now)


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
    assert text == "#1 [2/4] RUN make\n#1 0.123 cc -c x.c\n#1 0.500 half\n#1 DONE 1.2s\n"


def test_a_cached_step_a_failed_one_and_a_cancelled_one_say_so() -> None:
    done = _T + "1Z"
    progress = PlainProgress()
    text = _feed(progress, vertexes=[_vertex("a", "[1/2] WORKDIR /x", completed=done, cached=True)])
    assert text == "#1 [1/2] WORKDIR /x\n#1 CACHED\n"
    failed = _vertex("b", "[2/2] RUN false", completed=done, error="exit code: 1")
    assert _feed(progress, vertexes=[failed]) == "\n#2 [2/2] RUN false\n#2 ERROR: exit code: 1\n"
    cancelled = _vertex("c", "[x 2/2] RUN sleep", completed=done, error="build cancelled")
    assert _feed(progress, vertexes=[cancelled]) == "\n#3 [x 2/2] RUN sleep\n#3 CANCELED\n"


def test_a_step_at_the_same_time_waits_for_its_turn_and_keeps_its_number() -> None:
    progress = PlainProgress()
    _feed(progress, vertexes=[_vertex("a", "[a 1/1] RUN a")])
    assert _feed(progress, vertexes=[_vertex("b", "[b 1/1] RUN b")]) == ""
    assert _feed(progress, 1.0, logs=[_log("a", b"x\n")]) == "#1 0.123 x\n"
    assert progress.tick(PATIENCE) == "#1 ...\n\n#2 [b 1/1] RUN b\n"
    assert _feed(progress, PATIENCE, logs=[_log("a", b"y\n")]) == ""
    end = _feed(progress, PATIENCE, vertexes=[_vertex("b", "[b 1/1] RUN b", completed=_T + "3Z")])
    assert end == "#2 DONE 2.0s\n\n#1 [a 1/1] RUN a\n#1 0.123 y\n"


def test_nothing_that_waits_is_lost_at_the_end() -> None:
    progress = PlainProgress()
    _feed(progress, vertexes=[_vertex("a", "RUN a")])
    _feed(progress, vertexes=[_vertex("b", "RUN b")], logs=[_log("b", b"said\n")])
    assert progress.finish(0.1) == "#1 ...\n\n#2 RUN b\n#2 0.123 said\n"


def test_steps_that_a_failed_or_interrupted_build_leaves_are_told_as_cancelled() -> None:
    progress = PlainProgress()
    _feed(progress, vertexes=[_vertex("a", "RUN a")], logs=[_log("a", b"half a li")])
    _feed(progress, vertexes=[_vertex("b", "RUN b", completed=_T + "3Z")])
    _feed(progress, vertexes=[_vertex("c", "RUN c")])
    told = progress.finish(0.1, failed=True)
    assert told == ("#1 0.123 half a li\n#1 CANCELED\n\n#2 RUN b\n#2 DONE 2.0s\n\n#3 RUN c\n#3 CANCELED\n")


def test_output_and_names_cannot_give_orders_to_the_terminal() -> None:
    progress = PlainProgress()
    text = _feed(
        progress,
        vertexes=[_vertex("a", "RUN \x1b[2J\x07")],
        logs=[_log("a", b"\x1b]0;title\x07\tz\x1b[31mred\x1b[0m\r\n")],
    )
    assert text == "#1 RUN ?\n#1 0.123 \tzred\n"


def test_a_last_line_without_end_is_shown_when_the_step_ends() -> None:
    progress = PlainProgress()
    _feed(progress, vertexes=[_vertex("a", "RUN x")], logs=[_log("a", b"tail")])
    text = _feed(progress, vertexes=[_vertex("a", "RUN x", completed=_T + "3Z")])
    assert text == "#1 2.000 tail\n#1 DONE 2.0s\n"


def test_transfers_are_told_at_their_start_every_few_seconds_and_at_their_end() -> None:
    progress = PlainProgress()
    _feed(progress, vertexes=[_vertex("a", "[1/2] FROM x")])
    said = {"vertex": "a", "id": "ab12", "name": "Downloading", "started": _T + "1Z", "total": 4 * _MEGABYTE}

    def at(now: float, current: int, clock: str, **more: str) -> str:
        return _feed(progress, now, statuses=[{**said, "current": current, "timestamp": _T + clock, **more}])

    assert at(1.0, 0, "1Z") == "#1 ab12 Downloading 0B / 4MB\n"
    assert at(2.0, _MEGABYTE, "2Z") == ""
    assert at(6.5, 3 * _MEGABYTE, "6.5Z") == "#1 ab12 Downloading 3MB / 4MB 5.5s\n"
    assert at(7.0, 4 * _MEGABYTE, "7Z", completed=_T + "7Z") == "#1 ab12 Downloading 4MB / 4MB 6.0s done\n"
    assert at(7.1, 4 * _MEGABYTE, "7Z", completed=_T + "7Z") == ""
    assert progress.steps.moved == 4 * _MEGABYTE


def test_a_warning_is_shown_with_its_step() -> None:
    progress = PlainProgress()
    short = base64.b64encode(b"JSONArgsRecommended: use [] (line 3)").decode()
    warning = {
        "vertex": "a",
        "short": short,
        "sourceInfo": {"filename": "Dockerfile"},
        "range": [{"start": {"line": 3}}],
    }
    text = _feed(progress, vertexes=[_vertex("a", "[internal] load")], warnings=[warning])
    assert text == "#1 [internal] load\n#1 WARN: JSONArgsRecommended: use [] (line 3)\n"
    assert [(one.file, one.line) for one in progress.steps.warnings] == [("Dockerfile", 3)]


def test_what_is_malformed_is_left_out_and_ends_nothing() -> None:
    progress = PlainProgress()
    text = _feed(
        progress,
        vertexes=[7, {"digest": 1, "started": "yesterday"}, _vertex("a", "RUN a")],
        logs=[
            {"vertex": "a", "data": "a"},
            {"vertex": "a", "data": "é"},
            {"vertex": "nobody", "data": "eA=="},
        ],
        statuses="no list",
        warnings=[{"vertex": "a", "short": "=", "range": [{"start": 3}], "detail": 5}],
    )
    assert text.splitlines()[0] == "#1 RUN a"
    assert text.count("(output that can't be read)") == 2


def test_a_warning_that_comes_after_its_steps_end_leaves_no_step_open() -> None:
    progress = PlainProgress()
    _feed(progress, vertexes=[_vertex("a", "[internal] load", completed=_T + "1Z")])
    short = base64.b64encode(b"late").decode()
    assert (
        _feed(progress, warnings=[{"vertex": "a", "short": short}]) == "\n#1 [internal] load\n#1 WARN: late\n"
    )
    assert _feed(progress, vertexes=[_vertex("b", "RUN b")]) == "\n#2 RUN b\n"


def test_lines_of_the_two_streams_are_not_mixed() -> None:
    progress = PlainProgress()
    _feed(progress, vertexes=[_vertex("a", "RUN a")], logs=[_log("a", b"out ")])
    assert _feed(progress, logs=[{**_log("a", b"err\n"), "stream": 2}]) == "#1 0.123 err\n"
    assert _feed(progress, logs=[_log("a", b"put\n")]) == "#1 0.123 out put\n"


def test_a_step_that_begins_again_goes_on() -> None:
    # As BuildKit tells of a context: an interval without content, then those of its transfers.
    progress = PlainProgress()
    name = "[internal] load build context"
    began, again = _vertex("a", name, completed=_T + "1Z"), {**_vertex("a", name), "started": _T + "2Z"}
    assert _feed(progress, vertexes=[began, again]) == f"#1 {name}\n"
    text = _feed(progress, statuses=[{"vertex": "a", "id": "transferring context:", "name": "transferring"}])
    text += _feed(progress, vertexes=[{**again, "completed": _T + "3Z"}])
    assert text == "#1 transferring context:\n#1 DONE 2.0s\n"
