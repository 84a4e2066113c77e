"""Tables, progress, frames and detach keys."""

from __future__ import annotations

import io

import pytest

from sampan.cli.commands.ps import display_ports
from sampan.cli.failure import Failure
from sampan.cli.listing import print_listing
from sampan.cli.progress import ProgressDisplay, progress_bar, show_all
from sampan.cli.streams import FrameReader
from sampan.cli.table import align
from sampan.cli.template_functions import Record
from sampan.cli.terminal import DetachDetector, parse_detach_keys


def test_columns_are_as_wide_as_tabwriter_makes_them() -> None:
    # `docker volume ls`, byte for byte.
    assert align("DRIVER\tVOLUME NAME\nlocal\tv1\n") == "DRIVER    VOLUME NAME\nlocal     v1\n"


def test_a_column_ends_where_a_line_has_no_cell() -> None:
    assert align("a\tb\nx\nlonger than ten\tc", 1, 1) == "a b\nx\nlonger than ten c"


def test_a_table_template_has_headers() -> None:
    rows = [Record("c", {"ID": lambda: "1", "Names": lambda: "one"}, {"Label": lambda name: "v"})]
    out: list[str] = []
    print_listing(
        rows, r'table {{.ID}}\t{{.Label "com.x.my-key"}}', ("ID",), {"ID": "CONTAINER ID"}, write=out.append
    )
    assert out == ["CONTAINER ID   my key\n1              v\n"]


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ([{"PrivatePort": 80, "Type": "tcp"}], "80/tcp"),
        ([{"PrivatePort": 80 + n, "Type": "tcp"} for n in range(3)], "80-82/tcp"),
        ([{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}], "0.0.0.0:8080->80/tcp"),
        (
            [{"IP": "0.0.0.0", "PrivatePort": 80 + n, "PublicPort": 80 + n, "Type": "tcp"} for n in range(2)],
            "0.0.0.0:80-81->80-81/tcp",
        ),
        ([{"IP": "::", "PrivatePort": 80, "PublicPort": 81, "Type": "udp"}], "[::]:81->80/udp"),
    ],
)
def test_ports_are_shown_as_ranges(ports: list[dict[str, object]], text: str) -> None:
    assert display_ports(ports) == text


def test_frames_are_put_together_across_reads() -> None:
    reader = FrameReader()
    stream = b"\x01\0\0\0\0\0\0\x05hello" + b"\x02\0\0\0\0\0\0\x03err"
    frames: list[tuple[int, bytes]] = []
    for index in range(len(stream)):
        frames += reader.feed(stream[index : index + 1])
    assert frames == [(1, b"hello"), (2, b"err")]


def test_a_long_frame_is_given_in_parts() -> None:
    reader = FrameReader()
    size = 100_000
    frames = reader.feed(b"\x02\0\0\0" + size.to_bytes(4, "big") + bytes(40_000))
    frames += reader.feed(bytes(60_000) + b"\x01\0\0\0\0\0\0\x01x")
    assert {stream for stream, _ in frames[:-1]} == {2}
    assert sum(len(data) for _, data in frames[:-1]) == size
    assert frames[-1] == (1, b"x")


def test_detach_keys_are_found_across_reads() -> None:
    detector = DetachDetector(parse_detach_keys("ctrl-p,ctrl-q"))
    assert detector.feed(b"a\x10") == (b"a", False)
    assert detector.feed(b"b\x10\x10") == (b"\x10b\x10", False)
    assert detector.feed(b"\x11c") == (b"", True)


def test_bad_detach_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="Unknown character: 'ctrl-'"):
        parse_detach_keys("ctrl-")


def test_progress_bars_are_dockers() -> None:
    assert progress_bar(5_000_000, 10_000_000, 200) == "[" + "=" * 25 + ">" + " " * 25 + "]      5MB/10MB"
    assert progress_bar(5_000_000, 10_000_000, 80) == "     5MB/10MB"
    assert progress_bar(12, 0, 200) == "     12B"


MESSAGES = [
    {"status": "Pulling from library/x", "id": "latest"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "aa"},
    {"status": "Downloading", "progressDetail": {"current": 1, "total": 2}, "id": "aa"},
    {"status": "Pull complete", "progressDetail": {}, "id": "aa"},
    {"status": "Status: Downloaded"},
]


def test_without_a_terminal_there_are_lines_and_no_bars() -> None:
    out = io.StringIO()
    show_all(MESSAGES, out)
    assert out.getvalue() == (
        "latest: Pulling from library/x\naa: Pulling fs layer\naa: Pull complete\nStatus: Downloaded\n"
    )


def test_on_a_terminal_a_layers_line_is_rewritten() -> None:
    out = io.StringIO()
    display = ProgressDisplay(out, terminal=True, width=200)
    for message in MESSAGES[1:4]:
        display.show(message)
    text = out.getvalue()
    assert text.count("\n") == 1
    assert text.startswith("\n\x1b[1A\x1b[2K\raa: Pulling fs layer\r\x1b[1B")
    assert "aa: Downloading [" in text


def test_an_error_in_the_stream_ends_it_with_its_code() -> None:
    with pytest.raises(Failure) as caught:
        show_all([{"errorDetail": {"code": 3, "message": "it failed"}, "error": "it failed"}], io.StringIO())
    assert (caught.value.message, caught.value.status) == ("it failed", 3)


def test_an_images_words_give_a_terminal_no_orders() -> None:
    evil = "\x1b]0;title\x07\x1b[2J\r\x9b1A\x7f é"
    printed: list[str] = []
    row = Record("historyContext", {"CreatedBy": lambda: evil})
    print_listing([row], "", ("CreatedBy",), {}, write=printed.append)
    assert printed == ["CREATEDBY\n?]0;title??[2J??1A? é\n"]
    printed.clear()
    print_listing([row], "{{.CreatedBy}}", ("CreatedBy",), {}, write=printed.append)
    assert printed == [f"{evil}\n"]
