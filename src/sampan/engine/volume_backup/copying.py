"""Copies of volumes on the same disk: clones, which are volumes, and snapshots, which stay with theirs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from sampan.engine.model import epoch_ns, now
from sampan.engine.threads import in_own_thread, made_or_undone, to_its_end
from sampan.engine.volume_backup.cloning import clone_tree
from sampan.engine.volume_backup.format import text_of
from sampan.engine.volume_backup.messages import (
    Json,
    bar,
    files_changed,
    reports,
    snapshot_json,
    stepped,
    stop_if,
    translated,
)
from sampan.engine.volume_backup.orders import OnChange
from sampan.engine.volume_backup.room import check_room
from sampan.engine.volume_backup.snapshots import Keep, Snapshot, SnapshotStore, Source, check_tag, expired
from sampan.engine.volume_backup.trees import Trees, opened_directory
from sampan.engine.volume_backup.users import How
from sampan.engine.volumes.service import Volumes
from sampan.engine.volumes.sizes import directory_size
from sampan.errors import Invalid
from sampan.storage.removal import remove_tree


class Copying:
    """`announce` is told of a copy that is complete."""

    def __init__(
        self,
        volumes: Volumes,
        snapshots: SnapshotStore,
        trees: Trees,
        announce: Callable[[str, Source], None],
    ) -> None:
        self._volumes = volumes
        self._snapshots = snapshots
        self._trees = trees
        self._announce = announce
        self._naming = threading.Lock()
        """One at a time finds a name for a snapshot and gives it."""

    async def clone(
        self, source: Source, name: str, how: How, on_change: OnChange
    ) -> AsyncGenerator[Json, None]:
        """A new volume with the content and the labels of another one, or of a snapshot."""
        labels = self._volumes.get(source.volume).labels
        async with self._volumes.staged(name, labels=labels) as place:
            async with contextlib.aclosing(self._copy(source, place, how, on_change, "Cloning")) as messages:
                async for message in messages:
                    yield message
        self._announce("clone", source)
        yield {"aux": self._volumes.inspect(name)}

    async def _copy(
        self,
        source: Source,
        place: Path,
        how: How,
        on_change: OnChange,
        what: str,
        changed: list[bytes] | None = None,
    ) -> AsyncGenerator[Json, None]:
        async with self._trees.still(source, how) as tree:

            def work(report: Callable[[Json], None], cancelled: threading.Event) -> None:
                total = directory_size(Path(f"/proc/self/fd/{tree.descriptor}"))

                with opened_directory(place) as target, translated(source):

                    def progress(done: int) -> None:
                        check_room(target)
                        report(bar(source, what, done, total))

                    clone_tree(
                        tree.descriptor,
                        target,
                        progress=stepped(progress),
                        look=lambda: stop_if(cancelled),
                    )
                found = tree.changed()
                if changed is not None:
                    changed.extend(found)
                if found and on_change == "fail":
                    raise files_changed(source, len(found), [text_of(name) for name in found])

            async with contextlib.aclosing(reports(work)) as messages:
                async for message in messages:
                    yield message

    async def snapshot(
        self, volume: str, tag: str, how: How, on_change: OnChange, keep: Keep | None
    ) -> AsyncGenerator[Json, None]:
        """A copy that stays with the volume; messages, then the result with what `keep` has removed."""
        if tag:
            check_tag(tag)
        record = self._volumes.get(volume)
        if record.driver != "local":
            raise Invalid(f"volume {volume} has the driver {record.driver}: it has no snapshots here")
        with self._volumes.holding(volume):
            staged = await made_or_undone(self._snapshots.begin, remove_tree)
            try:
                changed: list[bytes] = []
                source = Source(volume)
                async with contextlib.aclosing(
                    self._copy(source, staged / "data", how, on_change, "Copying", changed)
                ) as messages:
                    async for message in messages:
                        yield message

                def publish() -> Snapshot:
                    with translated(source):
                        size, created = directory_size(staged / "data"), now()
                        with self._naming:
                            chosen = tag or self._snapshots.free_tag(volume, created)
                            made = Snapshot(volume, chosen, created, not tag, how, len(changed), size)
                            self._snapshots.publish(staged, made)
                    return made

                complete = await to_its_end(in_own_thread(publish))
            finally:
                await to_its_end(asyncio.to_thread(remove_tree, staged))
            removed = await asyncio.to_thread(self._expire, volume, keep)
        self._announce("snapshot", Source(volume, complete.tag))
        yield {"aux": {**snapshot_json(complete), "Removed": removed}}

    def _expire(self, volume: str, keep: Keep | None) -> list[str]:
        if keep is None:
            return []
        old = expired(self._snapshots.list(volume), keep, epoch_ns(now()))
        for snapshot in old:
            self._snapshots.remove(Source(volume, snapshot.tag))
        return [snapshot.name for snapshot in old]

    async def snapshots(self, volume: str = "") -> list[Json]:
        """Of a volume, or of all."""
        names = [volume] if volume else [one["Name"] for one in self._volumes.list({})["Volumes"]]
        if volume:
            self._volumes.get(volume)
        found = await asyncio.to_thread(
            lambda: [one for name in sorted(names) for one in self._snapshots.list(name)]
        )
        return [snapshot_json(one) for one in found]

    async def remove_snapshot(self, snapshot: Source) -> None:
        with self._volumes.holding(snapshot.volume):
            await asyncio.to_thread(self._snapshots.remove, snapshot)
