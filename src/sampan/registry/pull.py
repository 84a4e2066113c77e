"""`pull`: from a reference to an image in the store.

Every layer flows once: from the network into the content store (compressed, for pushing it on) and, at the
same time, through the decompressor into the layer store. The image gets its name when all of it is on disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from sampan.errors import Invalid
from sampan.oci import media
from sampan.oci.digest import Digest, digest_of, hex_of
from sampan.oci.image import ImageConfig, parse_image_config
from sampan.oci.manifest import Descriptor, Index, Manifest, Platform, parse_manifest
from sampan.oci.reference import Reference
from sampan.registry.client import FetchedManifest, RegistryClient
from sampan.registry.feeding import LayerFeeder
from sampan.registry.platforms import choose
from sampan.registry.progress import Progress, Report, Transfer
from sampan.registry.pulled_names import PulledNames, give_names
from sampan.registry.transport import Cancel, Cancelled
from sampan.storage.content import BlobIngest
from sampan.storage.images import Image, ImageStore
from sampan.storage.layers import LayerStore

MAX_CONFIG_SIZE = 8 << 20
MAX_LAYERS = 127
"""overlayfs takes up to 500 lower layers; Docker's own bound is this one."""

LAYER_TYPES = frozenset(
    {media.OCI_LAYER, media.OCI_LAYER_GZIP, media.OCI_LAYER_ZSTD, media.DOCKER_LAYER, media.DOCKER_LAYER_GZIP}
)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the registry says the image is."""

    manifest: FetchedManifest
    parsed: Manifest
    config_raw: bytes
    config: ImageConfig


def pull(
    client: RegistryClient,
    reference: Reference,
    images: ImageStore,
    *,
    platform: Platform,
    report: Report,
    cancelled: threading.Event,
    parallel: int = 3,
    beside: bool = False,
) -> Image:
    """Pull an image. `beside`: no tag is given or moved for it.

    Raises `NotFound`, `Denied`, `Unauthorized`, `Unavailable`, `Invalid`; what arrived of
    the layers stays for the next try, nothing half-made gets a name.
    """
    reference = reference.with_default_tag()
    work = _LayerPull(client, reference, images, report, cancelled)
    image, fresh = _pull_one(work, reference, platform, parallel, beside=beside)
    report(_status(reference, fresh=fresh))
    return image


def pull_layer(
    client: RegistryClient,
    reference: Reference,
    images: ImageStore,
    diff_id: Digest,
    descriptor: Descriptor,
    report: Report,
    cancelled: threading.Event,
) -> None:
    """A single layer, for the build cache; raises as `pull`. The caller keeps it from being collected."""
    if descriptor.media_type not in LAYER_TYPES:
        raise Invalid(f"layers of media type {descriptor.media_type} are not supported")
    with images.hold((diff_id, descriptor.digest)):
        _LayerPull(client, reference, images, report, cancelled).fetch(diff_id, descriptor)
        images.remember_blob(diff_id, descriptor, reference.name)


def pull_blob(
    client: RegistryClient,
    reference: Reference,
    images: ImageStore,
    descriptor: Descriptor,
    cancelled: threading.Event,
    progress: Callable[[int], None] = lambda _offset: None,
) -> None:
    """A blob into the content store, as it is; raises as `pull`. The caller keeps it from being collected."""
    content = images.content
    with content.ingest(descriptor.digest, descriptor.size, cancelled=cancelled.is_set) as blob:
        if not blob.complete:
            client.fetch_blob(reference, descriptor, _Watched(blob, progress), cancelled.is_set)
            blob.commit()


class _Watched:
    """The sink of a blob alone. progress: told how much of it is there."""

    def __init__(self, blob: BlobIngest, progress: Callable[[int], None]) -> None:
        self._blob = blob
        self._progress = progress
        self.restart = blob.restart
        progress(blob.offset)

    @property
    def offset(self) -> int:
        return self._blob.offset

    def write(self, data: bytes) -> None:
        self._blob.write(data)
        self._progress(self._blob.offset)


def pull_all(
    client: RegistryClient,
    repository: Reference,
    images: ImageStore,
    *,
    platform: Platform,
    report: Report,
    cancelled: threading.Event,
    parallel: int = 3,
) -> tuple[Reference, ...]:
    """Pull every tag of a repository, one after the other; the tags. Raises like `pull`, at the first that fails."""
    pulled = []
    fresh = False
    for tag in client.tags(repository, cancelled.is_set):
        reference = replace(repository, tag=tag)
        work = _LayerPull(client, reference, images, report, cancelled)
        fresh |= _pull_one(work, reference, platform, parallel)[1]
        pulled.append(reference)
    report(_status(repository, fresh=fresh))
    return tuple(pulled)


def _status(reference: Reference, *, fresh: bool) -> Progress:
    what = "Downloaded newer image" if fresh else "Image is up to date"
    return Progress(f"Status: {what} for {reference.familiar}")


def _pull_one(
    work: _LayerPull, reference: Reference, platform: Platform, parallel: int, *, beside: bool = False
) -> tuple[Image, bool]:
    """The image, and whether the name is new for it. What is here of the same index stays under its names."""
    images = work.images
    named = work.client.resolve(reference, work.stopped)
    work.report(Progress(f"Pulling from {reference.path}", reference.tag or reference.familiar, heading=True))
    wanted = _describe(work, named, platform)
    layers = wanted.parsed.layers
    diff_ids = wanted.config.rootfs.diff_ids
    with images.hold((*diff_ids, *(layer.digest for layer in layers))):
        _pull_layers(work, diff_ids, layers, parallel, known=images.has(digest_of(wanted.config_raw)))
        names = PulledNames(reference, named.descriptor.digest, beside=beside)
        before = images.find(str(reference))
        image = images.register(
            wanted.config_raw,
            manifest_raw=wanted.manifest.raw,
            manifest_descriptor=wanted.manifest.descriptor,
            blobs=layers,
            names=names.alone(images, digest_of(wanted.config_raw)),
            repository=reference.name,
        )
        if not names.alone(images, image.id):
            give_names(images, image, named, names)
    work.report(Progress(f"Digest: {named.descriptor.digest}"))
    return image, before is None or before.id != image.id


def _describe(work: _LayerPull, named: FetchedManifest, platform: Platform) -> _Wanted:
    reference = work.reference
    manifest, parsed = manifest_for(work.client, reference, named, platform, work.stopped)
    if len(parsed.layers) > MAX_LAYERS:
        raise Invalid(f"{reference.familiar} has {len(parsed.layers)} layers, more than {MAX_LAYERS}")
    for layer in parsed.layers:
        if layer.media_type not in LAYER_TYPES:
            raise Invalid(f"{reference.familiar}: layers of media type {layer.media_type} are not supported")
    config_raw = _fetch_config(work, parsed.config)
    config = parse_image_config(config_raw)
    if len(config.rootfs.diff_ids) != len(parsed.layers):
        raise Invalid(
            f"{reference.familiar}: the manifest has {len(parsed.layers)} layers, "
            f"the configuration {len(config.rootfs.diff_ids)}"
        )
    return _Wanted(manifest, parsed, config_raw, config)


def manifest_for(
    client: RegistryClient,
    reference: Reference,
    named: FetchedManifest,
    platform: Platform,
    stopped: Callable[[], bool],
) -> tuple[FetchedManifest, Manifest]:
    """The manifest of an image for the platform: `named` itself, or one that it names if it is an index.

    Raises `NotFound` for a platform that the index lacks, `Invalid`, and as `RegistryClient.fetch_manifest`.
    """
    parsed = parse_manifest(named.raw, named.descriptor.media_type)
    if isinstance(parsed, Index):
        named = client.fetch_manifest(reference, choose(parsed, platform).digest, stopped)
        parsed = parse_manifest(named.raw, named.descriptor.media_type)
    if isinstance(parsed, Index):
        raise Invalid(f"{reference.familiar}: the index names another index, which is not supported")
    return named, parsed


class _MemorySink:
    """A small blob, checked when it is complete."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.data = bytearray()

    @property
    def offset(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        if len(self.data) + len(data) > self._limit:
            raise Invalid(f"more than the expected {self._limit} bytes were sent")
        self.data += data

    def restart(self) -> None:
        self.data.clear()


def _fetch_config(work: _LayerPull, descriptor: Descriptor) -> bytes:
    client, reference = work.client, work.reference
    if work.images.has(descriptor.digest):
        return work.images.get(descriptor.digest).config_raw
    if descriptor.size > MAX_CONFIG_SIZE:
        raise Invalid(f"{reference.familiar}: a configuration of {descriptor.size} bytes is too large")
    return _fetch_whole(client, reference, descriptor, work.stopped)


def fetch_config(
    client: RegistryClient, reference: Reference, platform: Platform, cancelled: threading.Event
) -> ImageConfig:
    """An image's configuration alone; nothing is kept of it. Raises as `pull`."""
    named = client.resolve(reference, cancelled.is_set)
    _, parsed = manifest_for(client, reference, named, platform, cancelled.is_set)
    return parse_image_config(fetch_small(client, reference, parsed.config, MAX_CONFIG_SIZE, cancelled))


def fetch_small(
    client: RegistryClient,
    reference: Reference,
    descriptor: Descriptor,
    limit: int,
    cancelled: threading.Event,
) -> bytes:
    """A blob of at most `limit` bytes, verified. Raises as `pull`."""
    if descriptor.size > limit:
        raise Invalid(f"{reference.familiar}: a configuration of {descriptor.size} bytes is too large")
    return _fetch_whole(client, reference, descriptor, cancelled.is_set)


def _fetch_whole(
    client: RegistryClient, reference: Reference, descriptor: Descriptor, cancelled: Cancelled
) -> bytes:
    sink = _MemorySink(descriptor.size)
    client.fetch_blob(reference, descriptor, sink, cancelled)
    raw = bytes(sink.data)
    if digest_of(raw) != descriptor.digest:
        raise Invalid(
            f"{reference.familiar}: configuration verification failed for digest {descriptor.digest}"
        )
    return raw


class _LayerPull:
    """One image's download: where from, where to, and of single layers what `_pull_layers` hands to its threads."""

    def __init__(
        self,
        client: RegistryClient,
        reference: Reference,
        images: ImageStore,
        report: Report,
        cancelled: threading.Event,
    ) -> None:
        self.client = client
        self.reference = reference
        self.images = images
        self.report = report
        self._given_up = threading.Event()
        self._cancelled = cancelled

    def give_up(self) -> None:
        """One layer failed: the others need not go on (what they have is kept)."""
        self._given_up.set()

    def stopped(self) -> bool:
        return self._cancelled.is_set() or self._given_up.is_set()

    def present(self, diff_id: Digest, descriptor: Descriptor) -> bool:
        return self.images.layers.has(diff_id) and self.images.content.has(descriptor.digest)

    def fetch(self, diff_id: Digest, descriptor: Descriptor) -> None:
        """Download one layer, going on from what an earlier download has left."""
        kept = self.images.content.partials().get(descriptor.digest, 0)
        try:
            self._fetch(diff_id, descriptor)
        except Invalid:
            # What was kept may be damaged (the host crashed while it was written), or a mirror may be: once more,
            # from the start and from the registry itself.
            if not self.client.distrust_mirrors() and not kept:
                raise
            self.images.content.drop_partial(descriptor.digest)
            self._fetch(diff_id, descriptor)

    def _fetch(self, diff_id: Digest, descriptor: Descriptor) -> None:
        short = hex_of(descriptor.digest)[:12]
        with self.images.content.ingest(descriptor.digest, descriptor.size, cancelled=self.stopped) as blob:
            with _Tee(blob, self.images.layers, descriptor, diff_id) as tee:
                tee.take_up(Transfer(self.report, "Downloading", short, descriptor.size).at)
                self.client.fetch_blob(self.reference, descriptor, tee, self.stopped)
                self.report(Progress("Verifying Checksum", short))
                blob.commit()
                self.report(Progress("Download complete", short))
                self.report(Progress("Extracting", short, descriptor.size, descriptor.size))
                tee.finish()
        self.report(Progress("Pull complete", short))


class _Tee:
    """The sink of one layer: into the content store and into the layer store."""

    def __init__(self, blob: BlobIngest, layers: LayerStore, descriptor: Descriptor, diff_id: Digest) -> None:
        self._blob = blob
        self._layers = layers
        self._descriptor = descriptor
        self._diff_id = diff_id
        self._layer: LayerFeeder | None = None
        self._progress: Callable[[int], None] = lambda _offset: None

    def __enter__(self) -> _Tee:
        self._layer = self._feeder()
        return self

    def __exit__(self, *_: object) -> None:
        if self._layer is not None:
            self._layer.abort()

    @property
    def offset(self) -> int:
        return self._blob.offset

    def take_up(self, progress: Callable[[int], None]) -> None:
        """Give the layer what an earlier download has left."""
        self._progress = progress
        try:
            for chunk in self._blob.existing():
                self._to_layer(chunk)
        except Invalid:
            # What was kept is no good (the host crashed while it was written): begin anew.
            self.restart()

    def write(self, data: bytes) -> None:
        self._blob.write(data)
        try:
            self._to_layer(data)
        except Invalid:
            self._blob.restart()  # these bytes will never become a layer: don't resume after them
            raise
        self._progress(self._blob.offset)

    def restart(self) -> None:
        self._blob.restart()
        if self._layer is not None:
            self._layer.abort()
        self._layer = self._feeder()

    def _feeder(self) -> LayerFeeder:
        return LayerFeeder(self._layers.ingest(self._descriptor.media_type, self._diff_id))

    def finish(self) -> None:
        if self._layer is not None:
            self._layer.commit()

    def _to_layer(self, data: bytes) -> None:
        if self._layer is not None:
            self._layer.write(data)


def _pull_layers(
    work: _LayerPull,
    diff_ids: tuple[Digest, ...],
    layers: tuple[Descriptor, ...],
    parallel: int,
    *,
    known: bool,
) -> None:
    """`known`: the image itself is; then its layers are only mentioned when one of them is missing."""
    pairs = tuple(zip(diff_ids, layers, strict=True))
    if known and all(work.present(*pair) for pair in pairs):
        return
    missing: dict[Digest, tuple[Digest, Descriptor]] = {}
    for diff_id, descriptor in pairs:
        short = hex_of(descriptor.digest)[:12]
        if work.present(diff_id, descriptor):
            work.report(Progress("Already exists", short))
        elif descriptor.digest not in missing:
            work.report(Progress("Pulling fs layer", short))
            missing[descriptor.digest] = (diff_id, descriptor)
    for digest in list(missing)[parallel:]:
        work.report(Progress("Waiting", hex_of(digest)[:12]))
    if not missing:
        return
    with ThreadPoolExecutor(parallel, thread_name_prefix="pull") as pool:
        futures: list[Future[None]] = [pool.submit(work.fetch, *each) for each in missing.values()]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        if any(future.exception() for future in done):
            work.give_up()
            for future in futures:
                future.cancel()
    failures = [error for future in futures if not future.cancelled() and (error := future.exception())]
    # A layer that was only told to stop is not the reason.
    for error in sorted(failures, key=lambda one: isinstance(one, Cancel)):
        raise error
