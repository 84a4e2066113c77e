"""`push`: an image's layers, configuration and manifest to a registry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial

from sampan.errors import Invalid
from sampan.oci.digest import Digest, digest_of, hex_of
from sampan.oci.manifest import Descriptor
from sampan.oci.reference import Reference
from sampan.registry.client import RegistryClient
from sampan.registry.progress import Progress, Report, Transfer
from sampan.registry.transport import Cancel
from sampan.storage.content import ContentStore
from sampan.storage.images import Image, ImageStore
from sampan.storage.layer_blobs import compressed_blob
from sampan.storage.layer_forms import LayerForm, layer_blobs
from sampan.storage.packing import Packed, PackedManifest, pack_image, stored_index

_PIECE = 64 << 10
"""Bytes sent at a time: a connection of a few KiB a second manages one within the transport's timeout."""


def push(
    client: RegistryClient,
    reference: Reference,
    image: Image,
    images: ImageStore,
    *,
    report: Report,
    cancelled: threading.Event,
    parallel: int = 5,
) -> Descriptor:
    """Push the image under `reference` (a tag); the descriptor of its manifest.

    An image that came from a registry is pushed with the manifest it had, so that its digest stays. Raises
    `Denied`, `Unauthorized`, `Unavailable`, `Invalid`.
    """
    if reference.digest is not None:
        raise Invalid("cannot push a digest reference")
    reference = reference.with_default_tag()
    unique = tuple(dict.fromkeys(reversed(image.diff_ids)))  # the top first, as Docker does
    _announce(unique, report, parallel)
    work = _LayerPush(client, reference, images, report, cancelled)
    with images.hold(image.diff_ids), layer_blobs(images, LayerForm()) as blobs:
        _in_parallel(work, [partial(work.push, layer) for layer in unique], parallel)
        packed = pack_image(images, image, blobs)
        _push_config(client, reference, packed, cancelled)
        digest = _push_named(client, reference, packed.descriptor, packed.raw, report)
    images.tag(image.id, replace(reference, tag=None, digest=digest))
    return packed.descriptor


def push_name(
    client: RegistryClient,
    reference: Reference,
    image: Image,
    images: ImageStore,
    *,
    whole: bool = True,
    report: Report,
    cancelled: threading.Event,
    parallel: int = 5,
) -> None:
    """Push what the name means: an index that is here in full with all of its platforms, else the image. As `push`."""
    index = images.index_of(str(reference)) if whole else None
    if index is None or not index[1].complete:
        push(client, reference, image, images, report=report, cancelled=cancelled, parallel=parallel)
        return
    packed = stored_index(images, index[1])
    with images.hold((*image.diff_ids, *index[1].blobs())):
        digest = push_packed(
            client, reference, packed, images, report=report, cancelled=cancelled, parallel=parallel
        )
    for member in packed.images:
        for diff_id, blob in zip(member.diff_ids, member.layers, strict=True):
            if images.blob_for(diff_id) == Descriptor(blob.media_type, blob.digest, blob.size):
                images.remember_blob(diff_id, blob, reference.name)
    images.tag(image.id, replace(reference, tag=None, digest=digest), index[0])


def push_packed(
    client: RegistryClient,
    reference: Reference,
    packed: Packed,
    images: ImageStore,
    *,
    by_digest: bool = False,
    report: Report,
    cancelled: threading.Event,
    parallel: int = 5,
) -> Digest:
    """Push what was packed, an index with all that it names too; the digest it got. Raises as `push`.

    `by_digest`: under no tag. Its blobs are in the content store, and are kept there by the caller.
    """
    reference = reference.with_default_tag()
    layers: dict[Digest, tuple[Descriptor, Digest | None]] = {}
    for manifest in packed.manifests:
        diff_ids: Sequence[Digest | None] = manifest.diff_ids or [None] * len(manifest.layers)
        for blob, diff_id in zip(manifest.layers, diff_ids, strict=True):
            layers.setdefault(blob.digest, (blob, diff_id))
    _announce(tuple(layers), report, parallel)
    work = _LayerPush(client, reference, images, report, cancelled)
    _in_parallel(work, [partial(work.push_blob, *layer) for layer in layers.values()], parallel)
    for manifest in packed.manifests:
        _push_config(client, reference, manifest, cancelled)
        if packed.index:
            client.push_manifest(
                reference, manifest.descriptor.digest, manifest.descriptor.media_type, manifest.raw
            )
    if by_digest:
        reference = replace(reference, tag=packed.descriptor.digest)
    return _push_named(client, reference, packed.descriptor, packed.raw, report)


def _announce(layers: tuple[Digest, ...], report: Report, parallel: int) -> None:
    for layer in layers:
        report(Progress("Preparing", hex_of(layer)[:12]))
    for layer in layers[parallel:]:
        report(Progress("Waiting", hex_of(layer)[:12]))


def _push_config(
    client: RegistryClient, reference: Reference, manifest: PackedManifest, cancelled: threading.Event
) -> None:
    if not client.has_blob(reference, manifest.config.digest):
        raw = _Bytes(manifest.config_raw)
        client.push_blob(reference, manifest.config, raw, cancelled=cancelled.is_set)


def _push_named(
    client: RegistryClient, reference: Reference, descriptor: Descriptor, raw: bytes, report: Report
) -> Digest:
    tag = reference.tag or "latest"
    digest = client.push_manifest(reference, tag, descriptor.media_type, raw)
    report(Progress(f"{tag}: digest: {digest} size: {len(raw)}"))
    report(Progress("", aux={"Tag": tag, "Digest": digest, "Size": len(raw)}))
    return digest


def push_blobs(
    client: RegistryClient,
    reference: Reference,
    blobs: Sequence[tuple[Callable[[], Descriptor], Digest | None, Descriptor | None]],
    images: ImageStore,
    *,
    report: Report = lambda _progress: None,
    cancelled: threading.Event,
    parallel: int = 5,
) -> list[Descriptor]:
    """Blobs alone, for an artifact (a cache, a backup); their descriptors. Raises as `push`.

    Each comes with what makes it in the content store, the diff-id of the layer that it is, if it is one, and what it
    will be, if that is known before it is made: what the registry has need not be made.
    """
    if not blobs:
        return []
    work = _LayerPush(client, reference, images, report, cancelled)
    return _in_parallel(work, [partial(work.push_made, *one) for one in blobs], parallel)


def push_small(
    client: RegistryClient, reference: Reference, media_type: str, raw: bytes, cancelled: threading.Event
) -> None:
    """A configuration, unless it is there. Raises as `push`."""
    descriptor = Descriptor(media_type, digest_of(raw), len(raw))
    if not client.has_blob(reference, descriptor.digest):
        client.push_blob(reference, descriptor, _Bytes(raw), cancelled=cancelled.is_set)


def _in_parallel(work: _LayerPush, jobs: list[Callable[[], Descriptor]], parallel: int) -> list[Descriptor]:
    """Several at a time; when one fails the others are given up, and its error is raised."""
    with ThreadPoolExecutor(parallel, thread_name_prefix="push") as pool:
        futures = [pool.submit(job) for job in jobs]
        wait(futures, return_when=FIRST_EXCEPTION)
        if any(future.done() and future.exception() for future in futures):
            work.give_up()
    failures = [error for future in futures if (error := future.exception())]
    # A layer that was only told to stop is not the reason.
    for error in sorted(failures, key=lambda one: isinstance(one, Cancel)):
        raise error
    return [future.result() for future in futures]


class _LayerPush:
    def __init__(
        self,
        client: RegistryClient,
        reference: Reference,
        images: ImageStore,
        report: Report,
        cancelled: threading.Event,
    ) -> None:
        self._client = client
        self._reference = reference
        self._images = images
        self._report = report
        self._cancelled = cancelled
        self._given_up = threading.Event()

    def give_up(self) -> None:
        self._given_up.set()

    def _stopped(self) -> bool:
        return self._cancelled.is_set() or self._given_up.is_set()

    def push(self, diff_id: Digest) -> Descriptor:
        """Bring one layer to the registry; the descriptor of its blob."""
        return self.push_made(partial(compressed_blob, self._images, diff_id), diff_id)

    def push_made(
        self, make: Callable[[], Descriptor], diff_id: Digest | None, known: Descriptor | None = None
    ) -> Descriptor:
        """Make a blob and bring it there; what it is."""
        if self._stopped():
            raise Cancel("cancelled")
        if known is not None and self._client.has_blob(self._reference, known.digest):
            self._report(Progress("Layer already exists", hex_of(diff_id or known.digest)[:12]))
            return known
        descriptor = make()
        self.push_blob(descriptor, diff_id)
        if diff_id is not None and self._images.blob_for(diff_id) == descriptor:
            self._images.remember_blob(diff_id, descriptor, self._reference.name)
        return descriptor

    def push_blob(self, descriptor: Descriptor, diff_id: Digest | None) -> Descriptor:
        """Bring a blob of the content store there; `diff_id`: of the layer it is a form of, if it is one's."""
        if self._stopped():
            raise Cancel("cancelled")
        short = hex_of(diff_id or descriptor.digest)[:12]
        if self._client.has_blob(self._reference, descriptor.digest):
            self._report(Progress("Layer already exists", short))
            return descriptor
        source = self._client.push_blob(
            self._reference,
            descriptor,
            _StoredBlob(self._images.content, descriptor.digest),
            mount_from=self._mountable(diff_id) if diff_id is not None else "",
            progress=Transfer(self._report, "Pushing", short, descriptor.size).at,
            cancelled=self._stopped,
        )
        self._report(Progress(f"Mounted from {source}" if source else "Pushed", short))
        return descriptor

    def _mountable(self, diff_id: Digest) -> str:
        """The repository of this registry that had the layer last, "" when none is known."""
        prefix = self._reference.domain + "/"
        known = self._images.repositories_of(diff_id)
        others = (name for name in known if name.startswith(prefix) and name != self._reference.name)
        return next(reversed(list(others)), "").removeprefix(prefix)


class _StoredBlob:
    """A blob of the content store, as an upload reads it."""

    def __init__(self, content: ContentStore, digest: Digest) -> None:
        self._content = content
        self._digest = digest

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        with self._content.open(self._digest) as file:
            file.seek(offset)
            while length and (piece := file.read(min(_PIECE, length))):
                length -= len(piece)
                yield piece


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        end = offset + length
        yield from (self._data[at : min(at + _PIECE, end)] for at in range(offset, end, _PIECE))
