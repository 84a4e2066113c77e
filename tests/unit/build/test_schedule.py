"""Which stages run when, and in which order they are heard."""

from __future__ import annotations

import threading

import pytest

from sampan.build.errors import BuildCancelled
from sampan.build.solver import flights as flights_module
from sampan.build.solver import schedule
from sampan.build.solver.flights import Flights
from sampan.build.solver.schedule import Circle, LinkedEvent, Once, perform

WAIT = 20.0
"""Seconds after which a test that hangs fails."""


def test_stages_without_a_common_need_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=WAIT)

    def run(stage: int) -> None:
        if stage in (1, 2):
            both.wait()

    perform([0, 1, 2, 3], {0: set(), 1: {0}, 2: {0}, 3: {1, 2}}, run, threading.Event())


def test_a_stage_runs_after_what_it_needs() -> None:
    ended: list[int] = []
    needs = {0: set[int](), 1: {0}, 2: {0}, 3: {2}, 4: {1, 3}}
    missing: list[int] = []

    def run(stage: int) -> None:
        missing.extend(needs[stage] - set(ended))
        ended.append(stage)

    perform([0, 1, 2, 3, 4], needs, run, threading.Event())
    assert missing == []
    assert sorted(ended) == [0, 1, 2, 3, 4]


def test_stages_in_a_row_take_no_thread() -> None:
    threads: set[int] = set()
    perform([0, 1], {0: set(), 1: {0}}, lambda _stage: threads.add(threading.get_ident()), threading.Event())
    assert threads == {threading.get_ident()}


def test_a_failure_stops_the_others_and_is_the_one_told() -> None:
    stop = LinkedEvent(threading.Event())
    started = threading.Event()

    def run(stage: int) -> None:
        if stage == 0:
            assert started.wait(WAIT)
            raise ValueError("the reason")
        started.set()
        while not stop.is_set():
            threading.Event().wait(0.01)
        raise BuildCancelled

    with pytest.raises(ValueError, match="the reason"):
        perform([0, 1, 2], {0: set(), 1: set(), 2: {1}}, run, stop)


def test_a_stage_is_made_once_for_all_who_ask() -> None:
    made: list[int] = []
    entered = threading.Event()
    go_on = threading.Event()

    def make(stage: int) -> str:
        made.append(stage)
        entered.set()
        assert go_on.wait(WAIT)
        return "result"

    once = Once(make)
    results: list[str] = []
    others = [threading.Thread(target=lambda: results.append(once.get(7))) for _ in range(3)]
    others[0].start()
    assert entered.wait(WAIT)
    for other in others[1:]:
        other.start()
    go_on.set()
    for other in others:
        other.join(WAIT)
    assert results == ["result"] * 3
    assert made == [7]


def test_stages_that_need_each_other_are_a_circle() -> None:
    once: Once[int]

    def make(stage: int) -> int:
        return once.get(1 - stage, asking=stage)

    once = Once(make)
    with pytest.raises(Circle):
        once.get(0)


def test_stages_that_take_long_do_not_keep_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "PATIENCE", 0.01)
    monkeypatch.setattr(schedule, "PARALLEL", 2)
    monkeypatch.setattr(schedule, "MAX_PARALLEL", 6)
    together = threading.Barrier(6, timeout=30)
    lock = threading.Lock()
    running: set[int] = set()
    most = 0

    def run(stage: int) -> None:
        nonlocal most
        with lock:
            running.add(stage)
            most = max(most, len(running))
        together.wait()
        with lock:
            running.remove(stage)

    perform(range(12), {stage: set() for stage in range(12)}, run, threading.Event())
    assert most == 6


def test_an_outer_event_sets_the_inner_one_and_not_the_other_way_round() -> None:
    outer = threading.Event()
    inner = LinkedEvent(outer)
    inner.set()
    assert inner.is_set()
    assert not outer.is_set()
    other = LinkedEvent(outer)
    assert not other.is_set()
    outer.set()
    assert other.is_set()


def test_a_waiting_build_that_is_cancelled_does_not_wait_for_the_step() -> None:
    flights = Flights()
    cancelled = threading.Event()
    cancelled.set()
    with (
        flights.alone("key", threading.Event()),
        pytest.raises(BuildCancelled),
        flights.alone("key", cancelled),
    ):
        pass
    with flights.alone("key", cancelled):  # free again
        pass


class _Looked(threading.Event):
    """Is set when it has been looked at often."""

    def __init__(self) -> None:
        super().__init__()
        self._looks = 0

    def is_set(self) -> bool:
        self._looks += 1
        return self._looks > 20


def test_long_waiting_for_a_step_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other build may be suspended: nobody should wonder why nothing happens."""
    monkeypatch.setattr(flights_module, "PATIENCE", 0.0)
    monkeypatch.setattr(flights_module, "_LOOK", 0.001)
    flights = Flights()
    told: list[str] = []
    with (
        flights.alone("key", threading.Event(), lambda: told.append("not this one")),
        pytest.raises(BuildCancelled),
        flights.alone("key", _Looked(), lambda: told.append("waiting")),
    ):
        pass
    assert told == ["waiting"]
