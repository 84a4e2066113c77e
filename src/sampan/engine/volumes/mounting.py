"""Who has which volume mounted, of those that have to be: the first user mounts it, the last one unmounts it.

The caller sees to it that only one at a time works on a volume.
"""

from __future__ import annotations

import logging
from pathlib import Path

from sampan.engine.model import VolumeRecord
from sampan.engine.threads import in_own_thread, to_its_end
from sampan.engine.volumes.drivers import Drivers, VolumeDriver
from sampan.errors import SampanError

log = logging.getLogger(__name__)


class Mounting:
    """Users are ids: of running containers, and of whoever needs the data for a while.

    How long a mount takes is up to servers and plugins: it has a thread of its own.
    """

    def __init__(self, drivers: Drivers) -> None:
        self._drivers = drivers
        self._users: dict[str, set[str]] = {}

    def is_used(self, name: str) -> bool:
        return bool(self._users.get(name))

    async def mount(self, record: VolumeRecord, user: str) -> Path:
        """The directory with its data. Raises what the driver does; then, and when cancelled, `user` has not got it."""
        driver = self._drivers.of(record)
        if not driver.needs_mount(record):
            return driver.path(record)
        known = user in self._users.setdefault(record.name, set())
        self._users[record.name].add(user)
        mounted = False

        def work() -> Path:
            nonlocal mounted
            path = driver.mount(record, user)
            mounted = True
            return path

        try:
            return await to_its_end(in_own_thread(work))
        except BaseException:
            if not known:
                last = self._forget(record.name, user)
                if mounted:  # it was, but nobody waits for it any more
                    await self._let_go(driver, record, user, last=last)
            raise

    async def unmount(self, record: VolumeRecord, user: str) -> None:
        """Nothing happens when `user` has not got it mounted."""
        if user not in self._users.get(record.name, ()):
            return
        last = self._forget(record.name, user)
        driver = self._drivers.of(record)
        await to_its_end(in_own_thread(lambda: driver.unmount(record, user, last=last)))

    def adopt(self, record: VolumeRecord, user: str) -> None:
        """`user` has it mounted since an earlier engine's time."""
        if self._drivers.of(record).needs_mount(record):
            self._users.setdefault(record.name, set()).add(user)

    def _forget(self, name: str, user: str) -> bool:
        """Whether that was the last one."""
        users = self._users.get(name, set())
        users.discard(user)
        if not users:
            self._users.pop(name, None)
        return not users

    async def _let_go(self, driver: VolumeDriver, record: VolumeRecord, user: str, *, last: bool) -> None:
        """The error that is under way is the one to be told."""
        try:
            await to_its_end(in_own_thread(lambda: driver.unmount(record, user, last=last)))
        except (SampanError, OSError) as error:
            log.warning("volume %s could not be unmounted: %s", record.name, error)
