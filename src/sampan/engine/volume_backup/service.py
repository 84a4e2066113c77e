"""Volumes backed up, restored, copied, compared and renamed: what is asked for, joined from the parts."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from sampan.engine.events import EventBus
from sampan.engine.images import Images
from sampan.engine.model import VolumeRecord, epoch_ns, now
from sampan.engine.record_store import Store
from sampan.engine.threads import in_own_thread, made_or_undone, streamed, to_its_end
from sampan.engine.volume_backup.base import Base
from sampan.engine.volume_backup.cloning import clone_tree
from sampan.engine.volume_backup.differences import Side, compare
from sampan.engine.volume_backup.format import FORMAT, Entry, Head, Summary, text_of
from sampan.engine.volume_backup.manifests import describe, read_entries, read_manifest, write_manifest
from sampan.engine.volume_backup.messages import (
    bar,
    error_line,
    files_changed,
    progress_json,
    reports,
    snapshot_json,
    stepped,
    stop_if,
    told,
    translated,
)
from sampan.engine.volume_backup.placing import Limits
from sampan.engine.volume_backup.reading import Restored
from sampan.engine.volume_backup.registry import Artifact, LayerTarget, Registry
from sampan.engine.volume_backup.restoring import AsSnapshot, Given, restore_chain
from sampan.engine.volume_backup.room import check_room
from sampan.engine.volume_backup.snapshots import (
    MANIFEST,
    Keep,
    Snapshot,
    SnapshotStore,
    Source,
    check_tag,
    expired,
)
from sampan.engine.volume_backup.trees import Tree, Trees, opened_directory
from sampan.engine.volume_backup.users import Containers, How, Users
from sampan.engine.volume_backup.writing import spool, write_backup
from sampan.engine.volumes.service import Volumes
from sampan.engine.volumes.sizes import directory_size
from sampan.errors import Conflict, Invalid, SampanError
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials
from sampan.storage.removal import remove_tree

Json = dict[str, Any]
OnChange = Literal["fail", "warn"]
STDOUT, STDERR = 1, 2


@dataclass(frozen=True, slots=True)
class Order:
    """What a backup is to be. manifest: of the base, compressed, where the client has that one."""

    source: Source
    how: How = ""
    on_change: OnChange = "fail"
    base_snapshot: Source | None = None
    base_reference: Reference | None = None
    base_credentials: Credentials | None = None
    manifest: bytes = b""


@dataclass(frozen=True, slots=True)
class Backup:
    """One to be compared: its compressed manifest, or where it is in a registry."""

    manifest: bytes = b""
    reference: Reference | None = None
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of a backup before its volume is read. size: bytes of regular files, as they were counted."""

    source: Source
    labels: dict[str, str] | None
    size: int
    base: Base | None
    artifact: Artifact | None

    def head(self, tree: Tree) -> Head:
        base = self.base.id if self.base is not None else ""
        return Head(FORMAT, str(self.source), now(), self.labels, base, tree.users, tree.source, self.size)


class _Output:
    """The archive and messages about it in one stream: Docker's frames, the archive as standard output."""

    full = overfull = False

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, data: bytes, /) -> None:
        self._write(_frame(STDOUT, data))

    def cut(self) -> None:
        """One layer has it all."""

    def say(self, message: Json) -> None:
        self._write(_frame(STDERR, json.dumps(message).encode()))


def _frame(stream: int, data: bytes) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


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
        self._images = images
        self._events = events
        self._users = Users(containers, metadata)
        self._snapshots = SnapshotStore(root)
        self._trees = Trees(root, volumes, self._snapshots, self._users)
        self._naming = threading.Lock()
        """One at a time finds a name for a snapshot and gives it."""
        self.recover = self._users.recover

    # Backup

    async def backup(self, order: Order) -> AsyncGenerator[bytes, None]:
        """The backup as a stream of frames. Raises before the first of them, `NotFound` say; later a frame tells."""
        plan = await self._plan(order)
        async with self._trees.still(order.source, order.how) as tree:
            head = plan.head(tree)

            def work(write: Callable[[bytes], object]) -> None:
                output = _Output(write)

                def progress(done: int) -> None:
                    output.say(bar(order.source, "Backing up", done, plan.size))

                try:
                    with translated(order.source):
                        summary = write_backup(
                            tree.descriptor,
                            output,
                            head,
                            base=plan.base,
                            directory=self._root,
                            progress=stepped(progress),
                            changed=tree.changed,
                        )
                    _judge(order, summary)
                except SampanError as error:
                    output.say(error_line(error))
                    return
                output.say({"aux": told(order.source, head, summary)})

            async with contextlib.aclosing(streamed(work)) as pieces:
                async for piece in pieces:
                    yield piece
        self._announce("backup", order.source)

    async def backup_to_registry(
        self, order: Order, reference: Reference, credentials: Credentials
    ) -> AsyncGenerator[Json, None]:
        """Messages, as `push` has them; the last one is the result."""
        registry = Registry(self._images, reference, credentials)
        plan = await self._plan(order)
        made: list[tuple[Head, Summary]] = []
        target = LayerTarget(self._images)
        store = self._images.store
        with store.no_collection(), spool(self._root) as config:
            try:
                async with self._trees.still(order.source, order.how) as tree:

                    def write(report: Callable[[Json], None], cancelled: threading.Event) -> None:
                        head = plan.head(tree)

                        def progress(done: int) -> None:
                            stop_if(cancelled)
                            report(bar(order.source, "Backing up", done, plan.size))

                        with translated(order.source):
                            summary = write_backup(
                                tree.descriptor,
                                target,
                                head,
                                base=plan.base,
                                directory=self._root,
                                progress=stepped(progress),
                                changed=tree.changed,
                                manifest=config,
                            )
                        _judge(order, summary)
                        made.append((head, summary))

                    async with contextlib.aclosing(reports(write)) as messages:
                        async for message in messages:
                            yield message
                head, summary = made[0]

                def push(report: Callable[[Json], None], cancelled: threading.Event) -> str:
                    return registry.push(
                        target.layers,
                        config,
                        head,
                        summary,
                        plan.artifact,
                        lambda item: report(progress_json(item)),
                        cancelled,
                    )

                pushed: list[str] = []
                async with contextlib.aclosing(
                    reports(lambda *given: pushed.append(push(*given)))
                ) as messages:
                    async for message in messages:
                        yield message
            finally:
                target.close()
                dropped = [layer.digest for layer in target.layers]
                await to_its_end(asyncio.to_thread(store.drop_blobs, dropped))
        self._announce("backup", order.source)
        result = told(order.source, head, summary)
        yield {"aux": {**result, "Reference": registry.reference.familiar, "Digest": pushed[0]}}

    async def _plan(self, order: Order) -> Plan:
        """What takes time and needs nobody to be still."""
        labels = self._volumes.get(order.source.volume).labels
        async with self._trees.opened(order.source) as descriptor:
            counting = in_own_thread(lambda: directory_size(Path(f"/proc/self/fd/{descriptor}")))
            size = await to_its_end(counting)
        base, artifact = await in_own_thread(lambda: self._base(order))
        return Plan(order.source, labels, size, base, artifact)

    def _base(self, order: Order) -> tuple[Base | None, Artifact | None]:
        if order.manifest:
            return read_manifest([order.manifest]), None
        if order.base_snapshot is not None:
            return read_manifest([self._manifest(order.base_snapshot).read_bytes()]), None
        if order.base_reference is None:
            return None, None
        cancelled = threading.Event()
        registry = Registry(self._images, order.base_reference, order.base_credentials or Credentials())
        artifact = registry.look(cancelled)
        return registry.base(artifact, cancelled), artifact

    def _manifest(self, snapshot: Source) -> Path:
        """The file with a snapshot's manifest, which is made now if there is none; blocking."""
        tree = self._snapshots.tree(snapshot)
        path = tree.with_name(MANIFEST)
        if not path.exists():
            fresh = path.with_name(f"{MANIFEST}.new")
            with opened_directory(tree) as root, open(fresh, "wb") as out:
                write_manifest(describe(root), out.write)
            fresh.replace(path)
        return path

    # Restore

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
                        self,
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

    def registry(self, reference: Reference, credentials: Credentials) -> Registry:
        return Registry(self._images, reference, credentials)

    def snapshot_tree(self, snapshot: Source) -> Path:
        """Blocking. Raises `NotFound`."""
        return self._snapshots.tree(snapshot)

    def snapshot_manifest(self, snapshot: Source) -> Path:
        """Blocking. Raises `NotFound`."""
        return self._manifest(snapshot)

    # Clone

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

    # Snapshots

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

    # Differences

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
                    entries = in_own_thread(functools.partial(self._given_manifest, source))
                    sides.append(Side(entries=await entries))
                else:
                    sides.append(Side(root=await stack.enter_async_context(self._trees.opened(source))))

            def work(write: Callable[[bytes], object]) -> None:
                for difference in compare(*sides):
                    write(msgspec.json.encode(difference) + b"\n")

            async with contextlib.aclosing(streamed(work)) as pieces:
                async for piece in pieces:
                    yield piece

    def _given_manifest(self, backup: Backup) -> Iterator[Entry]:
        if backup.reference is None:
            return read_entries([backup.manifest])
        registry = Registry(self._images, backup.reference, backup.credentials or Credentials())
        cancelled = threading.Event()
        return read_entries([registry.manifest(registry.look(cancelled), cancelled)])

    def _announce(self, action: str, source: Source) -> None:
        attributes = {"driver": self._volumes.driver(source.volume)}
        if source.tag:
            attributes["snapshot"] = source.tag
        self._events.publish("volume", action, source.volume, attributes)


def _judge(order: Order, summary: Summary) -> None:
    """Raises `Conflict` for a backup of what changed meanwhile, unless that is wanted."""
    if summary.changed and order.on_change == "fail":
        raise files_changed(order.source, summary.changed, summary.changed_names)
