"""Following the journal: a program that prints and waits stands in for journalctl."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from sampan.errors import Unavailable
from sampan.logs import journald_follow, journald_reader
from sampan.logs.reader import LogRecord

ENTRY = "MESSAGE={}\\nCONTAINER_ID_FULL=x\\nSYSLOG_TIMESTAMP=2026-01-01T00:00:00.000000001Z\\n\\n"

Play = Callable[[str], None]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """From now on this script is journalctl."""

    def play(script: str) -> None:
        monkeypatch.setattr(journald_reader, "command", lambda _id, **_chosen: ["sh", "-c", script])

    return play


def following(**chosen: Any) -> AsyncGenerator[LogRecord, None]:
    chosen.setdefault("ended", asyncio.Event())
    return cast(AsyncGenerator[LogRecord, None], journald_follow.follow("x", **chosen))


def test_many_who_follow_leave_the_shared_threads_to_others(play: Play) -> None:
    play(f"printf '{ENTRY.format('hello')}'; exec sleep 1000")

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        followers = [following() for _ in range(3)]
        for follower in followers:
            assert (await anext(follower)).line == b"hello\n"
        assert await asyncio.to_thread(lambda: "free") == "free"
        for follower in followers:
            await follower.aclose()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_who_leaves_at_any_moment_leaves_no_process_behind(play: Play, tmp_path: Path) -> None:
    play(f"echo $$ >> {tmp_path}/pids; while :; do printf '{ENTRY.format('flood')}'; done")

    async def main() -> None:
        for wanted in (0, 1, 5000):
            follower = following()
            task = asyncio.ensure_future(anext(follower))
            if wanted == 0:
                await asyncio.sleep(0)  # it has begun, and nothing has come
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                await task
            for _ in range(wanted - 1):
                await anext(follower)
            await follower.aclose()

    asyncio.run(asyncio.wait_for(main(), 30))
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) >= 2  # the first may have been ended before it wrote
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_the_containers_end_and_the_time_that_was_asked_for_end_it(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journald_follow, "_QUIET", 0.05)
    play(f"printf '{ENTRY.format('last words')}'; exec sleep 1000")

    async def main() -> None:
        ended = asyncio.Event()
        ended.set()
        assert [record.line async for record in following(ended=ended)] == [b"last words\n"]
        assert [record.line async for record in following(until_ns=time.time_ns() + 10**9)] == [
            b"last words\n"
        ]

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_host_without_journalctl_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journald_reader, "command", lambda _id, **_chosen: ["/nonexistent/journalctl"])

    async def main() -> None:
        with pytest.raises(Unavailable, match="journalctl is not on this host"):
            await anext(following())

    asyncio.run(main())
