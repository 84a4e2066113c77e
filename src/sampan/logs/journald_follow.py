"""Following a container's entries in the journal from an event loop."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator

from sampan.logs import journald_reader
from sampan.logs.reader import LogRecord

_QUIET = 0.5
"""Seconds without an entry after which a container that has ended is taken to have said everything: journald does not
tell when it has written what it was sent."""
_WAITING = 1000


async def follow(
    container_id: str,
    *,
    since_ns: int | None = None,
    until_ns: int | None = None,
    tail: int | None = None,
    ended: asyncio.Event,
) -> AsyncIterator[LogRecord]:
    """As `sampan.logs.reader.follow`. Raises `Unavailable` when the host has no journalctl."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[LogRecord] = asyncio.Queue(_WAITING)
    children: list[subprocess.Popen[bytes]] = []

    def work() -> None:
        records = journald_reader.read(
            container_id,
            since_ns=since_ns,
            until_ns=until_ns,
            tail=tail,
            follow=True,
            started=children.append,
        )
        for record in records:
            asyncio.run_coroutine_threadsafe(queue.put(record), loop).result()

    working = asyncio.create_task(asyncio.to_thread(work))
    try:
        while True:
            last = ended.is_set()
            try:
                yield await asyncio.wait_for(queue.get(), _QUIET)
            except TimeoutError:
                if working.done():
                    await working  # why it could not be read
                    return
                if last:
                    return
    finally:
        for child in children:
            child.terminate()
        while not working.done():
            # A thread that waits to put an entry goes on, and finds the end.
            if not queue.empty():
                queue.get_nowait()
            await asyncio.sleep(0.01)
