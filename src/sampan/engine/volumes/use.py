"""Who uses which volume: containers, those who hold one for a while, and those who have one mounted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from pathlib import Path

from sampan.engine.model import new_id
from sampan.engine.volumes.mounting import Mounting
from sampan.engine.volumes.store import VolumeStore
from sampan.errors import Conflict

log = logging.getLogger(__name__)


class Use:
    """Used from the event loop's thread. `users`, `busy` and `unknown` are set by who knows the containers."""

    def __init__(self, store: VolumeStore) -> None:
        self._store = store
        self.users: Callable[[str], Sequence[str]] = lambda _name: ()
        """Which containers (ids) use a volume."""
        self.busy: Callable[[str], Sequence[str]] = lambda _name: ()
        """Which containers (names) that use a volume run, or are about to."""
        self.unknown: Callable[[], Sequence[str]] = lambda: ()
        """Containers (ids) of which nobody knows all volumes that they have."""
        self._holds: list[set[str]] = []
        self._mounting = Mounting(store.drivers)

    @contextlib.contextmanager
    def holding(self, *names: str) -> Iterator[set[str]]:
        """A set of names of volumes that nobody removes meanwhile, `names` among them; see `Creation.create`.

        Raises `NotFound`.
        """
        for name in names:
            self._store.get(name)
        held = set(names)
        self._holds.append(held)
        try:
            yield held
        finally:
            # By identity: two of these sets may well be equal.
            self._holds = [other for other in self._holds if other is not held]

    @contextlib.asynccontextmanager
    async def opened(self, name: str) -> AsyncIterator[Path]:
        """The directory with its data, mounted if it needs to be; meanwhile nobody removes it. Raises `NotFound`."""
        user = new_id()
        with self.holding(name):
            path = await self.mount(name, user)
            try:
                yield path
            finally:
                await self.unmount(name, user)

    def needs_mount(self, name: str) -> bool:
        """Whether its data is at its path only while somebody has it mounted. Raises `NotFound`."""
        record = self._store.get(name)
        return self._store.drivers.of(record).needs_mount(record)

    async def mount(self, name: str, user: str) -> Path:
        """The directory with its data, which is there until `user` (an id) lets go of it. Raises `NotFound`, …"""
        async with self._store.changing(name):
            return await self._mounting.mount(self._store.get(name), user)

    async def unmount(self, name: str, user: str) -> None:
        """Nothing happens when `user` has not got it mounted."""
        async with self._store.changing(name):
            record = self._store.records.get(name)
            if record is not None:
                await self._mounting.unmount(record, user)

    def adopt(self, name: str, user: str) -> None:
        """At the engine's start: `user` has it mounted since an earlier engine's time."""
        record = self._store.records.get(name)
        if record is not None:
            self._mounting.adopt(record, user)

    async def settle(self) -> None:
        """At the engine's start, when all users are known: what nobody uses is not mounted."""
        local = self._store.local
        for record in tuple(self._store.records.values()):
            if record.driver != local.name or not local.needs_mount(record):
                continue
            async with self._store.changing(record.name):
                if self._mounting.is_used(record.name):
                    continue
                try:
                    await asyncio.to_thread(local.unmount, record, "", last=True)
                except OSError as error:
                    log.warning("volume %s could not be unmounted: %s", record.name, error)

    def is_held(self, name: str) -> bool:
        """It is mounted, or somebody holds it."""
        return self._mounting.is_used(name) or any(name in held for held in self._holds)

    def in_use(self, name: str, without: Collection[str] = ()) -> bool:
        """Whether a container has it, but for those `without` (ids), or somebody holds it, or it is mounted."""
        return any(user not in without for user in self.users(name)) or self.is_held(name)

    def check_idle(self, name: str) -> None:
        """Raises `Conflict` while a container that uses it runs."""
        busy = self.busy(name)
        if busy:
            raise Conflict(
                f"volume {name} is in use by running containers: {', '.join(busy)}",
                hint="stop them first",
            )
