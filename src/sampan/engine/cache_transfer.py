"""One build's caches from elsewhere and for elsewhere: read without layers, which come when they are needed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import itemgetter

from sampan.build.cache_options import CacheDirectory, CacheFrom, CacheTo
from sampan.build.errors import BuildCancelled
from sampan.build.session import ClientSession
from sampan.build.solver import remote_format
from sampan.build.solver.cache import CacheEntry
from sampan.build.solver.remote_format import CachedMount, RemoteCache
from sampan.build.solver.transfer import CacheLost, Seen
from sampan.build.solver.voice import Name, internal, speaking, vertex_digest
from sampan.build.worker import Report
from sampan.engine.cache_layout import LayoutCache
from sampan.engine.cache_leases import CacheLeases
from sampan.engine.cache_mounts import CacheMounts, fill
from sampan.engine.cache_places import Blob, CachePlace, make_artifact, with_media_type
from sampan.engine.cache_registry import RegistryCache
from sampan.engine.cache_use import Touch
from sampan.engine.images import Images
from sampan.errors import SampanError
from sampan.oci.digest import Digest
from sampan.oci.manifest import Descriptor
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials
from sampan.storage.layer_forms import LayerBlobs, layer_blobs

_PARALLEL = 3
"""Layers that are fetched at a time."""


class BuildCaches:
    """Implements `sampan.build.solver.transfer.CacheTransfer` for one build; used by its threads."""

    def __init__(
        self,
        images: Images,
        credentials: Mapping[str, Credentials],
        client: ClientSession,
        mounts: CacheMounts,
        leases: CacheLeases,
        touch: Touch,
    ) -> None:
        """`touch` is told the cache mounts that are exported."""
        self._images = images
        self._mounts = mounts
        self._leases = leases
        self._touch = touch
        self._report: Report = lambda _event: None
        self._credentials = credentials
        self._client = client
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._caches: list[tuple[CachePlace, RemoteCache]] = []

    def _place(self, where: Reference | CacheDirectory, cancelled: threading.Event) -> CachePlace:
        if isinstance(where, CacheDirectory):
            return LayoutCache(self._images.store, where, self._client, cancelled)
        credentials = self._credentials.get(where.domain, Credentials())
        return RegistryCache(self._images, where, credentials, cancelled)

    # Import

    def load(self, sources: Sequence[CacheFrom], report: Report, cancelled: threading.Event) -> None:
        self._cancelled = cancelled
        self._report = report
        for source in sources:
            place = self._place(source.place, cancelled)
            with internal(report, f"importing cache manifest from {place.name}") as voice:
                try:
                    cache = place.load()
                except SampanError as error:
                    if cancelled.is_set():
                        raise BuildCancelled from error
                    hint = f" ({error.hint})" if error.hint else ""
                    voice.warn(f"no cache from {place.name}: {error.message}{hint}")
                    continue
            self._caches.append((place, cache))

    def find(self, key: str) -> CacheEntry | None:
        layers = self._images.store.layers
        for _, cache in self._caches:
            entry = cache.records.get(key)
            if entry is None:
                continue
            layer = Digest(entry.layer)
            if not layer or layer in cache.layers or layers.has(layer):
                return entry
        return None

    def forget(self) -> None:
        self._caches.clear()

    def ensure(self, diff_ids: Sequence[Digest]) -> None:
        """Fetch those of the layers that are not here. Raises `CacheLost`; a layer that nobody promised is not ours."""
        if not self._caches:
            return
        with self._lock:  # parallel steps may need the same one
            missing = [one for one in dict.fromkeys(diff_ids) if not self._images.store.layers.has(one)]
            if len(missing) < 2:
                for diff_id in missing:
                    self._fetch(diff_id)
                return
            with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="cache") as pool:
                for future in [pool.submit(self._fetch, one) for one in missing]:
                    future.result()

    def _fetch(self, diff_id: Digest) -> None:
        failure: SampanError | None = None
        for place, cache in self._caches:
            blob = cache.layers.get(diff_id)
            if blob is None:
                continue
            try:
                place.fetch(diff_id, blob)
                return
            except SampanError as error:
                if self._cancelled.is_set():
                    raise BuildCancelled from error
                failure = error
        if failure is not None:
            raise CacheLost(f"cached layer {diff_id}: {failure.message}") from failure

    def fill_mount(self, name: str, directory: int) -> bool:
        """Put what a cache has of the cache mount of that name into a new directory; whether there was something."""
        for place, cache in self._caches:
            mount = cache.mounts.get(name)
            if mount is None:
                continue
            with internal(self._report, f"importing cache mount {mount.id}") as voice:
                try:
                    self._fill_mount(place, mount, directory)
                except SampanError as error:
                    if self._cancelled.is_set():
                        raise BuildCancelled from error
                    voice.warn(f"the cache mount {mount.id} was not imported: {error.message}")
                    continue
            return True
        return False

    def _fill_mount(self, place: CachePlace, mount: CachedMount, directory: int) -> None:
        store, digest = self._images.store, mount.blob.digest
        try:
            with store.hold((digest,)):
                place.bring(mount.blob)
                with store.content.open(digest) as tar:
                    fill(directory, tar)
        finally:
            store.drop_blobs((digest,))

    # Export

    def save(self, target: CacheTo, seen: Seen, report: Report, cancelled: threading.Event) -> None:
        if target.place is None:
            return  # inline: it is in the image
        place = self._place(target.place, cancelled)
        # By key: stages that run at the same time see their steps in any order, and equal caches are equal bytes.
        kept = {
            key: entry
            for key, entry in sorted(seen.records.items(), key=itemgetter(0))
            if not entry.content and (target.everything or not entry.layer or entry.layer in seen.layers)
        }
        wanted = tuple(dict.fromkeys(Digest(entry.layer) for entry in kept.values() if entry.layer))
        store, form = self._images.store, target.form
        exporting = speaking(report, _vertex(target, place))
        # The hold ends first: an uncompressed blob has the digest of its layer, and goes at the end.
        with exporting as voice, layer_blobs(store, form.layers) as forms, store.hold(wanted):
            mounts = self._mounts_to_export(seen.mounts, forms, cancelled) if target.mounts else {}
            if not kept and not mounts:
                voice.did("skipping cache export for empty result")  # as BuildKit does: what was there stays
                return
            blobs = [self._layer(diff_id, forms) for diff_id in wanted]
            blobs += [blob for _, blob in mounts.values()]
            found = [with_media_type(one, oci=form.oci) for one in place.upload(blobs)]
            layers = dict(zip(wanted, found, strict=False))
            named = {
                name: CachedMount(mount_id, blob)
                for (name, (mount_id, _)), blob in zip(mounts.items(), found[len(wanted) :], strict=True)
            }
            for digest in dict.fromkeys(one.digest for one in found):
                voice.did(f"writing layer {digest}")
            members = {one.digest: one for one in found}
            artifact = make_artifact(remote_format.encode(kept, layers, named), tuple(members.values()), form)
            place.finish(artifact)
            voice.did(f"writing config {artifact.config.digest}")
            voice.did(f"writing cache image manifest {artifact.manifest.digest}")

    def _layer(self, diff_id: Digest, forms: LayerBlobs) -> Blob:
        """One that was imported and not needed stays where it is, when it is there in a form that serves."""

        def make() -> Descriptor:
            self.ensure((diff_id,))
            return forms.get(diff_id)

        known = None
        if not self._images.store.layers.has(diff_id):
            known = next((one.layers[diff_id] for _, one in self._caches if diff_id in one.layers), None)
        return Blob(make, diff_id, known if known is not None and forms.serves(known) else None)

    def _mounts_to_export(
        self, ids: frozenset[str], forms: LayerBlobs, cancelled: threading.Event
    ) -> dict[str, tuple[str, Blob]]:
        """By the names of their directories: the id, and what is here, else what was imported and not needed."""
        found: dict[str, tuple[str, Blob]] = {}
        for name in self._mounts.of_ids(ids):
            self._touch(name)
        for name, mount_id in self._mounts.of_ids(ids).items():  # those that are still there stay now
            found[name] = mount_id, Blob(partial(self._packed_mount, name, forms, cancelled))
        for place, cache in self._caches:
            for name, mount in cache.mounts.items():
                if mount.id in ids and name not in found:
                    make = partial(_brought, place, mount.blob, forms)
                    found[name] = mount.id, Blob(make, known=mount.blob)
        return dict(itertools.islice(found.items(), remote_format.MAX_MOUNTS))

    def _packed_mount(self, name: str, forms: LayerBlobs, cancelled: threading.Event) -> Descriptor:
        with self._leases.alone(name, cancelled):
            return forms.compressed(lambda out: self._mounts.write_tar(name, out))


def _brought(place: CachePlace, blob: Descriptor, forms: LayerBlobs) -> Descriptor:
    place.bring(blob)
    return forms.keep(blob)


def _vertex(target: CacheTo, place: CachePlace) -> Name:
    """A directory's is named as BuildKit does it; there may be several."""
    where = "client directory" if isinstance(target.place, CacheDirectory) else place.name
    return Name(vertex_digest("exporting cache", place.name), f"exporting cache to {where}")
