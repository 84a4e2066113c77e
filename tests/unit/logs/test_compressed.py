"""Old files of a log are compressed by a child process, and read back as if they were not."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import select
from pathlib import Path

import pytest

from sampan.logs import log_files, rotation
from sampan.logs.json_file import JsonFileSink
from sampan.logs.reader import LogRecord, follow, read
from sampan.runtime.loop import Loop

SECOND = 1_000_000_000
RECORD = len('{"log":"10\\n","stream":"stdout","time":"1970-01-01T00:00:10Z"}\n')


def numbers(records: list[LogRecord]) -> list[int]:
    return [int(record.line) for record in records]


def put(sink: JsonFileSink, *lines: int) -> None:
    for number in lines:
        sink.write(1, b"%d\n" % number, number * SECOND)


def await_compressing(path: Path, number: int) -> None:
    """Until the file with this number has its compressed form beside it, by the sink's own watch."""
    sink_loop = Loop()
    sink = sinks[path]
    sink.join(sink_loop, lambda: None)
    while not Path(f"{path}.{number}.gz").exists():
        assert sink_loop.run_once(30)


sinks: dict[Path, JsonFileSink] = {}


def make(path: Path, lines: range, *, per_file: int = 5, files: int = 4) -> JsonFileSink:
    """A log of files with `per_file` lines each; every old one is compressed before the next one is full."""
    sink = sinks[path] = JsonFileSink(str(path), per_file * RECORD, files, compress=True)
    for number in lines:
        put(sink, number)
        if (number - lines[0]) % per_file == 0 and number != lines[0]:
            await_compressing(path, 1)
    return sink


def test_rotated_files_are_compressed_and_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    make(path, range(10, 40)).close()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["log", "log.1.gz", "log.2.gz", "log.3.gz"]
    assert gzip.decompress((tmp_path / "log.2.gz").read_bytes()).count(b"\n") == 5
    assert numbers(list(read(path))) == list(range(20, 40))
    for tail in (1, 4, 5, 6, 10, 11, 19, 20, 21, 100):
        assert numbers(list(read(path, tail=tail))) == list(range(20, 40))[-tail:], tail


def test_a_tail_in_a_compressed_file_is_found_across_block_borders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    make(path, range(10, 25), per_file=10).close()
    for block in (1, 7, RECORD - 1, RECORD, RECORD + 1):
        monkeypatch.setattr(log_files, "BLOCK", block)
        assert numbers(list(read(path, tail=12))) == list(range(13, 25)), block


def test_a_kill_while_compressing_leaves_the_plain_file_which_the_next_writer_compresses(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    sink = JsonFileSink(str(path), 5 * RECORD, 3)
    put(sink, *range(10, 20))
    sink.close()
    # As a kill leaves it: a beginning that has no name yet.
    (tmp_path / "log.gz.tmp").write_bytes(gzip.compress((tmp_path / "log.1").read_bytes())[:20])
    assert numbers(list(read(path))) == list(range(10, 20))
    sinks[path] = JsonFileSink(str(path), 5 * RECORD, 3, compress=True)
    await_compressing(path, 1)
    sinks[path].close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1.gz"]
    assert numbers(list(read(path))) == list(range(10, 20))


def test_a_kill_between_the_new_name_and_the_old_ones_removal_shows_no_line_twice(tmp_path: Path) -> None:
    path = tmp_path / "log"
    make(path, range(10, 17)).close()
    (tmp_path / "log.1").write_bytes(gzip.decompress((tmp_path / "log.1.gz").read_bytes()))
    assert numbers(list(read(path))) == list(range(10, 17))
    assert numbers(list(read(path, tail=4))) == [13, 14, 15, 16]


def test_a_kill_between_two_renames_hides_no_older_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    make(path, range(10, 22)).close()
    os.rename(tmp_path / "log.2.gz", tmp_path / "log.3.gz")
    os.rename(tmp_path / "log.1.gz", tmp_path / "log.2.gz")
    assert numbers(list(read(path))) == list(range(10, 22))
    os.rename(path, tmp_path / "log.1")
    assert numbers(list(read(path))) == list(range(10, 22))


def test_a_broken_compressed_file_costs_its_own_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "log"
    make(path, range(10, 22)).close()
    (tmp_path / "log.1.gz").write_bytes(b"\x1f\x8b no gzip at all")
    assert numbers(list(read(path))) == [10, 11, 12, 13, 14, 20, 21]


def test_closing_does_not_wait_for_a_compression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(source: int, target: int) -> None:
        select.poll().poll()

    monkeypatch.setattr(rotation, "_compress", never)
    path = tmp_path / "log"
    sink = JsonFileSink(str(path), 5 * RECORD, 3, compress=True)
    put(sink, *range(10, 27))  # rotates thrice while the first is under way
    sink.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert numbers(list(read(path))) == list(range(15, 27))


def test_what_can_not_be_compressed_is_tried_again_with_the_next_rotation_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = tmp_path / "tries"

    def fail(source: int, target: int) -> None:
        with open(tries, "a") as file:
            file.write("x")
        os._exit(1)

    monkeypatch.setattr(rotation, "_compress", fail)
    path = tmp_path / "log"
    loop = Loop()
    sink = JsonFileSink(str(path), 5 * RECORD, 4, compress=True)
    sink.join(loop, lambda: None)
    for rotations, lines in enumerate((range(10, 17), range(17, 22), range(22, 27)), 1):
        put(sink, *lines)
        assert loop.run_once(30)
        assert not loop.run_once(0)  # nothing is under way
        assert tries.read_text() == "x" * rotations
    sink.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1", "log.2", "log.3", "tries"]
    assert numbers(list(read(path))) == list(range(10, 27))


def test_neither_lines_nor_the_shim_are_lost_when_a_compressed_file_can_not_get_its_name(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    loop = Loop()
    sink = JsonFileSink(str(path), 5 * RECORD, 3, compress=True)
    sink.join(loop, lambda: None)
    put(sink, *range(10, 16))
    (tmp_path / "log.1.gz").mkdir()  # as little to be renamed to as a file system that has become read-only
    assert loop.run_once(30)
    put(sink, 16)
    sink.close()
    (tmp_path / "log.1.gz").rmdir()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1"]
    assert numbers(list(read(path))) == list(range(10, 17))


def test_a_host_without_processes_to_spare_keeps_old_files_plain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    path = tmp_path / "log"
    sink = JsonFileSink(str(path), 5 * RECORD, 3, compress=True)
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fork", fork)
    put(sink, *range(10, 17))
    assert len(os.listdir("/proc/self/fd")) == before
    sink.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1"]
    assert numbers(list(read(path))) == list(range(10, 17))


def test_a_follower_sees_each_line_once_when_the_file_it_reads_is_compressed(tmp_path: Path) -> None:
    path = tmp_path / "log"

    async def scenario() -> list[int]:
        ended = asyncio.Event()
        sink = sinks[path] = JsonFileSink(str(path), 5 * RECORD, 4, compress=True)
        put(sink, *range(10, 14))
        seen: list[int] = []
        async for record in follow(path, ended=ended):
            seen.append(int(record.line))
            if seen[-1] == 13:
                # All of this before the follower looks again: its file has another name, another form, and successors.
                put(sink, 14, 15)
                await_compressing(path, 1)
                put(sink, *range(16, 22))
                await_compressing(path, 1)
                sink.close()
                ended.set()
        return seen

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == list(range(10, 22))
