"""Following a container's entries in the journal from an event loop."""

from __future__ import annotations

import asyncio
import threading
import time
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
    queue: asyncio.Queue[LogRecord | None] = asyncio.Queue(_WAITING)
    # Here and not in the thread: so there is no moment in which it could not be ended.
    child = journald_reader.start(
        journald_reader.command(container_id, since_ns=since_ns, until_ns=until_ns, tail=tail, follow=True)
    )

    def put(item: LogRecord | None) -> None:
        asyncio.run_coroutine_threadsafe(queue.put(item), loop).result()

    def work() -> None:
        try:
            for record in journald_reader.records(child):
                put(record)
        finally:
            put(None)

    # A thread of its own: those that are shared are for work that comes to an end.
    threading.Thread(target=work, name="journal", daemon=True).start()
    ending = asyncio.ensure_future(ended.wait())
    getting = asyncio.ensure_future(queue.get())
    over = False
    try:
        while not over:
            left = None if until_ns is None else max(0.0, (until_ns - time.time_ns()) / 1e9)
            last = ended.is_set() or left == 0
            await asyncio.wait(
                (getting,) if last else (getting, ending),
                timeout=_QUIET if last else left,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if getting.done():
                record = getting.result()
                getting = asyncio.ensure_future(queue.get())
                over = record is None
                if record is not None:
                    yield record
            elif last:
                return
    finally:
        ending.cancel()
        child.kill()
        while not over:  # a thread that waits to put an entry goes on, and finds the end
            over = await getting is None
            getting = asyncio.ensure_future(queue.get())
        getting.cancel()
