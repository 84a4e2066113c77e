"""Network namespaces: a new one, and work done inside one.

A thread may leave its process's network namespace alone. Work inside another namespace is done by a
thread that is started for it and ends after it, so that no thread of the program is ever left in the
wrong namespace. Sockets opened there stay there, and may be used by any thread afterwards.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from sampan.linux import namespaces

T = TypeVar("T")


class _Thread(threading.Thread, Generic[T]):
    def __init__(self, enter: Callable[[], None], work: Callable[[], T]) -> None:
        super().__init__(name="netns", daemon=True)
        self._enter = enter
        self._work = work
        self.result: list[T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._enter()
            self.result.append(self._work())
        except BaseException as exc:  # noqa: BLE001 - handed over to the thread that waits for it
            self.error = exc


def _run(enter: Callable[[], None], work: Callable[[], T]) -> T:
    thread = _Thread(enter, work)
    thread.start()
    thread.join()
    if thread.error is not None:
        raise thread.error
    return thread.result[0]


def in_namespace(namespace: int, work: Callable[[], T]) -> T:
    """Call `work` in the network namespace of this descriptor, and return or raise what it does."""
    return _run(lambda: namespaces.join(namespace, namespaces.NEWNET), work)


def in_new_namespace(work: Callable[[], T]) -> tuple[int, T]:
    """Make a network namespace and call `work` in it: its descriptor (the caller's) and the result."""

    def open_after() -> tuple[int, T]:
        descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return descriptor, work()
        except BaseException:
            os.close(descriptor)
            raise

    return _run(lambda: namespaces.unshare(namespaces.NEWNET), open_after)
