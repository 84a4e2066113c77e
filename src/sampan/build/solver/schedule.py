"""Which stages run when: each once, and at the same time as others that it doesn't depend on.

A stage starts when all that it is known to need is done. What an ONBUILD trigger needs becomes known only while its
stage runs: then the stage asks for the other one, which runs right there, or is waited for when it is under way.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Set
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Generic, TypeVar

from sampan.build.errors import BuildCancelled

T = TypeVar("T")

PARALLEL = max(4, 2 * (os.cpu_count() or 1))
"""Stages of a build that begin at the same time: more only wait for a core, when their steps are short."""
MAX_PARALLEL = max(32, PARALLEL)
PATIENCE = 0.5
"""Seconds in which no stage ends before twice as many may run: long steps mostly wait for the network or the disk."""


class LinkedEvent(threading.Event):
    """Set also when `outer` is. Only `is_set` looks at both: nothing waits for it."""

    def __init__(self, outer: threading.Event) -> None:
        super().__init__()
        self._outer = outer

    def is_set(self) -> bool:
        return super().is_set() or self._outer.is_set()


class Circle(Exception):
    """A stage needs itself, by way of others; `stage` is the one that was asked for."""

    def __init__(self, stage: int) -> None:
        super().__init__(f"stage {stage} needs itself")
        self.stage = stage


class Once(Generic[T]):
    """The result of each stage, made by whoever asks first. Thread-safe."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._results: dict[int, Future[T]] = {}
        self._asked: dict[int, set[int]] = {}
        """Stage -> those that it has asked for: what would be waited for in a circle."""

    def get(self, stage: int, *, asking: int | None = None) -> T:
        """The stage's result: made now, waited for, or there already. Raises what making it raised, and `Circle`."""
        with self._lock:
            if asking is not None:
                if stage == asking or asking in self._reached(stage):
                    raise Circle(stage)
                self._asked.setdefault(asking, set()).add(stage)
            found = self._results.get(stage)
            if found is None:
                mine: Future[T] = Future()
                self._results[stage] = mine
        if found is not None:
            return found.result()
        try:
            result = self._make(stage)
        except BaseException as error:
            mine.set_exception(error)
            raise
        mine.set_result(result)
        return result

    def _reached(self, stage: int) -> set[int]:
        pending, found = [stage], set[int]()
        while pending:
            for other in self._asked.get(pending.pop(), ()):
                if other not in found:
                    found.add(other)
                    pending.append(other)
        return found


def perform(
    order: Iterable[int], needs: Mapping[int, Set[int]], run: Callable[[int], object], stop: threading.Event
) -> None:
    """Run every stage of `order` after those that it needs. A stage alone runs in the calling thread.

    The first failure sets `stop`, which the stages under way look at; it is raised when all of them have ended.
    """
    waiting = list(order)
    done: set[int] = set()
    with ExitStack() as stack:
        pool: ThreadPoolExecutor | None = None
        running: dict[Future[object], int] = {}
        failure: BaseException | None = None
        limit = PARALLEL
        while waiting or running:
            ready = [] if failure else [stage for stage in waiting if needs[stage] <= done]
            if len(ready) == 1 and not running:
                run(ready[0])
                done.add(ready[0])
                waiting.remove(ready[0])
                continue
            if pool is None:
                pool = stack.enter_context(ThreadPoolExecutor(MAX_PARALLEL, thread_name_prefix="stage"))
            room = limit - len(running)
            for stage in ready[:room]:
                waiting.remove(stage)
                running[pool.submit(run, stage)] = stage
            if not running:
                break
            growing = len(ready) > room and limit < MAX_PARALLEL
            ended = wait(running, PATIENCE if growing else None, return_when=FIRST_COMPLETED).done
            if not ended:
                limit = min(2 * limit, MAX_PARALLEL)
            for future in ended:
                error = future.exception()
                if error is None:
                    done.add(running[future])
                elif failure is None or (
                    isinstance(failure, BuildCancelled) and not isinstance(error, BuildCancelled)
                ):
                    # A stage that was only told to stop is not the reason.
                    failure = error
                    stop.set()
                del running[future]
        if failure is not None:
            raise failure
