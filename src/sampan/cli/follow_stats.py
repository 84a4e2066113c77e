"""The stats streams of several containers at once, of containers that come and go too."""

from __future__ import annotations

import select
import time

from sampan.client.api import ApiError, filters_query, quote_path
from sampan.client.codec import StreamDecoder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sampan.client.api import Client
    from sampan.client.connection import Response

_LEAST_PAUSE = 0.5
"""Seconds between two pictures."""


class _Stream:
    """An answer that goes on, and what of it is decoded."""

    def __init__(self, client: Client, path: str, query: dict[str, Any]) -> None:
        self.response: Response = client.request("GET", path, query)
        self._decoder = StreamDecoder()

    def fileno(self) -> int:
        return self.response.fileno()

    def read(self) -> list[Any] | None:
        """The documents that have come; None at the end."""
        found: list[Any] = []
        while True:
            try:
                data = self.response.read_some()
            except ConnectionResetError:
                return None  # the engine has ended
            if not data:
                return None
            found += self._decoder.feed(data)
            if not self.response.pending:
                return found


class StatsFollower:
    """`latest`: container as it was named -> its last reading; empty as long as there was none.

    `follow`: containers that are started (with `every`: created) meanwhile are taken in, those that end (with
    `every`: are removed) are dropped.
    """

    def __init__(self, client: Client, names: list[str], *, follow: bool, every: bool) -> None:
        self._client = client
        self._every = every
        self.latest: dict[str, dict[str, Any]] = {}
        self._streams: dict[str, _Stream] = {}
        self._events: _Stream | None = None
        if follow:
            query = {"filters": filters_query({"type": ["container"]})}
            self._events = _Stream(client, "/events", query)
        for name in names:
            try:
                self._add(name)
            except ApiError as error:
                # A container of the list may have gone meanwhile; one that somebody named should be there.
                if not follow or error.status != 404:
                    raise

    def pictures(self) -> Iterator[list[tuple[str, dict[str, Any]]]]:
        """What is known, in the order in which the containers came, each time that something has changed."""
        last = 0.0
        changed = True  # the first picture may be of nothing
        while True:
            due = changed and all(self.latest.values())
            if due and time.monotonic() >= last + _LEAST_PAUSE:
                last, changed = time.monotonic(), False
                yield list(self.latest.items())
            elif not self._streams and self._events is None:
                return
            else:
                changed |= self._read(max(0.0, last + _LEAST_PAUSE - time.monotonic()) if due else None)

    def _add(self, name: str) -> None:
        self._streams[name] = _Stream(self._client, f"/containers/{quote_path(name)}/stats", {"stream": "1"})
        self.latest[name] = {}

    def _drop(self, name: str) -> None:
        stream = self._streams.pop(name, None)
        if stream is not None:
            stream.response.close()
        self.latest.pop(name, None)

    def _read(self, timeout: float | None) -> bool:
        """Wait for something, at most `timeout` seconds; whether a picture would be another now."""
        streams: list[tuple[str, _Stream]] = list(self._streams.items())
        if self._events is not None:
            streams.append(("", self._events))
        poller = select.poll()
        for _, stream in streams:
            poller.register(stream, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll(None if timeout is None else timeout * 1000)}
        for name, stream in streams:
            if stream.fileno() not in ready:
                continue
            documents = stream.read()
            if stream is self._events:
                self._notice(documents)
            elif self._streams.get(name) is stream:
                if documents is None:
                    self._drop(name)
                elif documents:
                    self.latest[name] = documents[-1]
        return bool(ready)

    def _notice(self, events: list[Any] | None) -> None:
        if events is None:
            self._events = None
            return
        come, go = ("create", "destroy") if self._every else ("start", "die")
        for event in events:
            identity = str((event.get("Actor") or {}).get("ID", ""))[:12]
            if event.get("Action") == come and identity not in self._streams:
                try:
                    self._add(identity)
                except ApiError as error:
                    if error.status != 404:
                        raise
            elif event.get("Action") == go:
                self._drop(identity)
