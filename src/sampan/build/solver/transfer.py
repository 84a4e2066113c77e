"""Caches from elsewhere and for elsewhere, as a build sees them: looked into before it, written after it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sampan.build.cache_options import CacheFrom, CacheTo
from sampan.build.model import BuildRequest
from sampan.build.solver.cache import BuildCache, CacheEntry
from sampan.build.solver.voice import internal
from sampan.build.worker import Report, Worker
from sampan.errors import SampanError, Unavailable
from sampan.oci.digest import Digest


class CacheLost(Unavailable):
    """A layer that a cache from elsewhere promised can't be had: the build begins anew without that cache."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a build has to export."""

    records: Mapping[str, CacheEntry]
    layers: Sequence[Digest]
    """Of the images that were built."""
    mounts: frozenset[str] = frozenset()
    """Ids of cache mounts that its steps name."""


class CacheTransfer(Protocol):
    """Of one build. The engine implements it; layers come when they are needed, if they are."""

    def load(self, sources: Sequence[CacheFrom], report: Report, cancelled: threading.Event) -> None:
        """Look into the caches; one that can't be read is reported and left out. Raises nothing but a cancellation."""
        ...

    def find(self, key: str) -> CacheEntry | None:
        """An imported record; its layer may not be here yet."""
        ...

    def forget(self) -> None:
        """Import nothing more: something that was promised could not be had."""
        ...

    def save(self, target: CacheTo, seen: Seen, report: Report, cancelled: threading.Event) -> None:
        """Write the records and their layers. Raises `SampanError`."""
        ...


def with_transfer(
    transfer: CacheTransfer,
    cache: BuildCache,
    worker: Worker,
    request: BuildRequest,
    perform: Callable[[], Digest],
    report: Report,
    cancelled: threading.Event,
) -> Digest:
    """A build with its imports before it and its exports after it; the image's id.

    What was imported and can't be had makes no build fail: it begins anew, and what it has done is cached.
    """
    transfer.load(request.cache_from, report, cancelled)
    try:
        try:
            image_id = perform()
        except CacheLost as error:
            transfer.forget()
            with internal(report, "[internal] begin anew without imported caches") as voice:
                voice.warn(f"{error.message}; going on without imported caches")
            image_id = perform()
    finally:
        cache.keep_imported()  # also of a build that failed: what came need not come again
    seen = Seen(dict(cache.seen), worker.layers_of(image_id), frozenset(cache.mounts))
    export_caches(transfer, request.cache_to, seen, report, cancelled)
    return image_id


def export_caches(
    transfer: CacheTransfer,
    targets: Sequence[CacheTo],
    seen: Seen,
    report: Report,
    cancelled: threading.Event,
) -> None:
    """Raises `SampanError`, but of a target that may fail."""
    for target in targets:
        try:
            transfer.save(target, seen, report, cancelled)
        except SampanError as error:
            if not target.ignore_error or cancelled.is_set():
                raise
            with internal(report, "[internal] cache export") as voice:
                voice.warn(f"the cache was not exported: {error.message}")
