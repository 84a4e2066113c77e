"""A build's events as Docker's classic lines, and as BuildKit's status objects."""

from __future__ import annotations

import base64
import json

import msgspec
import pytest

from sampan.api import classic_build
from sampan.api.classic_build import ClassicBuild, Withheld
from sampan.api.solve_status import status_of
from sampan.build.events import (
    BuildEvent,
    BuildResult,
    StageOrder,
    StepNote,
    Vertex,
    VertexLog,
    VertexStatus,
    VertexWarning,
)
from sampan.oci.digest import Digest

VERTICES = [Digest(f"sha256:{number:064d}") for number in range(3)]
IMAGE = Digest("sha256:" + "ab" * 32)


class Reader:
    def __init__(self) -> None:
        self.classic = ClassicBuild()
        self.text = ""

    def hear(self, *events: BuildEvent) -> str:
        for event in events:
            self.text += "".join(str(message.get("stream", "")) for message in self.classic.feed(event))
        return self.text


def note(stage: int, text: str) -> StepNote:
    return StepNote(stage, VERTICES[stage], text, 1, 3)


def log(stage: int, data: bytes, stream: int = 1) -> VertexLog:
    return VertexLog(VERTICES[stage], stream, data)


def test_a_step_is_told_in_dockers_words() -> None:
    reader = Reader()
    reader.hear(
        StageOrder((0,)),
        Vertex(VERTICES[0], "[1/1] RUN x"),
        StepNote(0, VERTICES[0], "RUN x", 2, 5),
        Vertex(VERTICES[0], "[1/1] RUN x", started="2026-01-01T00:00:00Z"),
        StepNote(0, VERTICES[0], running="abc"),
        log(0, b"out\n"),
        StepNote(0, VERTICES[0], removed="abc"),
        StepNote(0, VERTICES[0], image=IMAGE),
        StepNote(0, VERTICES[0], cached=True),
        StepNote(0, VERTICES[0], image=""),
        BuildResult(IMAGE, ("me/app:latest",)),
        VertexWarning(VERTICES[1], "careful"),
    )
    assert reader.text.splitlines() == [
        "Step 2/5 : RUN x",
        " ---> Running in abc",
        "out",
        " ---> Removed intermediate container abc",
        f" ---> {'ab' * 6}",
        " ---> Using cache",
        " ---> ",
        f"Successfully built {'ab' * 6}",
        "Successfully tagged me/app:latest",
        "[Warning] careful",
    ]


def test_a_pull_is_a_status_with_its_progress() -> None:
    classic = ClassicBuild()
    told = classic.feed(VertexStatus("0123abcd", VERTICES[0], "Downloading", 5, 10))
    assert told == [
        {"status": "Downloading", "id": "0123abcd", "progressDetail": {"current": 5, "total": 10}}
    ]


def test_a_later_stage_is_heard_when_the_earlier_ones_have_ended() -> None:
    reader = Reader()
    reader.hear(StageOrder((0, 1, 2)), *(StepNote(stage, VERTICES[stage]) for stage in range(3)))
    assert reader.hear(log(2, b"third "), log(0, b"first "), log(1, b"second ")) == "first "
    assert reader.hear(StepNote(1, VERTICES[1], ended=True)) == "first "
    assert reader.hear(StepNote(0, VERTICES[0], ended=True)) == "first second third "
    assert reader.hear(log(2, b"now")).endswith("now")


def test_a_build_that_failed_tells_everything_in_order() -> None:
    reader = Reader()
    reader.hear(StageOrder((0, 1)), note(0, "a"), note(1, "b"))
    assert reader.text == "Step 1/3 : a\n"
    assert reader.classic.rest() == [{"stream": "Step 1/3 : b\n"}]


def test_what_is_kept_of_a_stage_is_bounded_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classic_build, "MAX_KEPT", 1000)
    reader = Reader()
    reader.hear(StageOrder((0, 1)), *(StepNote(stage, VERTICES[stage]) for stage in range(2)))
    reader.hear(log(1, b"x" * 700), log(1, b"y" * 700))
    reader.hear(StepNote(0, VERTICES[0], ended=True))
    assert reader.text == "x" * 700 + "[700 characters of output were left out here]\n"


def test_of_what_a_quiet_build_withholds_the_end_is_kept_and_the_rest_is_counted() -> None:
    withheld = Withheld(500)
    withheld.keep([{"stream": "a" * 200}, {"status": "Downloading", "id": "0123abcd"}])
    assert withheld.told() == [{"stream": "a" * 200}]
    withheld.keep([{"stream": "b" * 150}])
    assert withheld.told() == [
        {"stream": "[200 characters of output were left out here]\n"},
        {"stream": "b" * 150},
    ]


def test_a_character_that_comes_in_two_pieces_is_one_and_streams_do_not_mix() -> None:
    reader = Reader()
    euro = "€".encode()
    reader.hear(log(0, euro[:1]), log(0, b"e", 2), log(0, euro[1:]), log(0, euro[:2]))
    assert reader.text == "e€"
    reader.hear(Vertex(VERTICES[0], "x", completed="2026-01-01T00:00:00Z"))
    assert reader.text == "e€\ufffd"


def test_the_raw_stream_has_buildkits_form() -> None:
    def line(event: BuildEvent) -> object:
        return json.loads(msgspec.json.encode(status_of(event)))

    assert line(log(0, b"\xff")) == {
        "logs": [{"vertex": VERTICES[0], "stream": 1, "data": base64.b64encode(b"\xff").decode()}]
    }
    assert line(Vertex(VERTICES[0], "x", (VERTICES[1],), cached=True)) == {
        "vertexes": [{"digest": VERTICES[0], "name": "x", "inputs": [VERTICES[1]], "cached": True}]
    }
    assert line(VertexWarning(VERTICES[0], "short", line=3, file="Dockerfile")) == {
        "warnings": [
            {
                "vertex": VERTICES[0],
                "level": 1,
                "short": "c2hvcnQ=",
                "sourceInfo": {"filename": "Dockerfile"},
                "range": [{"start": {"line": 3}, "end": {"line": 3}}],
            }
        ]
    }
    assert line(BuildResult(IMAGE, ("a:b",))) == {"aux": {"ID": IMAGE, "Tags": ["a:b"]}}
    assert status_of(StageOrder((0,))) is None
