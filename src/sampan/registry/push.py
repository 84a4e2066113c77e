"""`push`: an image's layers, configuration and manifest to a registry."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace

from sampan.errors import Invalid
from sampan.oci import media
from sampan.oci.digest import Digest, digest_of, hex_of
from sampan.oci.manifest import Descriptor, Manifest, encode_manifest, parse_manifest
from sampan.oci.reference import Reference
from sampan.registry.client import RegistryClient
from sampan.registry.progress import Progress, Report, Transfer
from sampan.registry.transport import Cancel
from sampan.storage.content import ContentStore
from sampan.storage.images import Image, ImageStore
from sampan.storage.layer_blobs import compressed_blob

_PIECE = 64 << 10
"""Bytes sent at a time: a connection of a few KiB a second manages one within the transport's timeout."""

_TO_DOCKER = {media.OCI_LAYER_GZIP: media.DOCKER_LAYER_GZIP, media.OCI_LAYER: media.DOCKER_LAYER}
_TO_OCI = {media.DOCKER_LAYER_GZIP: media.OCI_LAYER_GZIP, media.DOCKER_LAYER: media.OCI_LAYER}


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
    tag = reference.tag or "latest"
    unique = tuple(dict.fromkeys(reversed(image.diff_ids)))  # the top first, as Docker does
    for diff_id in unique:
        report(Progress("Preparing", hex_of(diff_id)[:12]))
    for diff_id in unique[parallel:]:
        report(Progress("Waiting", hex_of(diff_id)[:12]))
    work = _LayerPush(client, reference, images, report, cancelled)
    with images.hold(image.diff_ids):
        pushed = _push_layers(work, unique, parallel)
        raw, media_type = _manifest(image, [pushed[diff_id] for diff_id in image.diff_ids])
        config = Descriptor(media.DOCKER_CONFIG, image.id, len(image.config_raw))
        if not client.has_blob(reference, config.digest):
            client.push_blob(reference, config, _Bytes(image.config_raw), cancelled=cancelled.is_set)
        digest = client.push_manifest(reference, tag, media_type, raw)
    images.tag(image.id, replace(reference, tag=None, digest=digest))
    report(Progress(f"{tag}: digest: {digest} size: {len(raw)}"))
    report(Progress("", aux={"Tag": tag, "Digest": digest, "Size": len(raw)}))
    return Descriptor(media_type, digest, len(raw))


def push_layers(
    client: RegistryClient,
    reference: Reference,
    layers: tuple[Digest, ...],
    images: ImageStore,
    *,
    cancelled: threading.Event,
    parallel: int = 5,
) -> dict[Digest, Descriptor]:
    """Layers alone, for a cache artifact; their descriptors with OCI's media types. Raises as `push`."""
    if not layers:
        return {}
    work = _LayerPush(client, reference, images, lambda _progress: None, cancelled)
    pushed = _push_layers(work, layers, parallel)
    return {
        diff_id: Descriptor(_TO_OCI.get(blob.media_type, blob.media_type), blob.digest, blob.size)
        for diff_id, blob in pushed.items()
    }


def push_small(
    client: RegistryClient, reference: Reference, media_type: str, raw: bytes, cancelled: threading.Event
) -> None:
    """A configuration, unless it is there. Raises as `push`."""
    descriptor = Descriptor(media_type, digest_of(raw), len(raw))
    if not client.has_blob(reference, descriptor.digest):
        client.push_blob(reference, descriptor, _Bytes(raw), cancelled=cancelled.is_set)


def _push_layers(work: _LayerPush, layers: tuple[Digest, ...], parallel: int) -> dict[Digest, Descriptor]:
    """All of them, several at a time; when one fails the others are given up, and its error is raised."""
    with ThreadPoolExecutor(parallel, thread_name_prefix="push") as pool:
        futures = [pool.submit(work.push, layer) for layer in layers]
        wait(futures, return_when=FIRST_EXCEPTION)
        if any(future.done() and future.exception() for future in futures):
            work.give_up()
    failures = [error for future in futures if (error := future.exception())]
    # A layer that was only told to stop is not the reason.
    for error in sorted(failures, key=lambda one: isinstance(one, Cancel)):
        raise error
    return {layer: future.result() for layer, future in zip(layers, futures, strict=True)}


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
        if self._stopped():
            raise Cancel("cancelled")
        short = hex_of(diff_id)[:12]
        descriptor = compressed_blob(self._images, diff_id)
        if self._client.has_blob(self._reference, descriptor.digest):
            self._report(Progress("Layer already exists", short))
        else:
            source = self._client.push_blob(
                self._reference,
                descriptor,
                _StoredBlob(self._images.content, descriptor.digest),
                mount_from=self._mountable(diff_id),
                progress=Transfer(self._report, "Pushing", short, descriptor.size).at,
                cancelled=self._stopped,
            )
            self._report(Progress(f"Mounted from {source}" if source else "Pushed", short))
        self._images.remember_blob(diff_id, descriptor, self._reference.name)
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


def _manifest(image: Image, layers: list[Descriptor]) -> tuple[bytes, str]:
    """The bytes and the media type: as it came, or a new one of Docker's schema 2 (OCI's where zstd needs it)."""
    if image.manifest_raw and image.manifest_descriptor is not None:
        known = parse_manifest(image.manifest_raw, image.manifest_descriptor.media_type)
        if isinstance(known, Manifest) and [one.digest for one in known.layers] == [
            one.digest for one in layers
        ]:
            return image.manifest_raw, image.manifest_descriptor.media_type
    plain = [Descriptor(one.media_type, one.digest, one.size) for one in layers]
    if any(one.media_type == media.OCI_LAYER_ZSTD for one in plain):
        kind, config_type, names = media.OCI_MANIFEST, media.OCI_CONFIG, _TO_OCI
    else:
        kind, config_type, names = media.DOCKER_MANIFEST, media.DOCKER_CONFIG, _TO_DOCKER
    manifest = Manifest(
        config=Descriptor(config_type, digest_of(image.config_raw), len(image.config_raw)),
        layers=tuple(
            Descriptor(names.get(one.media_type, one.media_type), one.digest, one.size) for one in plain
        ),
        media_type=kind,
    )
    return encode_manifest(manifest), kind
