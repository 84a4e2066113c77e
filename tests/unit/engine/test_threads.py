from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from sampan.engine.threads import ReportedWork, in_own_thread, long_work_ended, streamed, upload_file
from sampan.errors import Conflict


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize("size", [1, 3, 5, 100, -1])
def test_an_upload_is_read_whole_whatever_the_size_of_the_reads(size: int) -> None:
    async def main() -> bytes:
        file = upload_file(pieces(b"abc", b"de", b"fghij"), asyncio.get_running_loop())

        def read_all() -> bytes:
            parts = []
            while part := file.read(size):
                assert size < 0 or len(part) <= size
                parts.append(part)
            return b"".join(parts)

        return await asyncio.to_thread(read_all)

    assert asyncio.run(main()) == b"abcdefghij"


def test_reports_come_in_order_and_the_works_error_at_their_end() -> None:
    def work(report: Callable[[int], None], cancelled: threading.Event) -> None:
        report(1)
        report(2)
        raise Conflict("no")

    async def main() -> list[int]:
        seen: list[int] = []
        with pytest.raises(Conflict, match="no"):
            async for item in ReportedWork(work):
                seen.append(item)
        return seen

    assert asyncio.run(main()) == [1, 2]


def test_work_that_nobody_follows_any_more_is_told_and_waited_for() -> None:
    ended = threading.Event()

    def work(report: Callable[[int], None], cancelled: threading.Event) -> None:
        report(1)
        assert cancelled.wait(10)
        ended.set()

    async def main() -> None:
        stream = aiter(ReportedWork(work))
        assert await anext(stream) == 1
        await stream.aclose()  # type: ignore[attr-defined]
        assert ended.is_set()

    asyncio.run(main())


def test_work_waits_for_a_reader_that_does_not_keep_up() -> None:
    reported: list[int] = []
    full = threading.Event()

    def work(report: Callable[[int], None], cancelled: threading.Event) -> None:
        for number in range(1000):
            if number == 4:
                full.set()
            report(number)
            reported.append(number)

    async def main() -> None:
        stream = aiter(ReportedWork(work, depth=4))
        assert await anext(stream) == 0
        assert await asyncio.to_thread(full.wait, 10)
        # The first one is still being looked at, three wait: the fifth has no room.
        assert len(reported) == 4
        assert [await anext(stream) for _ in range(999)] == list(range(1, 1000))

    asyncio.run(main())


def test_reports_of_several_threads_end_when_nobody_follows_any_more() -> None:
    ended: list[int] = []

    def work(report: Callable[[int], None], cancelled: threading.Event) -> None:
        def one(number: int) -> None:
            while not cancelled.is_set():
                report(number)
            ended.append(number)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def main() -> None:
        stream = aiter(ReportedWork(work, depth=2))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(asyncio.wait_for(main(), 20))
    assert sorted(ended) == [0, 1, 2]


def test_a_stream_that_is_given_up_stops_its_writer() -> None:
    refused = threading.Event()

    def work(write: Callable[[bytes], object]) -> None:
        try:
            while True:
                write(b"x")
        except ConnectionResetError:
            refused.set()
            raise

    async def main() -> None:
        stream = streamed(work, depth=2)
        assert await anext(stream) == b"x"
        await stream.aclose()  # type: ignore[attr-defined]
        assert refused.is_set()

    asyncio.run(main())


def test_a_stream_that_is_given_up_refuses_all_that_would_be_written_after_it() -> None:
    """A compressor's thread has more pieces waiting when the first one is refused."""
    refused: list[int] = []

    def work(write: Callable[[bytes], object]) -> None:
        def piece(number: int) -> None:
            try:
                while True:
                    write(b"x")
            except ConnectionResetError:
                refused.append(number)

        with ThreadPoolExecutor(1) as writers:
            for number in range(5):
                writers.submit(piece, number)

    async def main() -> None:
        stream = streamed(work, depth=2)
        assert await anext(stream) == b"x"
        await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(asyncio.wait_for(main(), 20))
    assert refused == [0, 1, 2, 3, 4]


def test_what_is_written_arrives_whole_and_in_order() -> None:
    async def main() -> bytes:
        parts = [bytes([number]) * 10 for number in range(50)]

        def work(write: Callable[[bytes], object]) -> None:
            for part in parts:
                write(part)

        received = b"".join([chunk async for chunk in streamed(work, depth=3)])
        assert received == b"".join(parts)
        return received

    assert len(asyncio.run(main())) == 500


def test_long_work_takes_no_thread_from_the_short_work_that_it_waits_for() -> None:
    """As many builds as the loop has threads, each of which needs the loop for its network: they waited for ever."""

    async def main() -> list[list[int]]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        together = threading.Barrier(3)

        async def short() -> int:
            return await asyncio.to_thread(lambda: 7)

        def work(report: Callable[[int], None], cancelled: threading.Event) -> None:
            together.wait(10)
            report(asyncio.run_coroutine_threadsafe(short(), loop).result(10))

        async def followed() -> list[int]:
            return [item async for item in ReportedWork(work)]

        return await asyncio.gather(*(followed() for _ in range(3)))

    assert asyncio.run(main()) == [[7], [7], [7]]


def test_long_work_that_nobody_awaits_any_more_can_be_waited_for() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(10)
        ended.set()

    async def main() -> None:
        task = asyncio.ensure_future(in_own_thread(work))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        waiting = asyncio.ensure_future(long_work_ended())
        await asyncio.wait([task])
        assert task.cancelled() and not waiting.done()
        go_on.set()
        await waiting
        assert ended.is_set()

    asyncio.run(main())
