"""epoll with one handler for each descriptor, and actions that fall due."""

from __future__ import annotations

import select
import time
from collections import OrderedDict
from collections.abc import Callable

Handler = Callable[[int], None]
READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Due:
    """An action that falls due, unless it is cancelled before."""

    __slots__ = ("_queue", "action", "at")

    def __init__(self, queue: OrderedDict[int, Due], at: float, action: Callable[[], None]) -> None:
        self._queue, self.at, self.action = queue, at, action
        queue[id(self)] = self

    def cancel(self) -> None:
        """Idempotent."""
        self._queue.pop(id(self), None)


class Loop:
    """Delays are few and constant, so each has a queue in which the first one is due first."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._queues: dict[float, OrderedDict[int, Due]] = {}

    def add(self, descriptor: int, events: int, handler: Handler) -> None:
        """`handler` is called with the events. Raises OSError."""
        self._poll.register(descriptor, events)
        self._handlers[descriptor] = handler

    def change(self, descriptor: int, events: int) -> None:
        self._poll.modify(descriptor, events)

    def remove(self, descriptor: int) -> None:
        """Idempotent; before the descriptor is closed."""
        if self._handlers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def later(self, seconds: float, action: Callable[[], None]) -> Due:
        queue = self._queues.setdefault(seconds, OrderedDict())
        return Due(queue, time.monotonic() + seconds, action)

    def turn(self) -> None:
        """Wait until something is there or falls due, and do it."""
        events = self._poll.poll(self._wait())
        handlers = self._handlers
        for descriptor, event in events:
            handler = handlers.get(descriptor)
            if handler is not None:
                handler(event)
        now = time.monotonic()
        for queue in self._queues.values():
            while queue:
                first = next(iter(queue.values()))
                if first.at > now:
                    break
                first.cancel()
                first.action()

    def _wait(self) -> float | None:
        firsts = [next(iter(queue.values())).at for queue in self._queues.values() if queue]
        return max(0.0, min(firsts) - time.monotonic()) if firsts else None
