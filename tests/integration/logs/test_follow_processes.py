"""A writer in a process of its own, ended without mercy, and a reader that follows it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from sampan.logs.json_file import JsonFileSink
from sampan.logs.reader import follow, read

LINES = 20_000

WRITER = """
import sys
from sampan.logs.json_file import JsonFileSink
sink = JsonFileSink(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
for number in range(int(sys.argv[4])):
    sink.write(1 + number % 2, b"%d\\n" % number, number)
print("written", flush=True)
sys.stdin.read()
"""


def writer(path: Path, max_size: int, max_file: int) -> subprocess.Popen[bytes]:
    arguments = [str(path), str(max_size), str(max_file), str(LINES)]
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_a_follower_sees_every_line_of_a_writer_that_rotates_and_is_killed(tmp_path: Path) -> None:
    async def scenario() -> list[int]:
        ended = asyncio.Event()
        # Enough files that none is dropped before the follower has come to it.
        process = writer(tmp_path / "log", 50_000, 100)
        seen: list[int] = []
        try:
            async for record in follow(tmp_path / "log", ended=ended):
                seen.append(int(record.line))
                if len(seen) == LINES:
                    process.send_signal(signal.SIGKILL)
                    ended.set()
        finally:
            process.kill()
            process.wait()
        return seen

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == list(range(LINES))
    assert len(list(tmp_path.iterdir())) > 10


def test_reading_while_files_rotate_gives_an_unbroken_run_of_lines(tmp_path: Path) -> None:
    process = writer(tmp_path / "log", 20_000, 4)
    try:
        last = -1
        while last < LINES - 1 and process.poll() is None:
            found = [int(record.line) for record in read(tmp_path / "log")]
            if found:
                assert found == list(range(found[0], found[-1] + 1))
                last = found[-1]
    finally:
        process.kill()
        process.wait()
    assert last == LINES - 1


def test_the_next_writer_goes_on_after_one_that_was_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    process = writer(path, 1 << 30, 2)
    assert process.stdout is not None and process.stdout.readline() == b"written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    with path.open("ab") as file:
        file.write(b'{"log":"half')
    sink = JsonFileSink(str(path))
    sink.write(1, b"-1\n", 0)
    sink.close()
    # The torn line counts for the tail, but is not shown.
    assert [int(record.line) for record in read(path, tail=3)] == [LINES - 1, -1]
    assert os.stat(path).st_mode & 0o777 == 0o640
