"""The json-file writer: Docker's format, its pieces of long lines, and rotation."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from sampan.logs.factory import make_sink
from sampan.logs.json_file import PARTIAL_SIZE, JsonFileSink, format_time
from sampan.runtime.messages import LogTarget

MOMENT = 1_764_019_000_123_456_000
STAMP = "2025-11-24T21:16:40.123456Z"


def written(path: Path, *chunks: bytes, stream: int = 1) -> list[str]:
    sink = JsonFileSink(str(path))
    for chunk in chunks:
        sink.write(stream, chunk, MOMENT)
    sink.close()
    return path.read_text(encoding="utf-8").splitlines()


def texts(path: Path) -> list[str]:
    return [json.loads(line)["log"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_is_recorded_as_docker_records_it(tmp_path: Path) -> None:
    assert written(tmp_path / "log", b"hello\n") == [
        f'{{"log":"hello\\n","stream":"stdout","time":"{STAMP}"}}'
    ]
    (line,) = written(tmp_path / "error", b"oh\n", stream=2)
    assert line == f'{{"log":"oh\\n","stream":"stderr","time":"{STAMP}"}}'


# What Docker Engine 20.10 wrote for `docker run IMAGE cat FILE`.
@pytest.mark.parametrize(
    ("raw", "inside"),
    [
        (b'<b>&"\\\x7f\n', '\\u003cb\\u003e\\u0026\\"\\\\\x7f\\n'),
        (b"a\tb\x00\x1b[0m\r\n", "a\\u0009b\\u0000\\u001b[0m\\r\\n"),
        ("é € 😀 \ufffd\n".encode(), "é € 😀 \ufffd\\n"),
        ("\u2028\u2029\n".encode(), "\\u2028\\u2029\\n"),
        (b"\xe2\x82A\n", "\\ufffd\\ufffdA\\n"),
        (
            b"\xed\xa0\x80 \xc0\xaf \xf4\x90\x80\x80\n",
            "\\ufffd\\ufffd\\ufffd \\ufffd\\ufffd " + "\\ufffd" * 4 + "\\n",
        ),
    ],
)
def test_special_characters_are_escaped_as_docker_does(tmp_path: Path, raw: bytes, inside: str) -> None:
    sink = JsonFileSink(str(tmp_path / "log"))
    sink.write(1, raw, MOMENT)
    sink.close()
    wanted = f'{{"log":"{inside}","stream":"stdout","time":"{STAMP}"}}\n'
    assert (tmp_path / "log").read_bytes() == wanted.encode()


def test_lines_in_pieces_are_put_together_and_a_last_line_without_newline_stays_without(
    tmp_path: Path,
) -> None:
    written(tmp_path / "log", b"one\ntw", b"o\n\nthr", b"ee")
    assert texts(tmp_path / "log") == ["one\n", "two\n", "\n", "three"]


def test_both_streams_keep_their_unfinished_lines_apart(tmp_path: Path) -> None:
    sink = JsonFileSink(str(tmp_path / "log"))
    sink.write(1, b"out", MOMENT)
    sink.write(2, b"err", MOMENT)
    sink.write(1, b"put\n", MOMENT)
    sink.write(2, b"or\n", MOMENT)
    sink.close()
    assert texts(tmp_path / "log") == ["output\n", "error\n"]


@pytest.mark.parametrize("step", [1, 1000, PARTIAL_SIZE - 1, PARTIAL_SIZE, PARTIAL_SIZE + 1, 1 << 20])
def test_a_long_line_is_recorded_in_pieces_of_16_kib_however_it_arrives(tmp_path: Path, step: int) -> None:
    size = PARTIAL_SIZE
    raw = (
        b"x" * (size - 1)
        + b"\n"
        + b"y" * size
        + b"\n"
        + b"z" * (size + 1)
        + b"\n"
        + b"w" * (2 * size + 5)
        + b"\nend"
    )
    written(tmp_path / "log", *(raw[at : at + step] for at in range(0, len(raw), step)))
    found = texts(tmp_path / "log")
    assert [(text[0], len(text), text.endswith("\n")) for text in found] == [
        ("x", size, True),
        ("y", size, False),
        ("\n", 1, True),
        ("z", size, False),
        ("z", 2, True),
        ("w", size, False),
        ("w", size, False),
        ("w", 6, True),
        ("e", 3, False),
    ]


def test_a_chunk_of_many_lines_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = JsonFileSink(str(tmp_path / "log"))
    calls: list[int] = []
    real = os.write

    def counted(descriptor: int, data: bytes) -> int:
        calls.append(len(data))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", counted)
    sink.write(1, b"line\n" * 1000, MOMENT)
    assert len(calls) == 1
    sink.close()
    assert texts(tmp_path / "log") == ["line\n"] * 1000


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_000_000_000, "1970-01-01T00:00:01Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (MOMENT, STAMP),
    ],
)
def test_times_are_written_as_go_writes_them(nanoseconds: int, text: str) -> None:
    assert format_time(nanoseconds) == text


class TestRotation:
    def test_full_files_move_on_and_the_oldest_goes(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        sink = JsonFileSink(str(path), max_size=150, max_file=3)
        for number in range(9):
            sink.write(1, b"%d" % number * 40 + b"\n", MOMENT)
        sink.close()
        assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
        # One record has about 110 bytes: a file takes a second one, and is full.
        assert [texts(p) for p in (tmp_path / "log.2", tmp_path / "log.1", path)] == [
            ["4" * 40 + "\n", "5" * 40 + "\n"],
            ["6" * 40 + "\n", "7" * 40 + "\n"],
            ["8" * 40 + "\n"],
        ]

    def test_a_single_file_begins_anew(self, tmp_path: Path) -> None:
        path = tmp_path / "log"
        sink = JsonFileSink(str(path), max_size=50, max_file=1)
        for number in range(3):
            sink.write(1, b"%d\n" % number, MOMENT)
        sink.close()
        assert texts(path) == ["2\n"]
        assert [p.name for p in tmp_path.iterdir()] == ["log"]

    def test_without_a_limit_nothing_rotates(self, tmp_path: Path) -> None:
        sink = JsonFileSink(str(tmp_path / "log"), max_size=None)
        for _ in range(10):
            sink.write(1, b"x" * 10_000 + b"\n", MOMENT)
        sink.close()
        assert [p.name for p in tmp_path.iterdir()] == ["log"]

    def test_the_size_of_an_earlier_life_counts(self, tmp_path: Path) -> None:
        for _ in range(2):
            sink = JsonFileSink(str(tmp_path / "log"), max_size=10)
            sink.write(1, b"a\n", MOMENT)
            sink.close()
        assert texts(tmp_path / "log") == texts(tmp_path / "log.1") == ["a\n"]

    def test_a_rotation_that_finds_no_room_is_finished_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "log"
        sink = JsonFileSink(str(path), max_size=10, max_file=4)
        for text in (b"a\n", b"b\n"):
            sink.write(1, text, MOMENT)

        def refuse(*_: object, **__: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "open", refuse)
            for _ in range(3):
                with pytest.raises(OSError, match="No space left"):
                    sink.write(1, b"lost\n", MOMENT)
        # Whoever opens a descriptor next must not find the log's output in it.
        other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
        sink.write(1, b"c\n", MOMENT)
        sink.close()
        os.close(other)
        assert (tmp_path / "other").read_bytes() == b""
        files = (tmp_path / "log.2", tmp_path / "log.1", path)
        assert [texts(file) for file in files] == [["a\n"], ["b\n"], ["c\n"]]


def test_a_line_torn_by_a_crash_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"log":"whole\\n","stream":"stdout","time":"1970-01-01T00:00:00Z"}\n{"log":"to')
    lines = written(path, b"next\n")
    assert lines[1] == '{"log":"to'
    assert json.loads(lines[2])["log"] == "next\n"


def test_a_full_disk_loses_the_chunk_but_not_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    sink = JsonFileSink(str(path))
    sink.write(1, b"before\n", MOMENT)
    real = os.write
    answers = iter([10])

    def full(descriptor: int, data: bytes) -> int:
        room = next(answers, None)
        if room is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:room])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        sink.write(1, b"lost\n", MOMENT)
    monkeypatch.setattr(os, "write", real)
    sink.write(1, b"after\n", MOMENT)
    sink.close()
    lines = path.read_text().splitlines()
    assert [json.loads(line)["log"] for line in (lines[0], lines[2])] == ["before\n", "after\n"]
    assert len(lines) == 3


def test_the_driver_none_keeps_nothing(tmp_path: Path) -> None:
    sink = make_sink(LogTarget(driver="none", path=str(tmp_path / "log")))
    sink.write(1, b"gone\n", MOMENT)
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_a_sink_is_made_with_the_targets_options(tmp_path: Path) -> None:
    sink = make_sink(LogTarget("json-file", str(tmp_path / "log"), {"max-size": "1", "max-file": "2"}))
    for text in (b"a\n", b"b\n", b"c\n"):
        sink.write(1, text, MOMENT)
    sink.close()
    assert (texts(tmp_path / "log"), texts(tmp_path / "log.1")) == (["c\n"], ["b\n"])
    assert not (tmp_path / "log.2").exists()


def test_attributes_are_recorded_between_stream_and_time_names_in_order(tmp_path: Path) -> None:
    # What Docker Engine 20.10 wrote with labels=a, env=X and a tag, but for the tag's content and the time.
    sink = JsonFileSink(str(tmp_path / "log"), attributes={"a": "b c<d", "X": "y", "tag": "1\n2"})
    sink.write(1, b"hi\nho\n", MOMENT)
    sink.close()
    attributes = '"attrs":{"X":"y","a":"b c\\u003cd","tag":"1\\n2"}'
    assert (tmp_path / "log").read_text().splitlines() == [
        f'{{"log":"{text}\\n","stream":"stdout",{attributes},"time":"{STAMP}"}}' for text in ("hi", "ho")
    ]


@pytest.mark.parametrize(
    "raw",
    [
        b'a"b\\c\t<d>\r',
        b"\\u0041\\",
        "ü\\\u2028".encode(),
        "é\t".encode(),
        bytes(range(0x20)).replace(b"\n", b""),
        b"\x7f",
    ],
)
def test_what_is_recorded_is_json_that_says_the_line(tmp_path: Path, raw: bytes) -> None:
    written(tmp_path / "log", raw + b"\n", raw + b"\n")
    assert texts(tmp_path / "log") == [raw.decode() + "\n"] * 2


def test_short_lines_make_a_file_exceed_its_size_by_little(tmp_path: Path) -> None:
    sink = JsonFileSink(str(tmp_path / "log"), 1_000_000, 9)
    sink.write(1, b"".join(b"%d\n" % (number % 10) for number in range(32_768)), MOMENT)
    sink.close()
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) < 1_600_000
    found = [json.loads(line)["log"] for name in ("log.1", "log") for line in (tmp_path / name).open()]
    assert found == [f"{number % 10}\n" for number in range(32_768)]
