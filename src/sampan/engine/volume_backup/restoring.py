"""A chain of backups unpacked one on the other: the last one's tree is what is wanted."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sampan.engine.volume_backup.cloning import clone_tree
from sampan.engine.volume_backup.format import FORMAT, Entry, Head, Summary, bytes_of
from sampan.engine.volume_backup.manifests import read_entries, read_manifest
from sampan.engine.volume_backup.placing import Limits
from sampan.engine.volume_backup.reading import Restored, unpack
from sampan.engine.volume_backup.registry import Artifact, Registry
from sampan.engine.volume_backup.reuse import Bases
from sampan.engine.volume_backup.room import check_room
from sampan.engine.volume_backup.snapshots import Source
from sampan.engine.volume_backup.trees import opened_directory
from sampan.engine.volumes.sizes import directory_size
from sampan.errors import Conflict, Invalid
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials
from sampan.registry.progress import Progress
from sampan.storage.removal import remove_tree

_LAYERS = Iterable[Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The next archive that the client sends."""

    chunks: Iterable[bytes]


@dataclass(frozen=True, slots=True)
class InRegistry:
    reference: Reference
    credentials: Credentials


@dataclass(frozen=True, slots=True)
class AsSnapshot:
    snapshot: Source


Given = Uploaded | InRegistry | AsSnapshot
_Step = tuple[_LAYERS | AsSnapshot, Artifact | None]
"""A backup, and the artifact of which it is the last."""


class Finder(Protocol):
    """Where snapshots and registries are; blocking."""

    def registry(self, reference: Reference, credentials: Credentials) -> Registry: ...

    def snapshot_tree(self, snapshot: Source) -> Path: ...

    def snapshot_manifest(self, snapshot: Source) -> Path: ...


def restore_chain(
    given: Sequence[Given],
    place: Path,
    directory: Path,
    finder: Finder,
    limits: Limits,
    progress: Callable[[int, int], object],
    report: Callable[[Progress], None],
    cancelled: threading.Event,
) -> Restored:
    """Fill the empty directory `place`. Trees of bases are made beside it, and are gone afterwards.

    directory: for temporary files. Raises as `unpack`, and what registries cause.
    """
    if not given:
        raise Invalid("no backup is given")
    last = given[-1]
    if isinstance(last, AsSnapshot):
        return _from_snapshot(last.snapshot, place, finder, progress, cancelled)
    restored: Restored | None = None
    with contextlib.ExitStack() as stack:
        bases: Bases | None = None
        for number, ((step, artifact), final) in enumerate(_marked(_steps(given, finder, report, cancelled))):
            if isinstance(step, AsSnapshot):
                bases = _snapshot_base(step.snapshot, finder, stack)
                continue
            tree = place if final else place.with_name(f".base-{number}")
            if not final:
                tree.mkdir(mode=0o700)
                stack.callback(remove_tree, tree)
            root = stack.enter_context(opened_directory(tree))
            digests: dict[bytes, Entry] | None = None if final else {}
            restored = unpack(
                step, root, directory, bases=bases, digests=digests, limits=limits, progress=progress
            )
            if artifact is not None:
                artifact.check(restored.summary.id)
            bases = Bases(restored.summary.id, root, digests or {}, ours=True)
    if restored is None:
        raise Invalid("no backup is given")
    return restored


def _steps(
    given: Sequence[Given], finder: Finder, report: Callable[[Progress], None], cancelled: threading.Event
) -> Iterator[_Step]:
    """Each backup on the way, the oldest first."""
    for one in given:
        if isinstance(one, Uploaded):
            yield [one.chunks], None
        elif isinstance(one, AsSnapshot):
            yield one, None
        else:
            registry = finder.registry(one.reference, one.credentials)
            artifact = registry.look(cancelled)
            for layers in artifact.parts:
                last = layers is artifact.parts[-1]
                yield registry.blobs(layers, report, cancelled), artifact if last else None


def _marked(steps: Iterator[_Step]) -> Iterator[tuple[_Step, bool]]:
    """With whether it is the last."""
    before: _Step | None = None
    for step in steps:
        if before is not None:
            yield before, False
        before = step
    if before is not None:
        yield before, True


def _snapshot_base(snapshot: Source, finder: Finder, stack: contextlib.ExitStack) -> Bases:
    manifest = finder.snapshot_manifest(snapshot).read_bytes()
    files = {bytes_of(entry.path): entry for entry in read_entries([manifest]) if entry.type == "file"}
    root = stack.enter_context(opened_directory(finder.snapshot_tree(snapshot)))
    return Bases(read_manifest([manifest]).id, root, files, ours=False)


def _from_snapshot(
    snapshot: Source,
    place: Path,
    finder: Finder,
    progress: Callable[[int, int], object],
    cancelled: threading.Event,
) -> Restored:
    def look() -> None:
        if cancelled.is_set():
            raise Conflict("the restore was given up")

    done = total = 0

    def count(size: int) -> None:
        nonlocal done
        done = size
        progress(size, total)

    with opened_directory(finder.snapshot_tree(snapshot)) as source, opened_directory(place) as target:
        check_room(target)
        total = directory_size(Path(f"/proc/self/fd/{source}"))
        clone_tree(source, target, progress=count, look=look)
    return Restored(Head(FORMAT, str(snapshot), ""), Summary("", size=done))
