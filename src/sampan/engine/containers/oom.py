"""Kills by the OOM killer in running containers, of whichever process: event and state, as soon as they happen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from sampan.engine.containers.base import Parts
from sampan.engine.containers.store import Slot
from sampan.errors import SampanError
from sampan.linux.cgroups import Cgroup
from sampan.linux.cgroups.oom_listener import OomListener, listen
from sampan.runtime.messages import ExitRecord

log = logging.getLogger(__name__)

_LOOK_AGAIN = (0.02, 0.2)
"""Seconds after which the count of kills is looked at again: version 1 tells of the shortage before the kill."""


@dataclass(slots=True)
class _Watched:
    """`kills`: how many have been told of."""

    slot: Slot
    group: Cgroup
    kills: int = 0


class OomWatch:
    """Used from the event loop's thread. `spawn` runs what has to be waited for."""

    def __init__(self, parts: Parts, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._parts = parts
        self._spawn = spawn
        self._listener: OomListener | None = None
        self._watched: dict[str, _Watched] = {}

    def watch(self, slot: Slot, *, found: bool = False) -> None:
        """From now on kills are told of at once. `found`: it has been running for a while, unwatched.

        Where the host can't tell of them they are told of when the container ends.
        """
        record = slot.record
        group = self._parts.cgroup(record)
        watched = _Watched(slot, group)
        try:
            if self._listener is None:
                self._listener = listen(self._parts.cgroups)
                asyncio.get_running_loop().add_reader(self._listener.fileno(), self._readable)
            self._listener.add(group.path)
        except (SampanError, OSError) as error:
            log.debug("container %s is not watched for OOM kills: %s", record.id, error)
            return
        self._watched[group.path] = watched
        if found:
            watched.kills = group.oom_kills() if record.state.oom_killed else 0
            self._look(group.path, watched, ())

    def ended(self, slot: Slot, end: ExitRecord) -> tuple[bool, bool]:
        """(whether the killer struck in this life of the container, whether that has not been told of yet)."""
        path = self._parts.cgroup(slot.record).path
        watched = self._watched.pop(path, None)
        if self._listener is not None:
            self._listener.remove(path)
        told = slot.record.state.oom_killed
        known = watched.kills if watched is not None else int(told)
        kills = max(end.oom_kills, int(end.oom_killed))
        return kills > 0 or told, kills > known

    def close(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        self._watched.clear()

    def _readable(self) -> None:
        for path in self._listener.touched_nowait() if self._listener is not None else ():
            if path in self._watched:
                self._look(path, self._watched[path], _LOOK_AGAIN)

    def _look(self, path: str, watched: _Watched, later: tuple[float, ...]) -> None:
        if self._watched.get(path) is not watched:
            return
        kills = watched.group.oom_kills()
        if kills > watched.kills:
            watched.kills = kills
            self._struck(watched.slot)
        elif later:
            asyncio.get_running_loop().call_later(later[0], self._look, path, watched, later[1:])
        elif watched.slot.record.host.oom_kill_disable and watched.group.exists():
            self._struck(watched.slot)  # the processes hang instead of being killed

    def _struck(self, slot: Slot) -> None:
        self._parts.announce(slot.record, "oom")
        if not slot.record.state.oom_killed:
            self._parts.set_state(slot, replace(slot.record.state, oom_killed=True))
            self._spawn(self._save(slot))

    async def _save(self, slot: Slot) -> None:
        try:
            await self._parts.store.save(slot)
        except SampanError as error:
            log.warning("the OOM kill in container %s could not be written down: %s", slot.record.id, error)
