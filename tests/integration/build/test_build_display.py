"""What a person sees of a build on a terminal, frame by frame (pyte), with a real engine behind it."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pyte
import pytest

from sampan.testing.terminal import on_terminal

pytestmark = pytest.mark.root

# Each of the two waits for the other: they end only when both run at once.
MEETING = """\
FROM busybox AS one
RUN --mount=type=cache,id=meeting-{salt},target=/m \
 touch /m/one; echo one waits; until test -e /m/two; do sleep 0.1; done; sleep 0.5; touch /one
FROM busybox AS two
RUN --mount=type=cache,id=meeting-{salt},target=/m \
 touch /m/two; printf 'two \\033[31mwaits\\033[2J\\n'; until test -e /m/one; do sleep 0.1; done; sleep 0.5; touch /two
FROM busybox
COPY --from=one /one /
COPY --from=two /two /
"""
ROWS, COLUMNS = 30, 90


def _frames(seen: bytes) -> list[list[str]]:
    """The screen after every frame; they begin and end with a switch of synchronised output."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    frames = []
    for piece in seen.split(b"\x1b[?2026l"):
        stream.feed(piece)
        frames.append([line.rstrip() for line in screen.display if line.strip()])
    assert not screen.cursor.hidden
    return frames


def test_steps_of_two_stages_are_seen_at_work_at_the_same_time(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(MEETING.format(salt=tmp_path.name))
    arguments = ("build", "-t", "meeting", str(tmp_path))
    with on_terminal(sampan.engine.environment, *arguments, rows=ROWS, columns=COLUMNS) as terminal:
        assert terminal.finish() == 0
    frames = _frames(terminal.seen)
    both = [frame for frame in frames if " => => # one waits" in frame and " => => # two waits" in frame]
    assert both
    assert all(sum("[+] Building" in line for line in frame) == 1 for frame in frames)
    last = frames[-1]
    assert last[0].endswith("FINISHED")
    assert not any("waits" in line for line in last if line.startswith(" => =>"))
    assert any("0 of 4 steps cached" in line for line in last)
    assert any(line.endswith("named meeting") or "sha256:" in line for line in last)

    with on_terminal(sampan.engine.environment, *arguments, rows=ROWS, columns=COLUMNS) as terminal:
        assert terminal.finish() == 0
    last = _frames(terminal.seen)[-1]
    assert sum(line.startswith(" => CACHED [") for line in last) == 4
    assert any("4 of 4 steps cached" in line for line in last)


def test_an_interrupted_build_says_so_and_gives_the_terminal_back(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo begun; sleep 300\n")
    arguments = ("build", "--no-cache", str(tmp_path))
    with on_terminal(sampan.engine.environment, *arguments, rows=ROWS, columns=COLUMNS) as terminal:
        terminal.read_until(b"# begun")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.finish() == 130
    assert any(line.startswith(" => CANCELED [2/2] RUN echo begun") for line in _frames(terminal.seen)[-1])


def test_a_build_that_is_told_to_end_says_so_in_a_log(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo begun; sleep 300\n")
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        with sampan.start("build", "--no-cache", "--progress", "plain", str(tmp_path)) as build:
            said = b""
            while not said.endswith(b" begun\n"):
                line = build.stderr.readline()
                assert line, said
                said += line
            build.send_signal(number)
            _, rest = build.communicate(timeout=30)
            assert build.returncode == status
        *_, cancelled, word = rest.decode().splitlines()
        assert cancelled.endswith(" CANCELED")
        assert word == "ERROR: failed to solve: Canceled: context canceled"


def test_an_interrupted_delivery_leaves_nothing(sampan: Any, tmp_path: Path) -> None:
    context, place = tmp_path / "context", tmp_path / "place"
    context.mkdir()
    place.mkdir()
    (context / "Dockerfile").write_text("FROM busybox\nRUN dd if=/dev/zero of=/large bs=1M count=300\n")
    with sampan.start("build", "-o", str(place / "out"), str(context)) as build:
        deadline = time.monotonic() + 60
        while not list(place.glob(".*/large")):  # nobody tells when a delivery has begun
            assert time.monotonic() < deadline and build.poll() is None
            time.sleep(0.005)
        build.send_signal(signal.SIGTERM)
        build.communicate(timeout=30)
        assert build.returncode == 143
    assert list(place.iterdir()) == []
