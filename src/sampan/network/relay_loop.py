"""The relay's loop: one thread that waits for descriptors, and for what times out."""

from __future__ import annotations

import resource
import select
import time
from collections.abc import Callable
from math import inf

from sampan.network.relay_room import Room

ROUNDS = 16  # of one connection before the others get their turn

Handler = Callable[[int], None]
Sweep = Callable[[float], float | None]
"""Given the time, ends what has timed out; returns in how many seconds to ask again (None: not needed)."""


class Loop:
    """epoll with one handler for each descriptor, connections that have more to do, and what times out.

    Of a thousand ports most have nothing that could time out: an event costs the same however many there are.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self.again: dict[int, Handler] = {}
        self._due: dict[Sweep, float] = {}
        self._soonest = inf
        self.room = Room(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def add(self, descriptor: int, events: int, handler: Handler) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, events)

    def remove(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)
        self.again.pop(descriptor, None)

    def expect(self, sweep: Sweep, seconds: float) -> None:
        """Ask it in so many seconds, unless it is to be asked already."""
        at = self._due.setdefault(sweep, time.monotonic() + seconds)
        self._soonest = min(self._soonest, at)

    def expire(self, now: float) -> float | None:
        """Ask those whose time has come; returns the seconds to the next one (None: there is none)."""
        if now >= self._soonest:
            for sweep in [one for one, at in self._due.items() if at <= now]:
                again = sweep(now)
                if again is None:
                    del self._due[sweep]
                else:
                    self._due[sweep] = now + again
            self._soonest = min(self._due.values(), default=inf)
        return self._soonest - now if self._due else None

    def turn(self) -> None:
        timeout = self.expire(time.monotonic())
        waiting, self.again = self.again, {}
        events = dict(self._poll.poll(0 if waiting else timeout))
        for descriptor in {**waiting, **dict.fromkeys(events)}:
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler(events.get(descriptor, 0))
