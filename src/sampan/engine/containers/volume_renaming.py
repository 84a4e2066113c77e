"""A volume gets another name, and the containers that use it know it by that."""

from __future__ import annotations

import contextlib

import msgspec
from msgspec.structs import replace

from sampan.engine.config import HostConfig, MountRequest
from sampan.engine.containers.base import Parts
from sampan.engine.containers.store import Slot
from sampan.engine.model import ContainerRecord, MountPoint
from sampan.engine.mounts import check_volume_name
from sampan.errors import Conflict, Invalid
from sampan.storage.metadata import Table


class VolumeRenaming:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def rename(self, name: str, new: str) -> None:
        """Containers that do not run are carried over; while one runs it is refused.

        Raises `NotFound`, `Invalid`, `Conflict`, `Unsupported`.
        """
        if not new:
            raise Invalid("Neither old nor new names may be empty")
        check_volume_name(new)
        volumes = self._parts.volumes
        volumes.get(name)
        before = str(volumes.path(name).parent)
        after = str(volumes.path(name).parent.with_name(new))
        async with contextlib.AsyncExitStack() as stack:
            slots = self._users(name)
            for slot in slots:
                # No record of theirs is on its way to the database.
                await stack.enter_async_context(slot.saving)
            changed: list[tuple[Slot, ContainerRecord]] = []

            def write() -> None:
                for slot in self._users(name):
                    if (
                        slot not in slots
                    ):  # a container that was made just now: a save of it may be on its way
                        raise Conflict(f"rename {name}: volume is in use", hint="try again")
                    record = renamed(slot.record, name, new, before, after)
                    self._parts.metadata.put(Table.CONTAINERS, record.id, msgspec.json.encode(record))
                    changed.append((slot, record))

            await volumes.rename(name, new, write)
            for slot, record in changed:
                self._parts.store.replace(slot, record)

    def _users(self, name: str) -> list[Slot]:
        """Raises `Conflict` when one of them can't be told of its new name."""
        lost = self._parts.store.unreadable.naming(name)
        if lost:
            raise Conflict(
                f"rename {name}: volume is in use by container {lost[0]}, whose record can't be read"
            )
        found = (self._parts.store.get(container) for container in self._parts.volumes.use.users(name))
        return [slot for slot in found if slot is not None]


def renamed(record: ContainerRecord, name: str, new: str, before: str, after: str) -> ContainerRecord:
    """The record with the volume's new name; `before` and `after`: the volume's directory. Pure."""

    def point(one: MountPoint) -> MountPoint:
        if one.type != "volume" or one.name != name:
            return one
        source = after + one.source.removeprefix(before) if one.source.startswith(before) else one.source
        return replace(one, name=new, source=source)

    return replace(
        record, mounts=tuple(point(one) for one in record.mounts), host=_host(record.host, name, new)
    )


def _host(host: HostConfig, name: str, new: str) -> HostConfig:
    def bind(text: str) -> str:
        source, colon, rest = text.partition(":")
        return new + colon + rest if source == name else text

    def mount(request: MountRequest) -> MountRequest:
        return replace(request, source=new) if (request.type, request.source) == ("volume", name) else request

    return replace(
        host,
        binds=None if host.binds is None else type(host.binds)(bind(text) for text in host.binds),
        mounts=None if host.mounts is None else type(host.mounts)(mount(one) for one in host.mounts),
    )
