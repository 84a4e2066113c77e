"""What happened, for `events` and for whoever waits: published once, kept for a while, streamed.

The last events are kept in memory as Docker does, so that `since` can look back.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

_KEPT = 1024
_QUEUE = 4096
"""Events that a slow subscriber may be behind before it is cut off."""


@dataclass(frozen=True, slots=True)
class Event:
    """`type` is container, image, volume, network, daemon or builder; `time_ns` since the epoch."""

    type: str
    action: str
    actor_id: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    time_ns: int = 0

    def to_json(self) -> dict[str, object]:
        """Docker's form, with the old fields (status, id, from) that clients still read."""
        body: dict[str, object] = {}
        if self.type in ("container", "image"):
            body["status"] = self.action
            if self.actor_id:
                body["id"] = self.actor_id
            if "image" in self.attributes:
                body["from"] = self.attributes["image"]
        body.update(
            {
                "Type": self.type,
                "Action": self.action,
                "Actor": {"ID": self.actor_id, "Attributes": dict(self.attributes)},
                "scope": "local",
                "time": self.time_ns // 1_000_000_000,
                "timeNano": self.time_ns,
            }
        )
        return body


_OBJECTS = ("container", "volume", "network", "daemon", "plugin", "node", "service", "secret", "config")


def matches(event: Event, filters: Mapping[str, list[str]]) -> bool:
    """Docker's rule: the values of one filter are alternatives, different filters all must hold.

    A filter that is not known holds for every event, as in Docker.
    """
    return all(_matches_one(event, name, values) for name, values in filters.items() if values)


def _matches_one(event: Event, name: str, values: list[str]) -> bool:
    attributes = event.attributes
    if name == "type":
        return event.type in values
    if name in ("event", "action"):
        return any(event.action == value or event.action.startswith(value + ":") for value in values)
    if name == "label":
        return all(_has_label(attributes, value) for value in values)
    if name == "image":
        names = (event.actor_id, attributes.get("name" if event.type == "image" else "image", ""))
        return any(value in (each, _without_tag(each)) for each in names for value in values)
    if name in _OBJECTS:
        # Docker asks for the beginning of the actor's id or name, of whatever type the event is.
        own = (event.actor_id, attributes.get("name", ""))
        return any(each.startswith(value) for each in own for value in values)
    return name != "scope" or "local" in values


def _without_tag(image: str) -> str:
    repository, colon, tag = image.rpartition(":")
    return repository if colon and "/" not in tag else image


def _has_label(attributes: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in attributes and (not equals or attributes[key] == value)


class EventBus:
    """Used from the event loop's thread only."""

    def __init__(self) -> None:
        self._recent: deque[Event] = deque(maxlen=_KEPT)
        self._subscribers: set[asyncio.Queue[Event | None]] = set()
        self.published: Counter[tuple[str, str]] = Counter()
        """How many events of a type and an action there were; the action without what it was done with."""

    @property
    def subscribers(self) -> int:
        return len(self._subscribers)

    def publish(
        self,
        type_: str,
        action: str,
        actor_id: str,
        attributes: Mapping[str, str] | None = None,
        *,
        time_ns: int | None = None,
    ) -> Event:
        event = Event(type_, action, actor_id, dict(attributes or {}), time_ns or time.time_ns())
        self._recent.append(event)
        self.published[type_, action.partition(":")[0]] += 1
        for queue in tuple(self._subscribers):
            if queue.qsize() >= _QUEUE:
                # A reader that does not keep up is ended, not allowed to fill the memory.
                self._subscribers.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)
        return event

    async def subscribe(
        self,
        filters: Mapping[str, list[str]] | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> AsyncIterator[Event]:
        """Past events from `since_ns` on, then those to come, up to `until_ns`."""
        wanted = filters or {}
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        past = [] if since_ns is None else [event for event in self._recent if event.time_ns >= since_ns]
        self._subscribers.add(queue)
        try:
            for event in past:
                if (until_ns is None or event.time_ns <= until_ns) and matches(event, wanted):
                    yield event
            while (event_or_end := await self._next(queue, until_ns)) is not None:
                if matches(event_or_end, wanted):
                    yield event_or_end
        finally:
            self._subscribers.discard(queue)

    async def _next(self, queue: asyncio.Queue[Event | None], until_ns: int | None) -> Event | None:
        if until_ns is None:
            return await queue.get()
        remaining = (until_ns - time.time_ns()) / 1e9
        if remaining <= 0:
            return None
        try:
            return await asyncio.wait_for(queue.get(), remaining)
        except TimeoutError:
            return None
