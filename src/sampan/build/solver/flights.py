"""Steps under way: what two stages or two builds both want is done by one of them, while the other waits."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sampan.build.errors import BuildCancelled

_LOOK = 0.1
"""Seconds between looks at whether the build of one that waits was cancelled."""
PATIENCE = 3.0
"""Seconds of waiting after which that is told: the other build may be a suspended one."""


@dataclass(slots=True)
class _Flight:
    lock: threading.Lock = field(default_factory=threading.Lock)
    wanted: int = 0


class Flights:
    """One object for all builds of an engine. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, _Flight] = {}

    @contextlib.contextmanager
    def alone(
        self, key: str, cancelled: threading.Event, waiting: Callable[[], object] = lambda: None
    ) -> Iterator[None]:
        """Nobody else is inside for this key; who waited looks into the cache again.

        When the first one fails or is cancelled, the next does the step itself. `waiting` is called once, when that
        takes longer than `PATIENCE`. Raises `BuildCancelled`.
        """
        with self._lock:
            flight = self._flights.setdefault(key, _Flight())
            flight.wanted += 1
        try:
            tell_at = time.monotonic() + PATIENCE
            while not flight.lock.acquire(timeout=_LOOK):
                if cancelled.is_set():
                    raise BuildCancelled
                if time.monotonic() >= tell_at:
                    tell_at = float("inf")
                    waiting()
            try:
                yield
            finally:
                flight.lock.release()
        finally:
            with self._lock:
                flight.wanted -= 1
                if not flight.wanted:
                    del self._flights[key]
