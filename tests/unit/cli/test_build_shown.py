"""`sampan build` in front of engines made of canned answers: which language they speak, and what is shown where."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyte
import pytest

from sampan.cli.build.modes import CLASSIC, mode_of
from sampan.cli.catalog import find
from sampan.cli.failure import Failure
from sampan.testing.terminal import on_terminal

_ID = "sha256:" + "ab" * 32
_AT = "2026-01-01T00:00:0"
_STEP = {"digest": "d", "name": "[2/2] RUN make", "started": _AT + "1Z"}
_OUTPUT = {
    "vertex": "d", "stream": 1, "data": base64.b64encode(b"cc x.c\nx.c:1: bad\n").decode(), "timestamp": _AT + "2Z",
}  # fmt: skip
_GOOD = [
    {"vertexes": [_STEP]},
    {"logs": [_OUTPUT]},
    {"vertexes": [{**_STEP, "completed": _AT + "2.5Z"}]},
    {"aux": {"ID": _ID}},
]
_ERROR = "process did not complete successfully: exit code: 3"
_BAD = [
    {"vertexes": [_STEP]},
    {"logs": [_OUTPUT]},
    {"vertexes": [{**_STEP, "completed": _AT + "2.5Z", "error": _ERROR}]},
    {
        "error": _ERROR,
        "errorDetail": {
            "code": 3,
            "message": _ERROR,
            "sampan": {
                "vertex": "d", "file": "Dockerfile", "line": 2, "lastLine": 3, "column": 1,
                "excerpt": [
                    {"line": 1, "text": "FROM x"},
                    {"line": 2, "text": "RUN make \\"},
                    {"line": 3, "text": "  all"},
                    {"line": 4, "text": "CMD x"},
                ],
            },
        },
    },
]  # fmt: skip
_CLASSIC = [{"stream": "Step 1/1 : FROM x\n"}, {"aux": {"ID": _ID}}, {"stream": "Successfully built abab\n"}]


def _lines(messages: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\r\n" for message in messages)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "Dockerfile").write_text("FROM x\n")
    return directory


def _environment(server: Any, **more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("BUILDKIT_PROGRESS", "DOCKER_BUILDKIT")
    }
    return {**kept, "DOCKER_HOST": f"unix://{server.server_address}", **more}


def _build(
    server: Any, context: Path, messages: list[dict[str, Any]], *flags: str, **more: str
) -> subprocess.CompletedProcess[str]:
    server.answers[("POST", "/build")] = (200, _lines(messages))
    server.answers[("HEAD", "/_ping")] = (200, None)
    return subprocess.run(
        [sys.executable, "-m", "sampan.cli.main", "build", *flags, str(context)],
        capture_output=True,
        text=True,
        env=_environment(server, **more),
    )


@pytest.mark.parametrize(
    ("flag", "environment", "terminal", "mode"),
    [
        ("", {}, True, "tty"),
        ("", {"TERM": "dumb"}, True, "plain"),
        ("", {}, False, "plain"),
        ("", {"BUILDKIT_PROGRESS": "rawjson"}, True, "rawjson"),
        ("plain", {"BUILDKIT_PROGRESS": "rawjson"}, True, "plain"),
        ("auto", {"BUILDKIT_PROGRESS": "rawjson"}, True, "tty"),
        ("", {"DOCKER_BUILDKIT": "0"}, False, CLASSIC),
        ("", {"DOCKER_BUILDKIT": "0"}, True, "tty"),
        ("plain", {"DOCKER_BUILDKIT": "0"}, False, "plain"),
    ],
)
def test_the_way_of_display_follows_flag_environment_and_terminal(
    flag: str, environment: dict[str, str], terminal: bool, mode: str
) -> None:
    assert mode_of(flag, environment, quiet=False, terminal=terminal) == mode


def test_a_display_that_is_impossible_is_refused() -> None:
    with pytest.raises(Failure, match="not a terminal"):
        mode_of("tty", {}, quiet=False, terminal=False)
    with pytest.raises(Failure, match="invalid progress mode"):
        mode_of("", {"BUILDKIT_PROGRESS": "loud"}, quiet=False, terminal=True)


def test_plain_progress_goes_to_standard_error_and_ends_with_a_summary(
    engine_server: Any, context: Path
) -> None:
    done = _build(engine_server, context, _GOOD, "-t", "app")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("#1 [2/2] RUN make\n#1 1.000 cc x.c\n#1 1.000 x.c:1: bad\n#1 DONE 1.5s\n")
    assert done.stderr.endswith(f"0 of 1 steps cached\nImage {_ID} named app\n")
    assert "progress=rawjson" in engine_server.seen[-1][1]


def test_a_failed_step_is_told_with_its_output_and_its_place(engine_server: Any, context: Path) -> None:
    done = _build(engine_server, context, _BAD, "--progress", "quiet")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "------",
        " > [2/2] RUN make:",
        "1.000 cc x.c",
        "1.000 x.c:1: bad",
        "------",
        "Dockerfile:2",
        "--------------------",
        "   1 |     FROM x",
        "   2 | >>> RUN make \\",
        "   3 | >>>   all",
        "   4 |     CMD x",
        "--------------------",
        f"ERROR: {_ERROR}",
    ]


def test_rawjson_passes_the_status_lines_on(engine_server: Any, context: Path) -> None:
    done = _build(engine_server, context, _GOOD, "--progress", "rawjson")
    assert [json.loads(line) for line in done.stderr.splitlines()] == _GOOD[:3]


def test_quiet_prints_the_image_alone(engine_server: Any, context: Path) -> None:
    done = _build(engine_server, context, _GOOD, "-q")
    assert (done.stdout, done.stderr) == (f"{_ID}\n", "")


def test_output_that_can_not_be_written_is_told(engine_server: Any, context: Path) -> None:
    engine_server.answers[("POST", "/build")] = (200, _lines(_GOOD))
    engine_server.answers[("HEAD", "/_ping")] = (200, None)
    command = [sys.executable, "-m", "sampan.cli.main", "build", "-q", str(context)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=_environment(engine_server)
        )
    assert (done.returncode, done.stderr.count("no space left on device\n")) == (1, 1)
    assert "defect" not in done.stderr


def test_a_file_for_scripts_that_can_not_be_written_is_told_before_anything_is_built(
    engine_server: Any, context: Path
) -> None:
    for flag in ("--iidfile", "--metadata-file"):
        done = _build(engine_server, context, _GOOD, flag, f"{context}/none/x")
        assert (done.returncode, done.stderr) == (1, f"open {context}/none/x: no such file or directory\n")
        assert _build(engine_server, context, _GOOD, flag, str(context)).returncode == 1
    assert not [request for request in engine_server.seen if request[1].startswith("/build")]


def test_an_engine_that_speaks_the_classic_stream_is_understood(engine_server: Any, context: Path) -> None:
    done = _build(engine_server, context, _CLASSIC)
    sent, step, built = done.stdout.splitlines()
    assert sent.startswith("Sending build context to Docker daemon ")
    assert (step, built) == ("Step 1/1 : FROM x", "Successfully built abab")
    assert done.stderr == ""
    assert _build(engine_server, context, _CLASSIC, "-q").stdout == f"{_ID}\n"
    failed = [_CLASSIC[0], {"error": "no", "errorDetail": {"message": "no", "code": 7}}]
    done = _build(engine_server, context, failed, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "Step 1/1 : FROM x\nno\n")


def test_docker_buildkit_0_asks_for_the_classic_stream(engine_server: Any, context: Path) -> None:
    _build(engine_server, context, _CLASSIC, DOCKER_BUILDKIT="0")
    assert "progress" not in engine_server.seen[-1][1]


def test_a_terminal_shows_the_steps_and_gets_its_cursor_back(engine_server: Any, context: Path) -> None:
    engine_server.answers[("POST", "/build")] = (200, _lines(_BAD))
    engine_server.answers[("HEAD", "/_ping")] = (200, None)
    environment = _environment(engine_server, NO_COLOR="1")
    with on_terminal(environment, "build", str(context), rows=30, columns=70) as terminal:
        status = terminal.finish()
    screen = pyte.Screen(70, 30)
    pyte.ByteStream(screen).feed(terminal.seen)
    lines = [line.rstrip() for line in screen.display]
    assert status == 3
    assert lines[0].startswith("[+] Building 0.") and lines[0].endswith("(1/1) ERROR")
    assert lines[1] == " => ERROR [2/2] RUN make" + " " * 41 + "1.5s"
    assert lines[3] == " > [2/2] RUN make:"
    assert not screen.cursor.hidden
    assert b"\x1b[3" not in terminal.seen  # no colours


def test_nothing_of_the_display_stays_before_the_classic_stream(engine_server: Any, context: Path) -> None:
    engine_server.answers[("POST", "/build")] = (200, _lines(_CLASSIC))
    engine_server.answers[("HEAD", "/_ping")] = (200, None)
    with on_terminal(_environment(engine_server), "build", str(context), rows=30, columns=70) as terminal:
        assert terminal.finish() == 0
    screen = pyte.Screen(70, 30)
    pyte.ByteStream(screen).feed(terminal.seen)
    lines = [line.rstrip() for line in screen.display if line.strip()]
    assert lines[0].startswith("Sending build context to Docker daemon ")
    assert lines[1:] == ["Step 1/1 : FROM x", "Successfully built abab"]
    assert not screen.cursor.hidden


def test_build_debug_is_a_command_unless_a_directory_of_that_name_is_to_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name_of(*arguments: str) -> str:
        found = find("build", list(arguments))
        assert found is not None
        return found[0]

    monkeypatch.chdir(tmp_path)
    assert name_of("debug") == "build debug"
    (tmp_path / "debug").mkdir()
    assert name_of("debug") == "build"
    assert name_of("debug", "0c7be7d3b7a0") == "build debug"
    assert name_of("-t", "x", "debug") == "build"
