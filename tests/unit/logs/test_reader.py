"""Reading and following logs, across rotations and torn lines."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sampan.errors import NotFound
from sampan.logs import log_files
from sampan.logs.json_file import JsonFileSink
from sampan.logs.reader import LogRecord, follow, parse_record, parse_time, read

SECOND = 1_000_000_000


def fill(
    path: Path, count: int, *, first: int = 0, max_size: int | None = None, max_file: int = 3
) -> JsonFileSink:
    """Lines "0", "1", …, each a second later than the one before."""
    sink = JsonFileSink(str(path), max_size, max_file)
    for number in range(first, first + count):
        sink.write(1, b"%d\n" % number, number * SECOND)
    return sink


def numbers(records: list[LogRecord]) -> list[int]:
    return [int(record.line) for record in records]


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    sink = JsonFileSink(str(tmp_path / "log"))
    raw = 'q"\\<&>\t\x00 é€😀\u2028'.encode()
    sink.write(1, raw + b"\n", 5)
    sink.write(2, b"bad \xff\nopen end", 7 * SECOND)
    sink.close()
    first, second, third = read(tmp_path / "log")
    assert first == LogRecord(1, "1970-01-01T00:00:00.000000005Z", raw + b"\n")
    assert first.time_ns == 5
    assert (second.stream, second.line, second.time_ns) == (2, b"bad \xef\xbf\xbd\n", 7 * SECOND)
    assert third.line == b"open end"


def test_what_docker_wrote_can_be_read() -> None:
    raw = rb'{"log":"\u003cb\u003e\u0026 \u001b[0m\ufffd\r\n","stream":"stderr","time":"2022-03-04T05:06:07.1234Z"}'
    record = parse_record(raw)
    assert record is not None
    assert record.line == "<b>& \x1b[0m\ufffd\r\n".encode()
    assert (record.stream, record.time_ns) == (2, 1_646_370_367_123_400_000)
    with_attributes = parse_record(raw[:-1] + b',"attrs":{"tag":"x"}}')
    assert with_attributes is not None and with_attributes.attributes == {"tag": "x"}


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:01Z", SECOND),
        ("1970-01-01T02:00:01.25+02:00", SECOND + SECOND // 4),
        ("2025-11-24T21:16:40.123456789Z", 1_764_019_000_123_456_789),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, nanoseconds: int) -> None:
    assert parse_time(text) == nanoseconds


def test_rotated_files_are_read_oldest_first(tmp_path: Path) -> None:
    fill(tmp_path / "log", 10, max_size=200, max_file=9).close()
    assert (tmp_path / "log.2").exists()
    assert numbers(list(read(tmp_path / "log"))) == list(range(10))


@pytest.mark.parametrize("tail", [0, 1, 2, 3, 4, 9, 10, 11])
def test_the_tail_reaches_back_over_rotated_files(tmp_path: Path, tail: int) -> None:
    fill(tmp_path / "log", 10, max_size=200, max_file=9).close()
    assert numbers(list(read(tmp_path / "log", tail=tail))) == list(range(10))[max(0, 10 - tail) :]


def test_the_tail_of_a_large_file_reads_only_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "log", 40_000).close()
    size = (tmp_path / "log").stat().st_size
    reads: list[int] = []
    real = os.pread

    def counted(descriptor: int, length: int, offset: int) -> bytes:
        data = real(descriptor, length, offset)
        reads.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counted)
    assert numbers(list(read(tmp_path / "log", tail=1500))) == list(range(38_500, 40_000))
    assert sum(reads) < size / 5


def test_a_tail_across_block_borders_counts_every_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "log", 30).close()
    for block in (1, 2, 61, 62, 63, 64, 1000):
        monkeypatch.setattr(log_files, "BLOCK", block)
        for tail in (1, 2, 29, 30, 31):
            assert numbers(list(read(tmp_path / "log", tail=tail))) == list(range(30))[-tail:]


def test_since_and_until_include_their_ends_and_the_tail_counts_first(tmp_path: Path) -> None:
    fill(tmp_path / "log", 10).close()
    path = tmp_path / "log"
    assert numbers(list(read(path, since_ns=3 * SECOND, until_ns=5 * SECOND))) == [3, 4, 5]
    assert numbers(list(read(path, since_ns=3 * SECOND + 1))) == [4, 5, 6, 7, 8, 9]
    assert numbers(list(read(path, until_ns=8 * SECOND, tail=3))) == [7, 8]


def test_torn_lines_and_rubbish_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fill(path, 1).close()
    good = path.read_bytes()
    path.write_bytes(
        good
        + b'{"log":"to\n\nnull\n{"log":1}\n\xff\xfe\n'
        + good.replace(b"stdout", b"stdin")
        + good
        + good[:20]
    )
    assert numbers(list(read(path))) == [0, 0]


def test_no_file_is_an_empty_log(tmp_path: Path) -> None:
    assert list(read(tmp_path / "log")) == []


async def take(records: AsyncIterator[LogRecord], count: int) -> list[int]:
    return [int((await anext(records)).line) for _ in range(count)]


class TestFollow:
    def run(self, scenario: object) -> None:
        asyncio.run(asyncio.wait_for(scenario, 20))  # type: ignore[arg-type]

    def test_new_lines_arrive_as_they_are_written(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            ended = asyncio.Event()
            sink = fill(tmp_path / "log", 3)
            records = follow(tmp_path / "log", ended=ended)
            assert await take(records, 3) == [0, 1, 2]
            waiting = asyncio.ensure_future(take(records, 2))
            await asyncio.sleep(0)
            sink.write(1, b"3\n4\n", 0)
            assert await waiting == [3, 4]
            sink.write(1, b"5\n", 0)
            ended.set()
            assert [int(record.line) async for record in records] == [5]
            sink.close()

        self.run(scenario())

    def test_no_line_is_lost_or_doubled_over_many_rotations(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            ended = asyncio.Event()
            sink = fill(tmp_path / "log", 1, max_size=300, max_file=4)
            records = follow(tmp_path / "log", ended=ended)
            assert await take(records, 1) == [0]
            for start in range(1, 400, 8):
                for number in range(start, start + 8):
                    sink.write(1, b"%d\n" % number, 0)
                assert await take(records, 8) == list(range(start, start + 8))
            ended.set()
            assert [record async for record in records] == []
            sink.close()

        self.run(scenario())

    def test_a_single_file_that_begins_anew_is_followed(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            ended = asyncio.Event()
            sink = fill(tmp_path / "log", 5, max_size=300, max_file=1)
            records = follow(tmp_path / "log", ended=ended)
            assert await take(records, 5) == [0, 1, 2, 3, 4]
            sink.write(1, b"77\n", 0)
            assert await take(records, 1) == [77]
            await records.aclose()  # type: ignore[attr-defined]
            sink.close()

        self.run(scenario())

    def test_a_log_that_does_not_exist_yet_is_waited_for(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            ended = asyncio.Event()
            records = follow(tmp_path / "log", ended=ended)
            waiting = asyncio.ensure_future(take(records, 1))
            await asyncio.sleep(0)
            sink = fill(tmp_path / "log", 1, first=9)
            assert await waiting == [9]
            ended.set()
            sink.close()

        self.run(scenario())

    def test_a_long_log_that_nobody_wants_does_not_hold_the_loop_up(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            ended = asyncio.Event()
            ended.set()
            fill(tmp_path / "log", 5000, max_size=None).close()
            turns = 0

            async def others() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            beside = asyncio.ensure_future(others())
            records = follow(tmp_path / "log", since_ns=1 << 62, ended=ended)
            assert [record async for record in records] == []
            beside.cancel()
            assert turns > 10

        self.run(scenario())

    def test_half_a_line_is_given_when_it_is_whole(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            ended = asyncio.Event()
            fill(tmp_path / "log", 1, first=4).close()
            whole = (tmp_path / "log").read_bytes()
            with (tmp_path / "log").open("ab", buffering=0) as file:
                records = follow(tmp_path / "log", ended=ended)
                file.write(whole[:30])
                assert await take(records, 1) == [4]
                waiting = asyncio.ensure_future(take(records, 1))
                await asyncio.sleep(0)
                file.write(whole[30:])
                assert await waiting == [4]
                ended.set()

        self.run(scenario())

    def test_the_tail_and_times_apply(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            ended = asyncio.Event()
            ended.set()
            fill(tmp_path / "log", 10).close()
            found = [r async for r in follow(tmp_path / "log", tail=3, until_ns=8 * SECOND, ended=ended)]
            assert numbers(found) == [7, 8]

        self.run(scenario())

    def test_following_ends_when_the_time_is_up(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            fill(tmp_path / "log", 1).close()
            until = time.time_ns() + SECOND // 20
            found = [r async for r in follow(tmp_path / "log", until_ns=until, ended=asyncio.Event())]
            assert numbers(found) == [0]
            assert time.time_ns() >= until

        self.run(scenario())

    def test_a_missing_directory_is_not_found(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            with pytest.raises(NotFound):
                await take(follow(tmp_path / "none" / "log", ended=asyncio.Event()), 1)

        self.run(scenario())

    def test_descriptors_are_given_back(self, tmp_path: Path) -> None:
        async def scenario() -> None:
            ended = asyncio.Event()
            ended.set()
            fill(tmp_path / "log", 10, max_size=200, max_file=9).close()
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(3):
                assert len([r async for r in follow(tmp_path / "log", ended=ended)]) == 10
                assert len(list(read(tmp_path / "log"))) == 10
            assert len(os.listdir("/proc/self/fd")) == before

        self.run(scenario())
