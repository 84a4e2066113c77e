"""The data below images: what is recorded of them, in transactions; blobs; the collection of garbage."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from sampan.errors import NotFound, SampanError
from sampan.oci.digest import Digest
from sampan.oci.image import ImageConfig, parse_image_config
from sampan.oci.manifest import Descriptor
from sampan.storage.content import ContentStore
from sampan.storage.gc import Have, find_garbage
from sampan.storage.image_model import BlobRecord, ImageRecord
from sampan.storage.index_model import IndexRecord, Target
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata, Table
from sampan.storage.removal import remove_tree

log = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

ORPHAN_AGE = 3600.0
"""Seconds for which a layer or blob that nobody refers to (yet) is left alone."""


@dataclass(slots=True)
class Changes:
    """What one transaction writes; None removes. Applied to the working copy after the commit."""

    records: dict[Digest, tuple[ImageRecord, ImageConfig] | None] = field(default_factory=dict)
    names: dict[str, Target | None] = field(default_factory=dict)
    indexes: dict[Digest, IndexRecord | None] = field(default_factory=dict)
    blobs: dict[Digest, BlobRecord | None] = field(default_factory=dict)


class ImageData:
    """What `ImageStore` stands on. Thread-safe."""

    def __init__(self, content: ContentStore, layers: LayerStore, metadata: Metadata) -> None:
        self.content = content
        self.layers = layers
        self._metadata = metadata
        self._lock = threading.RLock()
        self._doomed = _Doomed()
        self._held: dict[Digest, int] = {}
        self._sizes: dict[Digest, int] = {}
        self._collection_off = 0
        self._postponed: set[Digest] = set()
        """What was to be collected while nothing could be, or while it was held."""
        self.tar_sizes: dict[Digest, int] = {}
        """Bytes of layers' tar streams, as far as they have been needed."""
        self.layer_roots: Callable[[], Iterable[Digest]] = lambda: ()
        """Layers that containers and the build cache need; set by the composition root."""
        self.release: Callable[[Sequence[str]], None] = lambda _paths: None
        """Told the paths of layers before they are removed (they may be mounted); set by the composition root."""
        self._records: dict[Digest, tuple[ImageRecord, ImageConfig]] = {}
        for key, body in metadata.items(Table.IMAGES):
            record = msgspec.json.decode(body, type=ImageRecord)
            self._records[Digest(key)] = (record, parse_image_config(record.config.encode()))
        self._names: dict[str, Target] = {
            key: Target.decode(body) for key, body in metadata.items(Table.TAGS)
        }
        self._indexes: dict[Digest, IndexRecord] = {
            Digest(key): msgspec.json.decode(body, type=IndexRecord)
            for key, body in metadata.items(Table.INDEXES)
        }
        self._blobs: dict[Digest, BlobRecord] = {
            Digest(key): msgspec.json.decode(body, type=BlobRecord)
            for key, body in metadata.items(Table.BLOBS)
        }

    def _commit(self, changes: Changes) -> None:
        """Write, then take over into the working copy; on an error neither has happened."""
        changes.names = {k: v for k, v in changes.names.items() if self._names.get(k) != v}
        changes.blobs = {k: v for k, v in changes.blobs.items() if self._blobs.get(k) != v}
        changes.records = {k: v for k, v in changes.records.items() if self._records.get(k) != v}
        gone = self._unnamed(changes)
        changes.indexes.update(dict.fromkeys(gone))
        self._write_down(changes)
        _apply(self._records, changes.records)
        _apply(self._names, changes.names)
        _apply(self._blobs, changes.blobs)
        _apply(self._indexes, changes.indexes)
        for record in gone.values():
            self.drop_blobs(record.blobs())

    def _write_down(self, changes: Changes) -> None:
        durable = bool(changes.names) or any(map(self._is_new, changes.records.items()))
        with self._metadata.transaction(durable=durable):
            for image_id, known in changes.records.items():
                self._write(Table.IMAGES, image_id, None if known is None else msgspec.json.encode(known[0]))
            for key, target in changes.names.items():
                self._write(Table.TAGS, key, None if target is None else target.encode())
            for index, entry in changes.indexes.items():
                self._write(Table.INDEXES, index, None if entry is None else msgspec.json.encode(entry))
            for diff_id, blob in changes.blobs.items():
                self._write(Table.BLOBS, diff_id, None if blob is None else msgspec.json.encode(blob))

    def _is_new(self, change: tuple[Digest, tuple[ImageRecord, ImageConfig] | None]) -> bool:
        """More than the time at which an image was named last: who loses that with the power has lost nothing."""
        image_id, known = change
        before = self._records.get(image_id)
        if known is None or before is None:
            return True
        return msgspec.structs.replace(before[0], tagged_at=known[0].tagged_at) != known[0]

    def _unnamed(self, changes: Changes) -> dict[Digest, IndexRecord]:
        """The indexes that no name points to when the changes are made: an index lives by its names."""
        if not self._indexes or not changes.names:
            return {}
        names = {**self._names, **changes.names}
        left = {target.index for target in names.values() if target is not None}
        return {index: record for index, record in self._indexes.items() if index not in left}

    def _write(self, table: Table, key: str, body: bytes | None) -> None:
        if body is None:
            self._metadata.delete(table, key)
        else:
            self._metadata.put(table, key, body)

    def _layer_size(self, diff_id: Digest) -> int:
        """0 for a layer that is missing."""
        size = self._sizes.get(diff_id)
        if size is None:
            try:
                size = self._sizes[diff_id] = self.layers.size(diff_id)
            except NotFound:
                return 0
        return size

    def blob_for(self, diff_id: Digest) -> Descriptor | None:
        """The layer's compressed blob, if the content store has it."""
        record = self._blobs.get(diff_id)
        return (
            record.descriptor if record is not None and self.content.has(record.descriptor.digest) else None
        )

    def repositories_of(self, diff_id: Digest) -> tuple[str, ...]:
        """Repositories (domain/path) that have the blob; candidates for a cross-repository mount."""
        record = self._blobs.get(diff_id)
        return record.repositories if record is not None else ()

    def drop_blobs(self, digests: Iterable[Digest]) -> None:
        """Remove blobs that no layer and no index has, and nobody holds."""
        with self._lock:
            kept = {record.descriptor.digest for record in self._blobs.values()} | self._index_blobs()
            for digest in digests:
                if digest not in kept and digest not in self._held:
                    self.content.delete(digest)

    def _index_blobs(self) -> set[Digest]:
        return {digest for record in self._indexes.values() for digest in record.blobs()}

    def remember_blob(self, diff_id: Digest, descriptor: Descriptor, repository: str = "") -> None:
        with self._lock:
            self._commit(Changes(blobs={diff_id: self._blob_record(diff_id, descriptor, repository)}))

    def _blob_record(self, diff_id: Digest, descriptor: Descriptor, repository: str) -> BlobRecord:
        known = self._blobs.get(diff_id)
        same = known is not None and known.descriptor.digest == descriptor.digest
        repositories = known.repositories if known is not None and same else ()
        if repository and repository not in repositories:
            repositories = (*repositories[-7:], repository)
        plain = Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)
        return BlobRecord(plain, repositories)

    @contextlib.contextmanager
    def hold(self, digests: Iterable[Digest]) -> Iterator[None]:
        """Keep layers and blobs from being collected while work on them is under way."""
        kept = tuple(digests)
        with self._lock:
            for digest in kept:
                self._held[digest] = self._held.get(digest, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                for digest in kept:
                    self._held[digest] -= 1
                    if not self._held[digest]:
                        del self._held[digest]

    @contextlib.contextmanager
    def holding(self) -> Iterator[Callable[[Iterable[Digest]], None]]:
        """Like `hold`, for work that learns only by and by what it needs: the function holds more, until the end.

        What was to be collected meanwhile is then.
        """
        known: set[Digest] = set()
        lock = threading.Lock()
        try:
            with contextlib.ExitStack() as stack:

                def hold(digests: Iterable[Digest]) -> None:
                    with lock:
                        fresh = set(digests) - known
                        if fresh:
                            stack.enter_context(self.hold(fresh))
                            known.update(fresh)

                yield hold
        finally:
            with self._lock:
                postponed, self._postponed = self._postponed, set()
            self._collect_postponed(postponed)  # what others hold is postponed again

    @contextlib.contextmanager
    def no_collection(self) -> Iterator[None]:
        """Nothing at all is collected meanwhile: for work whose digests are known only at its end.

        What was to be collected is, when the last such work has ended.
        """
        with self._lock:
            self._collection_off += 1
        try:
            yield
        finally:
            with self._lock:
                self._collection_off -= 1
                postponed = set() if self._collection_off else set(self._postponed)
                self._postponed -= postponed
            self._collect_postponed(postponed)

    def _collect_postponed(self, candidates: Set[Digest]) -> None:
        """A failure is logged: it is not that of the work that has ended."""
        try:
            if candidates:
                self.collect(candidates)
        except (SampanError, OSError) as error:
            log.warning(
                "layers of images that were removed during other work could not be removed: %s", error
            )

    def collect(
        self, candidates: Iterable[Digest] | None = None, *, min_age: float = ORPHAN_AGE
    ) -> tuple[int, tuple[Digest, ...]]:
        """Remove data that nobody needs; bytes freed, and the diff-ids of the layers that went.

        `candidates`: only these layers and their blobs, at once. None: everything that was made here, and what came
        and is older than `min_age` seconds: what is younger may belong to work that has not given it a name yet, or
        to a broken pull that will be tried again.
        """
        with self._removing(), self._lock:
            if self._collection_off:
                self._postponed.update(candidates or ())
                return 0, ()
            self._postponed.update(one for one in candidates or () if one in self._held)
            have = Have(
                frozenset(self.layers.digests()),
                frozenset(self.content.digests()),
                {diff_id: record.descriptor.digest for diff_id, record in self._blobs.items()},
            )
            roots = {diff_id for _, config in self._records.values() for diff_id in config.rootfs.diff_ids}
            blob_roots = self._index_blobs() | set(self._held)
            garbage = find_garbage(have, roots | set(self._held) | set(self.layer_roots()), blob_roots)
            if candidates is None:
                layers = [one for one in garbage.layers if self._is_abandoned(one, min_age)]
                blobs = [one for one in garbage.blobs if self.content.age(one) > min_age]
                mappings = garbage.mappings - (garbage.layers - set(layers))
            else:
                wanted = set(candidates)
                layers = [one for one in garbage.layers if one in wanted]
                mappings = garbage.mappings & wanted
                theirs = {have.blob_of[one] for one in mappings}
                blobs = [one for one in garbage.blobs if one in theirs]
            freed = self._remove_data(layers, blobs, mappings)
        return freed, tuple(sorted(layers))

    @contextlib.contextmanager
    def _removing(self) -> Iterator[None]:
        """Entered before the lock: what was put aside under it is removed after it, by the outermost of a thread.

        A tree may have very many files, and whoever lists images must not wait for them.
        """
        self._doomed.depth += 1
        try:
            yield
        finally:
            self._doomed.depth -= 1
            while not self._doomed.depth and self._doomed.trees:
                remove_tree(self._doomed.trees.pop())

    def _remove_data(
        self, layers: Sequence[Digest], blobs: Sequence[Digest], mappings: Iterable[Digest]
    ) -> int:
        freed = sum(self._layer_size(diff_id) for diff_id in layers)
        self._commit(Changes(blobs=dict.fromkeys(mappings)))
        if layers:
            self.release([self.layers.mount_of(diff_id).path for diff_id in layers])
        for diff_id in layers:
            self._sizes.pop(diff_id, None)
            aside = self.layers.put_aside(diff_id)
            if aside is not None:
                self._doomed.trees.append(aside)
        for digest in blobs:
            freed += self.content.delete(digest)
        return freed

    def _is_abandoned(self, diff_id: Digest, min_age: float) -> bool:
        """What was made here nobody goes on with when nobody holds it: an engine was killed before it was recorded."""
        try:
            return self.layers.reproducible(diff_id) or self._layer_age(diff_id) > min_age
        except NotFound:
            return False

    def _layer_age(self, diff_id: Digest) -> float:
        """Seconds since the layer got its name: that of its directory, which nobody writes to later."""
        try:
            directory = os.path.dirname(self.layers.mount_of(diff_id).path)
            return time.time() - os.stat(directory).st_mtime
        except (NotFound, FileNotFoundError):
            return 0.0


class _Doomed(threading.local):
    """Of one thread: layers' trees that are to be removed when it has left the lock."""

    def __init__(self) -> None:
        self.depth = 0
        self.trees: list[Path] = []


def _apply(target: dict[K, V], changes: Mapping[K, V | None]) -> None:
    for key, value in changes.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = value
