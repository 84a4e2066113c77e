"""Giving a volume another name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from msgspec.structs import replace

from sampan.engine.events import EventBus
from sampan.engine.mounts import check_volume_name
from sampan.engine.record_store import Store
from sampan.engine.volumes.store import VolumeStore
from sampan.engine.volumes.use import Use
from sampan.errors import Conflict, Unsupported
from sampan.storage.metadata import Table

RENAME_NOTE = "volume-rename/"
"""Keys of notes: a rename whose records are written and whose directory may still have the old name."""


class Renaming:
    def __init__(self, store: VolumeStore, use: Use, metadata: Store, events: EventBus) -> None:
        self._store = store
        self._use = use
        self._metadata = metadata
        self._events = events

    async def rename(self, name: str, new: str, users: Callable[[], None]) -> None:
        """Give a volume another name. `users` writes the records of the containers that use it, in one transaction
        with the volume's; it runs on the loop, so that nobody sees only half of it.

        Raises `NotFound`, `Invalid`, `Conflict`, `Unsupported` (another driver's: it knows the volume by its name).
        """
        check_volume_name(new)
        names = sorted({name, new})
        async with contextlib.AsyncExitStack() as stack:
            for one in names:
                await stack.enter_async_context(self._store.changing(one))
            record = self._store.get(name)
            if new in self._store.records:
                raise Conflict(f"rename {name}: a volume with the name {new} exists already")
            self._store.check_coming("rename", new)
            if record.driver != self._store.local.name:
                raise Unsupported(f"rename {name}: the driver {record.driver} knows the volume by its name")
            if self._use.is_held(name):
                raise Conflict(f"rename {name}: volume is in use")
            self._use.check_idle(name)
            self._store.local.check_free(new)
            renamed = replace(record, name=new, anonymous=False, owner="")
            with self._metadata.transaction():
                self._metadata.put(Table.SETTINGS, RENAME_NOTE + name, new.encode())
                self._store.put(renamed)
                self._store.drop(name)
                users()
            self._store.local.rename(name, new)
            self._metadata.delete(Table.SETTINGS, RENAME_NOTE + name)
            del self._store.records[name]
            self._store.records[new] = renamed
        self._events.publish("volume", "rename", new, {"driver": record.driver, "oldName": name})

    def finish_renames(self) -> None:
        """At the engine's start: the records have the new name already."""
        for key, new in self._metadata.items(Table.SETTINGS, RENAME_NOTE):
            self._store.local.rename(key.removeprefix(RENAME_NOTE), new.decode())
            self._metadata.delete(Table.SETTINGS, key)
