"""A cluster's store in memory for tests: what a keeper serves, without a network in between; it can be cut off."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from sampan.errors import NotFound, Unavailable
from sampan.network.overlay.keeper_state import KeeperState
from sampan.network.overlay.store import Changes, Condition, LeaseEnded, Operation, Snapshot


class SharedState:
    """What several `MemoryStore`s have in common. `clock` is moved by the test."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self._directory = tempfile.TemporaryDirectory()
        self.state = KeeperState(Path(self._directory.name) / "store.db", lambda: self.clock)
        self.news = asyncio.Condition()

    def close(self) -> None:
        self.state.close()
        self._directory.cleanup()

    async def tell(self) -> None:
        async with self.news:
            self.news.notify_all()

    async def advance(self, seconds: float) -> None:
        self.clock += seconds
        if self.state.expire():
            await self.tell()


class MemoryStore:
    """See `sampan.network.overlay.store.Store`. With `gone` nothing is answered."""

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared
        self.gone = False
        self.name = "memory"
        self.commits = 0
        """Transactions that were performed."""

    def _check(self) -> None:
        if self.gone:
            raise Unavailable("the store is gone")

    async def cut(self) -> None:
        """From now on, also for what is being watched."""
        self.gone = True
        await self._shared.tell()

    async def read(self, prefix: str) -> Snapshot:
        self._check()
        return self._shared.state.snapshot(prefix)

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> bool:
        self._check()
        try:
            done = self._shared.state.commit(conditions, operations)
        except NotFound as error:
            raise LeaseEnded(error.message) from error
        self.commits += done
        await self._shared.tell()
        return done

    async def watch(self, prefix: str, revision: int) -> AsyncIterator[Changes]:
        while True:
            self._check()
            found = self._shared.state.since(prefix, revision)
            revision = self._shared.state.revision + 1
            for changes in found:
                yield changes
            async with self._shared.news:
                while self._shared.state.revision < revision and not self.gone:
                    await self._shared.news.wait()

    async def grant(self, seconds: int) -> int:
        self._check()
        return self._shared.state.grant(seconds)

    async def keep(self, lease: int) -> bool:
        self._check()
        return self._shared.state.keep(lease) > 0

    async def revoke(self, lease: int) -> None:
        self._check()
        try:
            self._shared.state.revoke(lease)
        except NotFound:
            return
        await self._shared.tell()

    async def close(self) -> None:
        return
