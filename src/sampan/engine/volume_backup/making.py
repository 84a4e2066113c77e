"""Making a backup: as one stream to the client, or as an artifact in a registry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import BinaryIO

from sampan.engine.images import Images
from sampan.engine.threads import in_own_thread, streamed, to_its_end
from sampan.engine.volume_backup.format import Head, Summary
from sampan.engine.volume_backup.messages import (
    Json,
    bar,
    error_line,
    files_changed,
    progress_json,
    reports,
    stepped,
    stop_if,
    told,
    translated,
)
from sampan.engine.volume_backup.orders import Order, Plan
from sampan.engine.volume_backup.registry import LayerTarget
from sampan.engine.volume_backup.snapshots import Source
from sampan.engine.volume_backup.sources import Sources
from sampan.engine.volume_backup.trees import Tree, Trees
from sampan.engine.volume_backup.writing import Target, spool, write_backup
from sampan.engine.volumes.service import Volumes
from sampan.engine.volumes.sizes import directory_size
from sampan.errors import SampanError
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials

STDOUT, STDERR = 1, 2


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


class Making:
    """`announce` is told of a backup that is complete."""

    def __init__(
        self,
        root: Path,
        volumes: Volumes,
        images: Images,
        trees: Trees,
        sources: Sources,
        announce: Callable[[str, Source], None],
    ) -> None:
        """`root`: the engine's `volumes` directory."""
        self._root = root
        self._volumes = volumes
        self._images = images
        self._trees = trees
        self._sources = sources
        self._announce = announce

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
                    summary = self._write(order, plan, tree, head, output, progress)
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
        registry = self._sources.registry(reference, credentials)
        plan = await self._plan(order)
        made: list[tuple[Head, Summary]] = []
        target = LayerTarget(self._images)
        store = self._images.store
        with store.no_collection(), spool(self._root) as config:
            try:
                writing = self._to_layers(order, plan, target, config, made)
                async with contextlib.aclosing(writing) as messages:
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

    async def _to_layers(
        self,
        order: Order,
        plan: Plan,
        target: LayerTarget,
        config: BinaryIO,
        made: list[tuple[Head, Summary]],
    ) -> AsyncGenerator[Json, None]:
        """Messages while the archive is written; what it has become is added to `made`. config: gets the manifest."""
        async with self._trees.still(order.source, order.how) as tree:

            def write(report: Callable[[Json], None], cancelled: threading.Event) -> None:
                head = plan.head(tree)

                def progress(done: int) -> None:
                    stop_if(cancelled)
                    report(bar(order.source, "Backing up", done, plan.size))

                made.append((head, self._write(order, plan, tree, head, target, progress, manifest=config)))

            async with contextlib.aclosing(reports(write)) as messages:
                async for message in messages:
                    yield message

    def _write(
        self,
        order: Order,
        plan: Plan,
        tree: Tree,
        head: Head,
        target: Target,
        progress: Callable[[int], None],
        *,
        manifest: BinaryIO | None = None,
    ) -> Summary:
        """Blocks. `progress` is given the bytes that are done. Raises `Conflict` as `_judge`, and what it writes to."""
        with translated(order.source):
            summary = write_backup(
                tree.descriptor,
                target,
                head,
                base=plan.base,
                directory=self._root,
                progress=stepped(progress),
                changed=tree.changed,
                manifest=manifest,
            )
        _judge(order, summary)
        return summary

    async def _plan(self, order: Order) -> Plan:
        """What takes time and needs nobody to be still."""
        labels = self._volumes.get(order.source.volume).labels
        async with self._trees.opened(order.source) as descriptor:
            counting = in_own_thread(lambda: directory_size(Path(f"/proc/self/fd/{descriptor}")))
            size = await to_its_end(counting)
        base, artifact = await in_own_thread(lambda: self._sources.base(order))
        return Plan(order.source, labels, size, base, artifact)


def _judge(order: Order, summary: Summary) -> None:
    """Raises `Conflict` for a backup of what changed meanwhile, unless that is wanted."""
    if summary.changed and order.on_change == "fail":
        raise files_changed(order.source, summary.changed, summary.changed_names)
