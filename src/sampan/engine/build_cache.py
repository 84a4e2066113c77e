"""The build cache as `system df`, `builder prune` and the collection of garbage see it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sampan.build.files.checksums import forget_directory, kept_directories
from sampan.build.solver.cache import BuildCache, CacheEntry
from sampan.build.solver.collection import CACHE_MOUNT, INTERNAL, LOCAL, REGULAR, Item, Rule, choose
from sampan.engine.cache_mounts import CacheMounts
from sampan.engine.cache_use import CacheUse
from sampan.engine.model import rfc3339
from sampan.errors import SampanError
from sampan.oci.digest import Digest
from sampan.storage.images import ImageStore
from sampan.storage.metadata import Metadata, storage_error

log = logging.getLogger(__name__)

Json = dict[str, object]
ABANDONED = 24 * 3600.0
"""Seconds after which a layer or blob without a name is given up; `prune` does so after an hour."""
LOOK_EVERY = 3600.0
ID_LENGTH = 25
"""Characters of an id that are shown, as many as BuildKit's have."""


class BuildCacheKeeper:
    """Blocking; thread-safe. `rules` of the collection: () never collects."""

    def __init__(
        self,
        cache: BuildCache,
        mounts: CacheMounts,
        images: ImageStore,
        metadata: Metadata,
        use: CacheUse,
        rules: Sequence[Rule],
        root: Path,
        checksums: Path,
    ) -> None:
        """`root` is on the disk whose free space counts; in `checksums` are those of directories built from."""
        self.mounts = mounts
        self.use = use
        self._cache = cache
        self._images = images
        self._metadata = metadata
        self._rules = tuple(rules)
        self._root = root
        self._checksums = checksums
        self._lock = threading.Lock()
        self._unreferenced: set[Digest] = set()
        """Layers of forgotten entries, and those that builds have loosened, which have to be looked at."""
        self._next_look = 0.0
        """By the monotonic clock: for what was abandoned."""

    def entries(self) -> list[Json]:
        """In Docker's form, the last used first."""
        with self._lock:
            items = self._items()
        return [_json(item) for item in sorted(items, key=lambda item: item.used, reverse=True)]

    def prune(self, rules: Sequence[Rule]) -> tuple[list[str], int]:
        """Remove what the rules choose; the ids of what went, and the bytes that were freed.

        Records go before what they name, so that whenever this is interrupted nothing is named that is not there.
        """
        with self._lock:
            removed, freed = self._prune(rules)
            return removed, freed + self._images.collect()[0]

    def prunable(self, rules: Sequence[Rule]) -> tuple[list[str], int]:
        """What `prune` would remove: ids, and the bytes of those that no image shares."""
        with self._lock:
            chosen = choose(self._items(), rules, time.time(), self._free())
        return [item.id[:ID_LENGTH] for item in chosen], sum(item.size for item in chosen if not item.shared)

    def collect_garbage(self) -> None:
        """By the engine's own rules. A failure is logged: the next time may be better."""
        try:
            with self._lock:
                self._note_uses()
                removed, freed = self._prune(self._rules) if self._rules else ([], self._collect())
                freed += self._collect_abandoned()
        except (SampanError, OSError) as error:
            log.warning("collecting garbage of the build cache: %s", error)
            return
        if removed or freed:
            log.info("build cache: %d entries collected, %d bytes freed", len(removed), freed)

    def _prune(self, rules: Sequence[Rule]) -> tuple[list[str], int]:
        self._note_uses()
        chosen = choose(self._items(), rules, time.time(), self._free())
        keys = [item.id for item in chosen if item.kind not in (CACHE_MOUNT, LOCAL)]
        entries = self._cache.entries()
        self._unreferenced |= {
            Digest(entries[key].layer) for key in keys if key in entries and entries[key].layer
        }
        with self._metadata.transaction(durable=False):
            self._cache.forget(keys)
        freed = self._collect()
        for item in chosen:
            if item.kind == CACHE_MOUNT:
                freed += self.mounts.remove(item.id)
            elif item.kind == LOCAL:
                freed += forget_directory(self._checksums, item.id)
        return [item.id[:ID_LENGTH] for item in chosen], freed

    def _collect_abandoned(self) -> int:
        """What broken builds and pulls have left, when it is so old that nobody will go on with it."""
        if time.monotonic() < self._next_look:
            return 0
        self._next_look = time.monotonic() + LOOK_EVERY
        return self._images.collect(min_age=ABANDONED)[0]

    def _collect(self) -> int:
        """Layers that nobody else refers to; those that a build under way needs later."""
        self._unreferenced |= self.use.take_loose()
        if not self._unreferenced:
            return 0
        freed, gone = self._images.collect(self._unreferenced)
        layers = self._images.layers
        needed = self._cache.layers()
        self._unreferenced -= set(gone)
        self._unreferenced = {one for one in self._unreferenced if one not in needed and layers.has(one)}
        return freed

    def _note_uses(self) -> None:
        counts = self.use.take_counts()
        if counts:
            with self._metadata.transaction(durable=False):
                self._cache.note_uses(counts)

    def _free(self) -> int:
        try:
            found = os.statvfs(self._root)
        except OSError as error:
            raise storage_error(error, self._root) from error
        return found.f_bavail * found.f_frsize

    def _items(self) -> list[Item]:
        of_images = {diff_id for image in self._images.list() for diff_id in image.diff_ids}
        counted: set[str] = set()
        items = []
        entries = sorted(self._cache.entries().items(), key=lambda pair: pair[1].used, reverse=True)
        for key, entry in entries:
            # Steps with the same result have one layer: its bytes are those of the step used last.
            size = 0 if entry.layer in counted else self._layer_bytes(entry)
            counted.add(entry.layer)
            items.append(
                Item(
                    id=key,
                    kind=INTERNAL if entry.content else REGULAR,
                    size=size,
                    created=_seconds(entry.created) or entry.used,
                    used=entry.used,
                    uses=entry.uses,
                    in_use=key in self.use,
                    shared=entry.layer in of_images,
                    description=entry.step,
                )
            )
        return items + self._mount_items() + self._directory_items()

    def _layer_bytes(self, entry: CacheEntry) -> int:
        """The layer's file data, and its compressed form where one is kept for pushing."""
        if not entry.layer or not self._images.layers.has(Digest(entry.layer)):
            return 0
        blob = self._images.blob_for(Digest(entry.layer))
        size = entry.size or self._images.layers.size(Digest(entry.layer))
        return size + (blob.size if blob is not None else 0)

    def _mount_items(self) -> list[Item]:
        return [
            Item(
                id=mount.name,
                kind=CACHE_MOUNT,
                size=mount.size,
                created=mount.record.created,
                used=mount.record.used,
                uses=mount.record.uses,
                in_use=mount.name in self.use,
                description=f"cached mount {mount.record.id or '(id unknown)'}",
            )
            for mount in self.mounts.list()
        ]

    def _directory_items(self) -> list[Item]:
        """What is known of the files in directories that were built from."""
        return [
            Item(
                id=one.name,
                kind=LOCAL,
                size=one.size,
                created=one.used,
                used=one.used,
                description="local source for context",  # as BuildKit describes its copy of them
            )
            for one in kept_directories(self._checksums)
        ]


def _json(item: Item) -> Json:
    return {
        "ID": item.id[:ID_LENGTH],
        "Type": item.kind,
        "Description": item.description,
        "InUse": item.in_use,
        "Shared": item.shared,
        "Size": item.size,
        "CreatedAt": rfc3339(int(item.created) * 1_000_000_000),
        "LastUsedAt": rfc3339(int(item.used) * 1_000_000_000),
        "UsageCount": item.uses,
    }


def _seconds(text: str) -> float:
    """0 for what is no time: entries may come from another engine."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
