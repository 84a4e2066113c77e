"""Volumes backed up, restored, copied and compared: what is asked for, joined from the parts."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from sampan.engine.events import EventBus
from sampan.engine.images import Images
from sampan.engine.model import VolumeRecord
from sampan.engine.record_store import Store
from sampan.engine.threads import in_own_thread, streamed
from sampan.engine.volume_backup.copying import Copying
from sampan.engine.volume_backup.differences import Side, compare
from sampan.engine.volume_backup.making import Making
from sampan.engine.volume_backup.messages import (
    Json,
    bar,
    progress_json,
    reports,
    stepped,
    stop_if,
    told,
    translated,
)
from sampan.engine.volume_backup.orders import Backup
from sampan.engine.volume_backup.placing import Limits
from sampan.engine.volume_backup.reading import Restored
from sampan.engine.volume_backup.restoring import AsSnapshot, Given, restore_chain
from sampan.engine.volume_backup.snapshots import SnapshotStore, Source
from sampan.engine.volume_backup.sources import Sources
from sampan.engine.volume_backup.trees import Trees
from sampan.engine.volume_backup.users import Containers, Users
from sampan.engine.volumes.service import Volumes
from sampan.errors import Conflict


class VolumeBackups:
    """Used from the event loop's thread."""

    def __init__(
        self,
        root: Path,
        volumes: Volumes,
        containers: Containers,
        images: Images,
        metadata: Store,
        events: EventBus,
    ) -> None:
        """`root`: the engine's `volumes` directory."""
        self._root = root
        self._volumes = volumes
        self._events = events
        users = Users(containers, metadata)
        snapshots = SnapshotStore(root)
        self._trees = Trees(root, volumes, snapshots, users)
        self._sources = Sources(images, snapshots)
        making = Making(root, volumes, images, self._trees, self._sources, self._announce)
        copying = Copying(volumes, snapshots, self._trees, self._announce)
        self.recover = users.recover
        self.backup = making.backup
        self.backup_to_registry = making.backup_to_registry
        self.clone = copying.clone
        self.snapshot = copying.snapshot
        self.snapshots = copying.snapshots
        self.remove_snapshot = copying.remove_snapshot

    async def restore(
        self, name: str, given: Sequence[Given], *, force: bool, limits: Limits
    ) -> AsyncGenerator[Json, None]:
        """Make the volume what the last of the backups says, whose bases stand before it; messages, then the result.

        All or nothing: an error, or the engine's death, leaves what there was. With `force` an existing volume gets
        the new content, while no container that uses it runs.
        """
        exists = self._volumes.find(name) is not None
        if exists and not force:
            raise Conflict(
                f"restore {name}: a volume with this name exists already",
                hint="use --force to replace what is in it",
            )
        done: list[Restored] = []

        def work_into(place: Path) -> Callable[[Callable[[Json], None], threading.Event], None]:
            def work(report: Callable[[Json], None], cancelled: threading.Event) -> None:
                def progress(size: int, total: int) -> None:
                    stop_if(cancelled)
                    report(bar(Source(name), "Restoring", size, total))

                with translated(Source(name)):
                    restored = restore_chain(
                        given,
                        place,
                        self._root,
                        self._sources,
                        limits,
                        stepped(progress),
                        lambda item: report(progress_json(item)),
                        cancelled,
                    )
                done.append(restored)

            return work

        def labelled(record: VolumeRecord) -> VolumeRecord:
            """Driver's options are not taken over: a stranger's backup could name any directory of the host."""
            labels = done[0].head.labels
            if isinstance(given[-1], AsSnapshot):
                # A snapshot is of a volume of ours, and has the labels of that.
                labels = self._volumes.get(given[-1].snapshot.volume).labels
            return replace(record, labels=labels)

        opened = self._volumes.replaced(name) if exists else self._volumes.staged(name, finish=labelled)
        async with opened as place:
            async with contextlib.aclosing(reports(work_into(place))) as messages:
                async for message in messages:
                    yield message
        self._announce("restore", Source(name))
        restored = done[0]
        result = {
            **told(Source(name), restored.head, restored.summary),
            "LostAttributes": restored.lost_xattrs,
        }
        yield {"aux": result}

    async def differences(
        self,
        first: Source | Backup,
        second: Source | Backup,
    ) -> AsyncGenerator[bytes, None]:
        """Lines of JSON."""
        async with contextlib.AsyncExitStack() as stack:
            sides: list[Side] = []
            for source in (first, second):
                if isinstance(source, Backup):
                    entries = in_own_thread(functools.partial(self._sources.entries, source))
                    sides.append(Side(entries=await entries))
                else:
                    sides.append(Side(root=await stack.enter_async_context(self._trees.opened(source))))

            def work(write: Callable[[bytes], object]) -> None:
                for difference in compare(*sides):
                    write(msgspec.json.encode(difference) + b"\n")

            async with contextlib.aclosing(streamed(work)) as pieces:
                async for piece in pieces:
                    yield piece

    def _announce(self, action: str, source: Source) -> None:
        attributes = {"driver": self._volumes.driver(source.volume)}
        if source.tag:
            attributes["snapshot"] = source.tag
        self._events.publish("volume", action, source.volume, attributes)
