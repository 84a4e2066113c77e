from __future__ import annotations

import asyncio
import time

import pytest

from sampan.engine.events import Event, EventBus, matches

DIED = Event("container", "die", "abc123", {"name": "web", "image": "nginx:1", "team": "x"}, 1_500_000_000)


@pytest.mark.parametrize(
    "filters",
    [
        {"type": ["container"]},
        {"event": ["start", "die"]},
        {"container": ["web"]},
        {"container": ["abc"]},
        {"image": ["nginx"]},
        {"image": ["nginx:1"]},
        {"label": ["team"]},
        {"label": ["team=x"], "event": ["die"]},
        {},
        # Docker looks at the actor's id and name, whatever the event's type, and passes over what it doesn't know.
        {"volume": ["we"]},
        {"nosuch": ["x"]},
        {"image": ["nginx"]},
        {"scope": ["local"]},
    ],
)
def test_an_event_that_fits_every_filter_matches(filters: dict[str, list[str]]) -> None:
    assert matches(DIED, filters)


@pytest.mark.parametrize(
    "filters",
    [
        {"type": ["image"]},
        {"event": ["start"]},
        {"container": ["other"]},
        {"image": ["nginx:2"]},
        {"label": ["team=y"]},
        {"label": ["team=x"], "event": ["start"]},
        {"volume": ["data"]},
        {"network": ["bridge"]},
        {"daemon": ["host"]},
        {"scope": ["swarm"]},
    ],
)
def test_an_event_that_misses_one_filter_does_not_match(filters: dict[str, list[str]]) -> None:
    assert not matches(DIED, filters)


def test_health_events_are_found_by_the_part_before_the_colon() -> None:
    assert matches(Event("container", "health_status: healthy", "a"), {"event": ["health_status"]})


def test_the_json_form_has_dockers_fields() -> None:
    assert DIED.to_json() == {
        "status": "die",
        "id": "abc123",
        "from": "nginx:1",
        "Type": "container",
        "Action": "die",
        "Actor": {"ID": "abc123", "Attributes": {"name": "web", "image": "nginx:1", "team": "x"}},
        "scope": "local",
        "time": 1,
        "timeNano": 1_500_000_000,
    }


def test_a_subscriber_sees_the_past_it_asked_for_and_then_the_present() -> None:
    async def main() -> list[str]:
        bus = EventBus()
        bus.publish("volume", "create", "old", time_ns=10)
        bus.publish("volume", "create", "recent", time_ns=20)
        stream = bus.subscribe(since_ns=20)
        seen = [(await anext(stream)).actor_id]
        bus.publish("volume", "create", "new")
        seen.append((await anext(stream)).actor_id)
        await stream.aclose()  # type: ignore[attr-defined]
        return seen

    assert asyncio.run(main()) == ["recent", "new"]


def test_a_subscription_ends_at_until() -> None:
    async def main() -> list[Event]:
        bus = EventBus()
        bus.publish("volume", "create", "a")
        return [event async for event in bus.subscribe(since_ns=0, until_ns=time.time_ns())]

    assert [event.actor_id for event in asyncio.run(main())] == ["a"]


def test_a_subscriber_that_does_not_read_is_ended_and_not_kept_in_memory() -> None:
    async def main() -> int:
        bus = EventBus()
        stream = bus.subscribe(since_ns=0)
        bus.publish("volume", "create", "first")
        await anext(stream)
        for number in range(5000):
            bus.publish("volume", "create", str(number))
        return len([event async for event in stream])

    assert asyncio.run(main()) == 4096
