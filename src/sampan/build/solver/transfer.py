"""Caches from elsewhere and for elsewhere, as a build sees them: looked into before it, written after it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
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


class CacheTransfer(Protocol):
    """Of one build. The engine implements it on registries; layers come when they are needed, if they are."""

    def load(self, sources: Sequence[CacheFrom], report: Report, cancelled: threading.Event) -> None:
        """Look into the caches; one that can't be read is reported and left out. Raises nothing but a cancellation."""
        ...

    def find(self, key: str) -> CacheEntry | None:
        """An imported record; its layer may not be here yet."""
        ...

    def forget(self) -> None:
        """Import nothing more: something that was promised could not be had."""
        ...

    def save(
        self,
        target: CacheTo,
        records: Mapping[str, CacheEntry],
        image_layers: Sequence[Digest],
        report: Report,
        cancelled: threading.Event,
    ) -> None:
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
        image_id = perform()
    except CacheLost as error:
        transfer.forget()
        with internal(report, "[internal] begin anew without imported caches") as voice:
            voice.warn(f"{error.message}; going on without imported caches")
        image_id = perform()
    cache.keep_imported()
    export_caches(transfer, request.cache_to, dict(cache.seen), worker.layers_of(image_id), report, cancelled)
    return image_id


def export_caches(
    transfer: CacheTransfer,
    targets: Sequence[CacheTo],
    records: Mapping[str, CacheEntry],
    layers: Sequence[Digest],
    report: Report,
    cancelled: threading.Event,
) -> None:
    """`layers`: of the images that were built. Raises `SampanError`, but of a target that may fail."""
    for target in targets:
        try:
            transfer.save(target, records, layers, report, cancelled)
        except SampanError as error:
            if not target.ignore_error or cancelled.is_set():
                raise
            with internal(report, "[internal] cache export") as voice:
                voice.warn(f"the cache was not exported: {error.message}")
