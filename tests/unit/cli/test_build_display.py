"""The terminal display of a build, seen on a terminal in memory (pyte)."""

from __future__ import annotations

import base64

import pyte

from sampan.cli.build.frame import final_frame, running_frame
from sampan.cli.build.screen import Screen
from sampan.cli.build.status import SolveStatus
from sampan.cli.build.steps import Steps

_T = "2026-01-01T00:00:0"


def _vertex(digest: str, name: str, **fields: object) -> dict[str, object]:
    return {"digest": digest, "name": name, "started": _T + "1Z", **fields}


def _log(digest: str, data: bytes) -> dict[str, object]:
    return {"vertex": digest, "data": base64.b64encode(data).decode(), "timestamp": _T + "2Z"}


def _steps(**lists: object) -> Steps:
    steps = Steps()
    steps.feed(SolveStatus(lists), 10.0)
    return steps


_TWO = {
    "vertexes": [
        _vertex("f", "[base 1/2] FROM debian", completed=_T + "1.4Z", cached=True),
        _vertex("a", "[base 2/2] RUN make"),
        _vertex("b", "[docs 2/3] RUN 文書を作る"),
        {"digest": "c", "name": "[docs 3/3] COPY . ."},
    ],
    "logs": [_log("a", b"cc one.c\ncc two.c\n"), _log("b", b"\x1b[2J\x1b]0;owned\x07page 1\rpage 2\n")],
}


class Terminal:
    def __init__(self, rows: int, columns: int) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=200)
        self._stream = pyte.Stream(self.screen)
        self._display = Screen(colour=False)
        self.size = rows, columns

    def show(self, steps: Steps, now: float = 12.0) -> list[str]:
        frame = running_frame(steps, now, self.size[0] - 1, now - 10.0)
        self._stream.feed(self._display.draw(frame, self.size))
        return self.lines

    def end(self, steps: Steps) -> list[str]:
        self._stream.feed(self._display.close(final_frame(steps, 13.0, 3.0, failed=False), self.size))
        return self.lines

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display if line.strip()]


def test_parallel_steps_show_their_times_and_the_end_of_their_output() -> None:
    terminal = Terminal(24, 60)
    assert terminal.show(_steps(**_TWO)) == [
        "[+] Building 2.0s (1/4)",
        " => CACHED [base 1/2] FROM debian                      0.4s",
        " => [base 2/2] RUN make                                2.0s",
        " => => # cc one.c",
        " => => # cc two.c",
        # pyte shows a wide character's second cell as an empty string.
        " => [docs 2/3] RUN 文書を作る                          2.0s",
        " => => # page 2",
    ]
    assert terminal.screen.title == ""
    # Whatever ends or stops the command now leaves a terminal that can be used.
    assert not terminal.screen.cursor.hidden


def test_the_next_frame_takes_the_place_of_the_last_one() -> None:
    terminal = Terminal(24, 60)
    steps = _steps(**_TWO)
    terminal.show(steps)
    done = [_vertex("a", "[base 2/2] RUN make", completed=_T + "3.5Z")]
    steps.feed(SolveStatus({"vertexes": done}), 13.0)
    lines = terminal.show(steps, 13.0)
    assert lines[0] == "[+] Building 3.0s (2/4)"
    assert " => [base 2/2] RUN make                                2.5s" in lines
    assert not any("cc two.c" in line for line in lines)
    assert len(lines) == 5


def test_nothing_is_written_when_nothing_has_changed_and_only_changed_lines_else() -> None:
    display = Screen(colour=False)
    steps = _steps(**_TWO)
    frame = running_frame(steps, 12.0, 23, 2.0)
    assert display.draw(frame, (24, 60))
    assert display.draw(frame, (24, 60)) == ""
    later = display.draw(running_frame(steps, 12.1, 23, 2.1), (24, 60))
    assert "FROM debian" not in later
    assert "\x1b[2J" not in later and "\x1b[J" not in later


def test_a_short_terminal_shows_what_goes_on_and_never_scrolls_the_frame_away() -> None:
    many = [_vertex(f"d{n}", f"[{n}/30] RUN echo {n}", completed=_T + "2Z") for n in range(30)]
    steps = _steps(vertexes=[*many, _vertex("z", "[30/30] RUN last")], logs=[_log("z", b"working\n")])
    terminal = Terminal(8, 60)
    for tick in range(5):
        lines = terminal.show(steps, 12.0 + tick)
    assert lines[0].startswith("[+] Building 6.0s (30/31)")
    assert any("RUN last" in line for line in lines)
    assert " => => # working" in lines
    assert not terminal.screen.history.top


def test_a_narrow_terminal_cuts_lines_and_leaves_times_out() -> None:
    terminal = Terminal(24, 20)
    lines = terminal.show(_steps(**_TWO))
    assert lines[0] == "[+] Building 2.0..."
    assert " => [base 2/2] R..." in lines
    assert all(len(line) < 20 for line in lines)


def test_a_resized_terminal_is_drawn_anew() -> None:
    steps = _steps(**_TWO)
    terminal = Terminal(24, 60)
    terminal.show(steps)
    terminal.screen.resize(24, 80)
    terminal.size = 24, 80
    lines = terminal.show(steps)
    assert sum("[+] Building" in line for line in lines) == 1
    assert " => [base 2/2] RUN make" + " " * 52 + "2.0s" in lines


def test_at_the_end_every_step_stays_in_the_scroll_back() -> None:
    many = [_vertex(f"d{n}", f"[{n}/30] RUN echo {n}", completed=_T + "2Z") for n in range(30)]
    steps = _steps(vertexes=many)
    terminal = Terminal(8, 60)
    terminal.show(steps)
    terminal.end(steps)
    assert not terminal.screen.cursor.hidden
    rows = ["".join(row[x].data for x in range(60)) for row in terminal.screen.history.top] + terminal.lines
    assert sum("FINISHED" in row for row in rows) == 1
    assert [n for n in range(30) if sum(f"RUN echo {n} " in row for row in rows) != 1] == []


def test_colours_are_there_only_when_they_are_wanted() -> None:
    frame = running_frame(_steps(**_TWO), 12.0, 23, 2.0)
    assert "\x1b[32m" in Screen(colour=True).draw(frame, (24, 60))
    plain = Screen(colour=False).draw(frame, (24, 60))
    assert "m" not in {part.lstrip("0123456789;")[:1] for part in plain.split("\x1b[")[1:]}


def test_transfers_show_how_far_they_are() -> None:
    status = {
        "vertex": "f", "id": "ab12", "name": "Downloading", "current": 1_500_000, "total": 3_000_000,
        "started": _T + "1Z", "timestamp": _T + "2Z",
    }  # fmt: skip
    steps = _steps(vertexes=[_vertex("f", "[1/1] FROM debian")], statuses=[status])
    assert Terminal(24, 60).show(steps)[2] == " => => ab12 Downloading               50%  1.5MB / 3MB 1.0s"


def test_steps_that_were_given_up_are_called_cancelled_at_the_end() -> None:
    terminal = Terminal(24, 60)
    steps = _steps(**_TWO)
    terminal.show(steps)
    assert " => CANCELED [base 2/2] RUN make                       3.0s" in terminal.end(steps)
