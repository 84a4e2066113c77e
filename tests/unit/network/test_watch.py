"""The watch over a host's rules goes on listening whatever a look comes to."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.network import watch


class Told:
    """Events that a test makes."""

    def __init__(self, *_: Any) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)

    def tell(self) -> None:
        self._theirs.send(b"x")

    def fileno(self) -> int:
        return self._ours.fileno()

    def drain(self) -> None:
        try:
            self._ours.recv(100)
        except BlockingIOError:
            return

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


def test_what_is_heard_while_a_failed_look_waits_is_looked_at_and_more_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asyncio.run(_heard_in_a_retry(monkeypatch))


async def _heard_in_a_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    loop = asyncio.get_running_loop()
    looks: asyncio.Queue[int] = asyncio.Queue()
    legacy = [True]  # the first look is made because the time has come
    count = 0

    def refresh() -> tuple[str, ...]:
        nonlocal count
        count += 1
        legacy[0] = False
        loop.call_soon_threadsafe(looks.put_nowait, count)
        if count == 1:
            told.tell()
            raise OSError("no")
        return ()

    monkeypatch.setattr(watch, "RulesetEvents", lambda port: told)
    monkeypatch.setattr(watch, "LinkEvents", Told)
    monkeypatch.setattr(watch.xtables, "in_use", lambda family: legacy[0])
    host: Any = SimpleNamespace(netlink_port=0, refresh=refresh)
    watching = watch.RulesetWatch(host, delay=0.01, legacy_interval=0.01)
    watching.start()
    try:
        async with asyncio.timeout(20):
            assert [await looks.get(), await looks.get()] == [1, 2]
            told.tell()
            assert await looks.get() == 3
    finally:
        await watching.close()
