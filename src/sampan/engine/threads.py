"""Between the event loop and blocking work in threads: uploads going in, progress coming out.

What lasts as long as a client or a build wants has a thread of its own (`in_own_thread`). The loop's pool is for short
work: a build waits for such work itself, and would wait for ever if builds and slow clients had all of the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Generic, TypeVar, cast

T = TypeVar("T")
Report = Callable[[T], None]

REPORTS_WAITING = 256
"""Reports of blocking work that wait for the loop before the work has to wait."""


_long: set[Future[Any]] = set()
"""Work under way that has a thread of its own."""


async def in_own_thread(work: Callable[[], T]) -> T:
    """As `asyncio.to_thread`, for work whose length is up to others. Any number of them can be under way."""
    thread = ThreadPoolExecutor(1, "long work")
    try:
        future = thread.submit(work)
    finally:
        thread.shutdown(wait=False)
    _long.add(future)
    future.add_done_callback(_long.discard)
    return await asyncio.wrap_future(future)


async def to_its_end(work: Awaitable[T]) -> T:
    """A thread goes on when its awaiter is cancelled: what comes after it must wait for it all the same.

    A coroutine is not cancelled either. However often the awaiter is cancelled, it waits.
    """
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise


async def made_or_undone(make: Callable[[], T], undo: Callable[[T], object]) -> T:
    """What `make` makes in a thread; when nobody waits for it any more, it is undone there."""
    made: list[T] = []
    try:
        await to_its_end(asyncio.to_thread(lambda: made.append(make())))
    except asyncio.CancelledError:
        for one in made:
            await to_its_end(asyncio.to_thread(undo, one))
        raise
    return made[0]


async def long_work_ended() -> None:
    """Wait for all work in threads of their own: it needs the loop to its end. Who wanted it has left already."""
    while under_way := tuple(_long):
        await asyncio.wait([asyncio.wrap_future(future) for future in under_way])


def blocking_chunks(stream: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
    """The pieces of an upload, for a thread; each is fetched when it is wanted, so a slow reader slows the client."""

    async def next_chunk() -> bytes:
        return await anext(stream, b"")

    while chunk := asyncio.run_coroutine_threadsafe(next_chunk(), loop).result():
        yield chunk


class ChunkReader:
    """A file-like object (`read`) over pieces."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        parts = [self._rest]
        have = len(self._rest)
        while size < 0 or have < size:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            parts.append(chunk)
            have += len(chunk)
        data = b"".join(parts)
        if size < 0:
            self._rest = b""
            return data
        self._rest = data[size:]
        return data[:size]


def upload_file(stream: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> BinaryIO:
    """The upload as something to `read` from, in a thread."""
    return cast(BinaryIO, ChunkReader(blocking_chunks(stream, loop)))


class ReportedWork(Generic[T]):
    """Blocking work that reports its progress, run in a thread; its reports are iterated on the loop.

    The iteration ends with the work; an error of the work is raised there. At most `depth` reports wait to be
    taken: the work waits when its reader is slow, as it would for a full pipe (a build's output may be endless).
    When the iteration is given up, the work's `cancelled` event is set, its reports are dropped and its end is
    awaited, so that nothing goes on unseen. It reports from threads, never from the loop.
    """

    def __init__(
        self,
        work: Callable[[Report[T], threading.Event], object],
        *,
        depth: int = REPORTS_WAITING,
        given_up: Callable[[], object] = lambda: None,
    ) -> None:
        """`given_up` is called when the iteration is, on the loop: it ends what the work may wait for."""
        self._work = work
        self._given_up = given_up
        self._depth = depth

    async def __aiter__(self) -> AsyncGenerator[T, None]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[T | None] = asyncio.Queue()
        room = threading.Semaphore(self._depth)
        cancelled = threading.Event()

        def report(item: T) -> None:
            room.acquire()
            if cancelled.is_set():
                room.release()  # for whoever waits, too
                return
            loop.call_soon_threadsafe(queue.put_nowait, item)

        def run() -> None:
            try:
                self._work(report, cancelled)
            finally:
                loop.call_soon_threadsafe(queue.put_nowait, None)

        task = asyncio.ensure_future(in_own_thread(run))
        try:
            while (item := await queue.get()) is not None:
                yield item
                room.release()
            await task
        finally:
            if not task.done():
                cancelled.set()
                self._given_up()
                room.release()
                await asyncio.wait([task])
                task.exception()  # taken notice of: the one who would hear of it has left


async def streamed(
    work: Callable[[Callable[[bytes], object]], object], *, depth: int = 8
) -> AsyncGenerator[bytes, None]:
    """What blocking work writes, piece by piece; at most `depth` pieces wait to be taken.

    When the iteration is given up, all further writes raise `ConnectionError` in their threads.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    room = threading.Semaphore(depth)
    gone = threading.Event()

    def write(data: bytes) -> int:
        room.acquire()
        if gone.is_set():
            room.release()  # for whoever waits, too: what is written may come from several threads
            raise ConnectionResetError("the reader has left")
        loop.call_soon_threadsafe(queue.put_nowait, bytes(data))
        return len(data)

    def run() -> None:
        try:
            work(write)
        finally:
            loop.call_soon_threadsafe(queue.put_nowait, None)

    task = asyncio.ensure_future(in_own_thread(run))
    try:
        while (chunk := await queue.get()) is not None:
            yield chunk
            room.release()
        await task
    finally:
        if not task.done():
            gone.set()
            room.release()
            await asyncio.wait([task])
            task.exception()
