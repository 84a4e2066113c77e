"""Keeping a host's networks whole: when somebody else changes its rules or devices, look whether ours suffered.

The kernel tells of every transaction of others, and of devices and addresses that vanish. The first one starts a
short wait, in which the rest of a firewall's reload happens too; then one look follows, in a thread. However much is
changed, there are no more than a few looks in a second. Changes of the legacy iptables are told to nobody: where it
is in use, we look at intervals.
"""

from __future__ import annotations

import asyncio
import logging

from sampan.errors import SampanError
from sampan.linux import xtables
from sampan.linux.link_events import LinkEvents
from sampan.linux.netlink_events import NetlinkEvents
from sampan.linux.nftables_events import RulesetEvents
from sampan.network.host import NetworkHost

_log = logging.getLogger(__name__)

DELAY = 0.2  # seconds from the first change of others until we look
LEGACY_INTERVAL = 30.0  # seconds between looks where the legacy iptables is in use
_RETRY = 2.0  # seconds until we look again after a failure
_ATTEMPTS = 5


class RulesetWatch:
    """Calls `NetworkHost.refresh` when there is reason to. Use it from the event loop's thread only."""

    def __init__(
        self, host: NetworkHost, *, delay: float = DELAY, legacy_interval: float = LEGACY_INTERVAL
    ) -> None:
        self._host = host
        self._delay = delay
        self._legacy_interval = legacy_interval
        self._events: tuple[NetlinkEvents, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def start(self) -> None:
        """Begin to listen, in the network namespace of this thread. Raises OSError."""
        rules = RulesetEvents(self._host.netlink_port)
        try:
            self._events = (rules, LinkEvents())
        except BaseException:
            rules.close()
            raise
        self._listen(self._events)
        self._task = asyncio.get_running_loop().create_task(self._run(self._events))
        self._task.add_done_callback(_tell_end)

    async def close(self) -> None:
        """Stop; a look that is under way is waited for. Idempotent."""
        events, task = self._events, self._task
        self._events, self._task = (), None
        if task is None:
            return
        self._deafen(events)
        for one in events:
            one.close()
        self._wake.set()
        await task

    def _listen(self, events: tuple[NetlinkEvents, ...]) -> None:
        for one in events:
            asyncio.get_running_loop().add_reader(one.fileno(), self._heard, events)

    def _deafen(self, events: tuple[NetlinkEvents, ...]) -> None:
        for one in events:
            asyncio.get_running_loop().remove_reader(one.fileno())

    def _heard(self, events: tuple[NetlinkEvents, ...]) -> None:
        """No more of it until we look: what comes meanwhile stays in the sockets' buffers, or is dropped there."""
        self._deafen(events)
        self._wake.set()

    async def _run(self, events: tuple[NetlinkEvents, ...]) -> None:
        while self._events is events:
            heard = await self._wait(self._legacy_interval)
            if heard:
                await self._wait(self._delay)
            elif not (xtables.in_use(4) or xtables.in_use(6)):
                continue
            if self._events is events:
                for one in events:
                    one.drain()  # before looking: what comes after this is heard of again
                await self._look()
            if heard and self._events is events:
                self._listen(events)

    async def _wait(self, seconds: float) -> bool:
        """Until something is heard, or we are closed; False when the time was up first."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        if self._events:
            self._wake.clear()
        return True

    async def _look(self) -> None:
        for _ in range(_ATTEMPTS):
            try:
                mended = await asyncio.to_thread(self._host.refresh)
            except (SampanError, OSError) as exc:
                _log.warning("the host's network was changed, and looking at it failed: %s", exc)
                if await self._wait(_RETRY):
                    self._wake.set()  # heard meanwhile, or closed: `_run` looks again, and listens again
                    return
                continue
            for what in mended:
                _log.warning("the host's network was changed by another program: %s", what)
            return


def _tell_end(task: asyncio.Task[None]) -> None:
    """Nobody waits for the watch while the engine runs: its failure would not be heard of."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the host's network is not watched any more: %s", error, exc_info=error)
