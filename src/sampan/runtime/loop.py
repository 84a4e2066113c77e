"""A minimal event loop on epoll(7), for processes that must stay small."""

from __future__ import annotations

import select
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR

Callback = Callable[[int], None]


class Loop:
    """Callbacks get the event bits; hang-ups and errors are reported whether asked for or not."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._events: dict[int, int] = {}

    def watch(self, descriptor: int, events: int, callback: Callback) -> None:
        """Start watching, or change what is watched for. A plain file can't be watched (PermissionError)."""
        if descriptor not in self._callbacks:
            self._epoll.register(descriptor, events)
        elif self._events[descriptor] != events:
            self._epoll.modify(descriptor, events)
        self._callbacks[descriptor] = callback
        self._events[descriptor] = events

    def forget(self, descriptor: int) -> None:
        """Stop watching; to be called before the descriptor is closed. Nothing when it is not watched."""
        if self._callbacks.pop(descriptor, None) is not None:
            del self._events[descriptor]
            self._epoll.unregister(descriptor)

    def run_once(self, timeout: float | None = None) -> bool:
        """Wait for events and handle them; False when `timeout` (seconds) passed without one."""
        ready = self._epoll.poll(timeout)
        for descriptor, events in ready:
            # An earlier callback of this round may have ended this one.
            callback = self._callbacks.get(descriptor)
            if callback is not None:
                callback(events)
        return bool(ready)

    def close(self) -> None:
        self._epoll.close()
