"""The container records: in memory for reading, in the metadata database to outlive the engine.

One event loop's thread uses this. Writing is two steps: memory first (`replace`), then the database in a
thread (`save`), in the order of the changes of one container.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import msgspec

from sampan.engine.containers.unreadable import Unreadable
from sampan.engine.model import ContainerRecord
from sampan.engine.record_store import Store, read_records
from sampan.errors import Conflict, Internal, Invalid, NotFound
from sampan.storage.metadata import Table


class Slot:
    """What belongs to one container while the engine runs."""

    __slots__ = ("cache", "lock", "naming", "record", "saving")

    def __init__(self, record: ContainerRecord) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        """Held by whoever changes the container's state (start, stop, remove, ...)."""
        self.naming = asyncio.Lock()
        """Held by whoever changes its name, or takes it away with the container; after `lock`, before `saving`."""
        self.saving = asyncio.Lock()
        self.cache: dict[str, object] = {}
        """Derived values of this very record; emptied by every change."""


def _encoded(record: ContainerRecord) -> bytes:
    """Raises `Internal` rather than give the database a record with which no engine could start any more."""
    body = msgspec.json.encode(record)
    _decoded(record.id, body)
    return body


def _decoded(container_id: str, body: bytes) -> ContainerRecord:
    try:
        return msgspec.json.decode(body, type=ContainerRecord)
    except msgspec.DecodeError as error:
        raise Internal(f"the record of container {container_id} can't be read: {error}") from error


class ContainerStore:
    def __init__(self, metadata: Store) -> None:
        self._metadata = metadata
        self._slots: dict[str, Slot] = {}
        self._names: dict[str, str] = {}
        records, unreadable = read_records(
            metadata,
            Table.CONTAINERS,
            ContainerRecord,
            "container",
            "its files are left as they are; 'rm --force' with its id gives them up",
        )
        self.unreadable = Unreadable(unreadable)
        for key, record in records.items():
            self._slots[key] = Slot(record)
            self._names[record.name] = key

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[ContainerRecord]:
        return iter([slot.record for slot in self.slots()])

    def slots(self) -> list[Slot]:
        """Those of this moment, also for another thread (what images are in use): one step of the interpreter."""
        return list(self._slots.values())

    def find(self, reference: str) -> Slot:
        """By id, name (with or without slash) or a prefix of an id that only one has.

        Raises `NotFound`, and `Invalid` for an ambiguous prefix, in Docker's words.
        """
        slot = self._slots.get(reference)
        if slot is not None:
            return slot
        by_name = self._names.get(reference.removeprefix("/"))
        if by_name is not None and by_name in self._slots:
            return self._slots[by_name]
        found = [key for key in self._slots if reference and key.startswith(reference)]
        if len(found) > 1:
            raise Invalid(f"Multiple IDs found with provided prefix: {reference}")
        if not found:
            raise NotFound(f"No such container: {reference}")
        return self._slots[found[0]]

    def get(self, container_id: str) -> Slot | None:
        return self._slots.get(container_id)

    @property
    def names(self) -> dict[str, str]:
        """Name -> id, names of containers that are being made among them."""
        return self._names

    def reserve_name(self, name: str, container_id: str) -> None:
        """Raises `Conflict` when another container has it."""
        owner = self._names.get(name)
        if owner is not None and owner != container_id:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{owner}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._names[name] = container_id

    def release_name(self, name: str, container_id: str) -> None:
        if self._names.get(name) == container_id:
            del self._names[name]

    def add(self, record: ContainerRecord) -> Slot:
        """Make a container visible; its record is in the database already."""
        slot = Slot(record)
        self._slots[record.id] = slot
        return slot

    def replace(self, slot: Slot, record: ContainerRecord) -> None:
        slot.record = record
        slot.cache.clear()

    async def save(self, slot: Slot, *, durable: bool = False) -> None:
        """Write the slot's record as it is now. `durable`: it must outlive a power failure. Raises `SampanError`.

        What describes processes need not: after a power failure there are none.
        """
        async with slot.saving:
            if self._slots.get(slot.record.id) is not slot:
                return
            body = _encoded(slot.record)
            await asyncio.to_thread(
                self._metadata.put, Table.CONTAINERS, slot.record.id, body, durable=durable
            )

    async def insert(self, record: ContainerRecord, *, durable: bool) -> Slot:
        body = _encoded(record)
        await asyncio.to_thread(self._metadata.put, Table.CONTAINERS, record.id, body, durable=durable)
        return self.add(record)

    async def delete(self, slot: Slot) -> None:
        """Take the record out of the database, and the container out of sight.

        Flushed, or a power failure could bring back a record whose files are gone; a container that removes itself
        has had no flushed record.
        """
        durable = not slot.record.host.auto_remove
        async with slot.naming, slot.saving:
            record = slot.record
            await asyncio.to_thread(self._metadata.delete, Table.CONTAINERS, record.id, durable=durable)
            self._slots.pop(record.id, None)
            self.release_name(record.name, record.id)

    async def give_up(self, container_id: str) -> None:
        """Take a record that can't be read out of the database."""
        await asyncio.to_thread(self._metadata.delete, Table.CONTAINERS, container_id, durable=True)
        self.unreadable.forget(container_id)

    def using(self, wanted: Callable[[ContainerRecord], bool]) -> list[str]:
        """Ids of the containers for which `wanted` holds."""
        return [record.id for record in self if wanted(record)]
