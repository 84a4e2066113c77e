"""The build cache on registries: read without its layers, which come when a build needs them; written after a build."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence

from sampan.build.cache_options import CacheFrom, CacheTo
from sampan.build.errors import BuildCancelled
from sampan.build.solver import remote_format
from sampan.build.solver.cache import CacheEntry
from sampan.build.solver.remote_format import RemoteCache
from sampan.build.solver.transfer import CacheLost
from sampan.build.solver.voice import internal
from sampan.build.worker import Report
from sampan.engine.images import Images, platform_of
from sampan.errors import NotFound, SampanError
from sampan.oci import media
from sampan.oci.digest import Digest, digest_of
from sampan.oci.image import parse_image_config
from sampan.oci.manifest import Descriptor, Index, Manifest, encode_manifest, parse_manifest
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials
from sampan.registry.progress import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.registry.client import RegistryClient

MAX_IMAGE_CONFIG = 8 << 20


class RegistryCache:
    """Implements `sampan.build.solver.transfer.CacheTransfer` for one build; used by its threads."""

    def __init__(self, images: Images, credentials: Mapping[str, Credentials]) -> None:
        self._images = images
        self._credentials = credentials
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._caches: list[tuple[Reference, RemoteCache]] = []

    # Import

    def load(self, sources: Sequence[CacheFrom], report: Report, cancelled: threading.Event) -> None:
        self._cancelled = cancelled
        for source in sources:
            name = source.reference.familiar
            with internal(report, f"importing cache manifest from {name}") as voice:
                try:
                    cache = self._local(source.reference) or self._remote(source.reference, cancelled)
                except SampanError as error:
                    if cancelled.is_set():
                        raise BuildCancelled from error
                    voice.warn(f"no cache from {name}: {error.message}")
                    continue
            self._caches.append((source.reference, cache))

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
            for diff_id in diff_ids:
                if not self._images.store.layers.has(diff_id):
                    self._fetch(diff_id, self._cancelled)

    def _fetch(self, diff_id: Digest, cancelled: threading.Event) -> None:
        from sampan.registry.pull import pull_layer

        failure: SampanError | None = None
        for reference, cache in self._caches:
            blob = cache.layers.get(diff_id)
            if blob is None:
                continue
            try:
                with self._client(reference) as client:
                    pull_layer(client, reference, self._images.store, diff_id, blob, _silent, cancelled)
                return
            except SampanError as error:
                if cancelled.is_set():
                    raise BuildCancelled from error
                failure = error
        if failure is not None:
            raise CacheLost(f"cached layer {diff_id}: {failure.message}") from failure

    def _local(self, reference: Reference) -> RemoteCache | None:
        """Of an image that is here, with its layers."""
        image = self._images.store.find(str(reference))
        if image is None or image.config.inline_cache is None:
            return None
        return remote_format.decode_inline(image.config.inline_cache, image.diff_ids)

    def _remote(self, reference: Reference, cancelled: threading.Event) -> RemoteCache:
        from sampan.registry.pull import fetch_small, manifest_for

        with self._client(reference) as client:
            fetched = client.resolve(reference, cancelled.is_set)
            parsed = parse_manifest(fetched.raw, fetched.descriptor.media_type)
            if isinstance(parsed, Index):
                configs = [one for one in parsed.manifests if one.media_type == remote_format.CONFIG_TYPE]
                # BuildKit's older form: an index whose entries are the layers and the configuration.
                if configs:
                    raw = fetch_small(client, reference, configs[0], remote_format.MAX_CONFIG, cancelled)
                    return remote_format.decode(raw, parsed.manifests)
            _, parsed = manifest_for(client, reference, fetched, platform_of(""), cancelled.is_set)
            if parsed.config.media_type == remote_format.CONFIG_TYPE:
                raw = fetch_small(client, reference, parsed.config, remote_format.MAX_CONFIG, cancelled)
                return remote_format.decode(raw, parsed.layers)
            raw = fetch_small(client, reference, parsed.config, MAX_IMAGE_CONFIG, cancelled)
        config = parse_image_config(raw)
        if config.inline_cache is None:
            raise NotFound("the image has no cache in it", hint="build it with --cache-to type=inline")
        return remote_format.decode_inline(config.inline_cache, config.rootfs.diff_ids, parsed.layers)

    # Export

    def save(
        self,
        target: CacheTo,
        records: Mapping[str, CacheEntry],
        image_layers: Sequence[Digest],
        report: Report,
        cancelled: threading.Event,
    ) -> None:
        """The manifest goes last: until then, and if this is interrupted, the registry has the cache it had before."""
        reference = target.reference
        if reference is None:
            return  # inline: it is in the image
        kept = {
            key: entry
            for key, entry in records.items()
            if target.everything or not entry.layer or entry.layer in image_layers
        }
        from sampan.registry.push import push_layers, push_small

        wanted = dict.fromkeys(Digest(entry.layer) for entry in kept.values() if entry.layer)
        self.ensure(tuple(wanted))
        store = self._images.store
        exporting = internal(report, f"exporting cache to {reference.familiar}")
        with exporting, store.hold(wanted), self._client(reference) as client:
            blobs = push_layers(client, reference, tuple(wanted), store, cancelled=cancelled)
            config = remote_format.encode(kept, blobs)
            push_small(client, reference, remote_format.CONFIG_TYPE, config, cancelled)
            described = Descriptor(remote_format.CONFIG_TYPE, digest_of(config), len(config))
            manifest = Manifest(config=described, layers=tuple(blobs.values()), media_type=media.OCI_MANIFEST)
            tag = reference.tag or "latest"
            client.push_manifest(reference, tag, media.OCI_MANIFEST, encode_manifest(manifest))

    @contextlib.contextmanager
    def _client(self, reference: Reference) -> Iterator[RegistryClient]:
        credentials = self._credentials.get(reference.domain, Credentials())
        client = self._images.client(reference.domain, credentials)
        try:
            yield client
        finally:
            client.close()


def _silent(_progress: Progress) -> None:
    """Layers of a cache come without a word: nobody asked for them by name."""
