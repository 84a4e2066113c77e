"""Lists, inspection, sizes and pruning of containers."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import Callable, Sequence

from sampan.engine import state
from sampan.engine.containers.base import Filters, Json, Parts
from sampan.engine.containers.inspect import inspect_json, status_text, summary
from sampan.engine.containers.lifecycle import Lifecycle
from sampan.engine.containers.store import Slot
from sampan.engine.filters import check_filters, label_matches, parse_time
from sampan.engine.model import ContainerRecord, epoch_ns
from sampan.engine.name_filter import name_matches
from sampan.errors import Conflict, Invalid, NotFound

_LIST_FILTERS = (
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "label!", "name",
    "network", "publish", "since", "status", "volume",
)  # fmt: skip
_PRUNE_FILTERS = ("label", "label!", "until")


class Listing:
    def __init__(self, parts: Parts, lifecycle: Lifecycle, exec_ids: Callable[[str], list[str]]) -> None:
        self._parts = parts
        self._lifecycle = lifecycle
        self._exec_ids = exec_ids

    async def inspect(self, reference: str, *, size: bool = False) -> Json:
        slot = self._parts.store.find(reference)
        body = inspect_json(slot.record, self._parts, self._exec_ids(slot.record.id))
        if size:
            body["SizeRw"], body["SizeRootFs"] = await asyncio.to_thread(self._sizes, slot.record)
        return body

    async def list(
        self, filters: Filters | None = None, *, all: bool = False, limit: int = 0, size: bool = False
    ) -> list[Json]:
        """Newest first. Without `all` only running ones, unless a filter speaks of others."""
        filters = filters or {}
        check_list_filters(filters)
        everything = all or limit > 0 or any(name in filters for name in ("status", "exited"))
        before, since = self._reference(filters, "before"), self._reference(filters, "since")
        ancestors = await self._ancestors(filters.get("ancestor", ()))
        found: list[Json] = []
        now_ns = time.time_ns()
        slots = sorted(self._parts.store.slots(), key=lambda slot: slot.record.created, reverse=True)
        for slot in slots:
            record = slot.record
            if not everything and not (record.running or record.state.status == "restarting"):
                continue
            if (before and record.created >= before) or (since and record.created <= since):
                continue
            if ancestors is not None and record.image_id not in ancestors:
                continue
            if not self._matches(record, filters):
                continue
            entry = self._entry(slot, now_ns)
            if size:
                entry["SizeRw"], entry["SizeRootFs"] = await asyncio.to_thread(self._sizes, record)
            found.append(entry)
            if limit > 0 and len(found) == limit:
                break
        return found

    def _entry(self, slot: Slot, now_ns: int) -> Json:
        cached = slot.cache.get("summary")
        body: Json = cached if isinstance(cached, dict) else summary(slot.record, slot.record.image)
        slot.cache["summary"] = body
        return {**body, "Status": status_text(slot.record.state, now_ns)}

    def _reference(self, filters: Filters, name: str) -> str:
        values = filters.get(name, ())
        return self._parts.store.find(values[0]).record.created if values else ""

    async def _ancestors(self, names: Sequence[str]) -> set[str] | None:
        """Ids of the images named; None when the filter is not there. Unknown names match nothing."""
        if not names:
            return None
        found = set()
        for name in names:
            try:
                found.add(str((await asyncio.to_thread(self._parts.images.get, name)).id))
            except (NotFound, Invalid):
                continue
        return found

    def _matches(self, record: ContainerRecord, filters: Filters) -> bool:
        checks: dict[str, Callable[[str], bool]] = {
            "id": lambda value: name_matches(value, record.id),
            "name": lambda value: any(name_matches(value, name) for name in (record.name, f"/{record.name}")),
            "status": lambda value: record.state.status == value,
            "exited": lambda value: record.state.status == "exited" and record.state.exit_code == int(value),
            "health": lambda value: _health(record) == value,
            "volume": lambda value: any(value in (point.name, point.destination) for point in record.mounts),
            "network": lambda value: any(
                name == value or endpoint.network_id.startswith(value)
                for name, endpoint in record.endpoints.items()
            ),
            "publish": lambda value: any(
                _port_matches("publish", value, binding.host_port, binding.protocol)
                for binding in record.published
            ),
            "expose": lambda value: any(
                _port_matches("expose", value, int(name.partition("/")[0]), name.partition("/")[2])
                for name in record.config.exposed_ports or {}
            ),
            "is-task": lambda value: value.lower() in ("false", "0"),
            "isolation": lambda value: value in ("default", ""),
        }
        for name, check in checks.items():
            values = filters.get(name, ())
            if values and not any(check(value) for value in values):
                return False
        return label_matches(record.labels, filters)

    def _sizes(self, record: ContainerRecord) -> tuple[int, int]:
        """Blocking: bytes in the writable layer, and with all layers below it."""
        own = self._parts.snapshots.usage(record.id)
        below = 0
        for layer in record.layers:
            try:
                below += self._parts.layers.size(layer)  # type: ignore[arg-type]
            except NotFound:
                continue
        return own, own + below

    async def disk_usage(self) -> builtins.list[Json]:
        """Every container's entry with its sizes."""
        return await self.list(all=True, size=True)

    async def prune(self, filters: Filters, *, dry_run: bool = False) -> Json:
        """Remove what does not run; with `dry_run` only say what that is."""
        check_filters(filters, _PRUNE_FILTERS)
        until = [parse_time(text) for text in filters.get("until", ())]
        removed: list[str] = []
        freed = 0
        for record in self._parts.store:
            if record.running or record.state.status == "restarting":
                continue
            if (until and epoch_ns(record.created) > min(until)) or not label_matches(record.labels, filters):
                continue
            try:
                state.check_remove(record, force=False)
                size = await asyncio.to_thread(self._parts.snapshots.usage, record.id)
                if not dry_run:
                    await self._lifecycle.remove(record.id)
            except (Conflict, NotFound):
                continue  # started or removed by somebody else meanwhile
            freed += size
            removed.append(record.id)
        if not dry_run:
            self._parts.events.publish("container", "prune", "", {"reclaimed": str(freed)})
        return {"ContainersDeleted": removed, "SpaceReclaimed": freed}


def check_list_filters(filters: Filters) -> None:
    check_filters(filters, _LIST_FILTERS)
    for value in filters.get("status", ()):
        if value not in state.STATUSES:
            raise Invalid(f"invalid filter 'status={value}'")
    for value in filters.get("exited", ()):
        if not value.removeprefix("-").isdecimal():
            raise Invalid(f"invalid filter 'exited={value}'")
    for value in filters.get("health", ()):
        if value not in ("none", "starting", "healthy", "unhealthy"):
            raise Invalid(f"Unrecognised filter value for health: {value}")
    for value in filters.get("is-task", ()):
        if value.lower() not in ("true", "false", "1", "0"):
            raise Invalid(f"invalid filter 'is-task={value}'")
    for name in ("publish", "expose"):
        for value in filters.get(name, ()):
            _parse_ports(name, value)


def _health(record: ContainerRecord) -> str:
    return record.state.health.status if record.state.health is not None else "none"


def _parse_ports(name: str, text: str) -> tuple[int, int, str]:
    """`80`, `80-90/udp` -> first, last, protocol ("" when none was given). Raises `Invalid` in Docker's words."""
    wanted, _, protocol = text.partition("/")
    first, dash, last = wanted.partition("-")
    for number in (first, last) if dash else (first,):
        problem = "invalid syntax" if not number.isascii() or not number.isdecimal() else ""
        if not problem and int(number[:10]) > 65535:
            problem = "value out of range"
        if problem:
            raise Invalid(
                f'error while looking up for {name} {text}: strconv.ParseUint: parsing "{number}": {problem}'
            )
    return int(first), int(last or first), protocol.lower()


def _port_matches(name: str, text: str, port: int, protocol: str) -> bool:
    first, last, wanted = _parse_ports(name, text)
    return first <= port <= last and (not wanted or wanted == (protocol or "tcp"))
