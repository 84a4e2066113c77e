"""The two forms of a layer: its tar stream, and the compressed blob that registries and archives carry.

A layer that a build made can be written as a tar again at any time; one that came as a tar cannot (another
program wrote that tar), so its compressed blob is kept in the content store.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable
from typing import Protocol

from isal import isal_zlib

from sampan.errors import Internal
from sampan.oci import media
from sampan.oci.digest import Digest
from sampan.oci.manifest import Descriptor
from sampan.storage.content import BLOCK, BlobWriter
from sampan.storage.decompress import decompressed
from sampan.storage.images import ImageStore
from sampan.storage.layers import Layer

LEVEL = 2
"""isal's levels are 0 to 3; 2 compresses about as well as zlib's 4, at several times its speed."""
_GZIP = 31
"""zlib's window bits for a gzip stream; its header has no time and no name, so equal input gives equal bytes."""
_BLOCK = 1 << 20
"""Bytes that are compressed at a time: what isal writes depends on the pieces that it is given."""
_MAX_TAR = 1 << 40
_KEPT = ((b"\x1f\x8b", media.DOCKER_LAYER_GZIP), (b"\x28\xb5\x2f\xfd", media.OCI_LAYER_ZSTD))
"""First bytes of the compressions that registries take, and their media types."""

Progress = Callable[[int], None]


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class GzipSink:
    """Compresses what is written to it into `out`; the same bytes in whatever pieces they come."""

    def __init__(self, out: Sink, progress: Progress = lambda _size: None) -> None:
        self._out = out
        self._progress = progress
        self._compressor = isal_zlib.compressobj(LEVEL, wbits=_GZIP)
        self._waiting = bytearray()
        self._taken = 0

    def write(self, data: bytes) -> int:
        at = 0
        while len(self._waiting) + len(data) - at >= _BLOCK:
            end = at + _BLOCK - len(self._waiting)
            self._waiting += data[at:end]
            self._compress()
            at = end
        self._waiting += data[at:]
        self._taken += len(data)
        self._progress(self._taken)
        return len(data)

    def finish(self) -> None:
        self._compress()
        self._out.write(self._compressor.flush())

    def _compress(self) -> None:
        compressed = self._compressor.compress(self._waiting)
        if compressed:
            self._out.write(compressed)
        self._waiting.clear()


def compressed_blob(
    images: ImageStore, diff_id: Digest, progress: Progress = lambda _size: None
) -> Descriptor:
    """The descriptor of the layer's compressed blob, which is made when there is none yet.

    `progress` gets the bytes of the tar that are done. Raises `NotFound` for an unknown layer.
    """
    known = images.blob_for(diff_id)
    if known is not None:
        return known
    with images.content.writer() as writer:
        gzip = GzipSink(writer, progress)
        images.layers.tar(diff_id, gzip)
        gzip.finish()
        return _remember(images, diff_id, writer)


def write_tar(images: ImageStore, diff_id: Digest, out: Sink) -> None:
    """Write the layer's tar stream, byte for byte what its diff-id names."""
    if images.layers.reproducible(diff_id):
        images.layers.tar(diff_id, out)
        return
    descriptor = images.blob_for(diff_id)
    if descriptor is None:
        raise Internal(
            f"the blob of layer {diff_id} is missing from the content store",
            hint="pull or load the image again",
        )
    with images.content.open(descriptor.digest) as file:
        blocks = iter(lambda: file.read(BLOCK), b"")
        for chunk in decompressed(blocks, _MAX_TAR):
            out.write(chunk)


def tar_size(images: ImageStore, diff_id: Digest) -> int:
    """Bytes of the layer's tar stream; found by making it, and remembered."""
    known = images.tar_sizes.get(diff_id)
    if known is None:
        counter = _Counter()
        write_tar(images, diff_id, counter)
        known = images.tar_sizes[diff_id] = counter.size
    return known


def ingest_layer(images: ImageStore, chunks: Iterable[bytes]) -> tuple[Layer, Descriptor, Digest]:
    """Make a layer of a tar: the layer, its compressed blob, the digest of the bytes that came.

    A gzip or zstd stream is kept as the blob it is, anything else is compressed. Raises `Invalid` (a damaged
    tar); nothing is left of it then.
    """
    came = hashlib.sha256()
    rest = iter(chunks)
    head = next(rest, b"")
    kind = next((kind for magic, kind in _KEPT if head.startswith(magic)), "")
    with images.layers.ingest(media.OCI_LAYER) as layer_ingest, images.content.writer() as writer:
        gzip = None if kind else GzipSink(writer)
        out: Sink = gzip or writer
        for chunk in itertools.chain((head,), rest):
            came.update(chunk)
            layer_ingest.write(chunk)
            out.write(chunk)
        if gzip is not None:
            gzip.finish()
        layer = layer_ingest.commit()
        digest = Digest("sha256:" + came.hexdigest())
        descriptor = images.blob_for(layer.diff_id)
        if descriptor is None or (kind and descriptor.digest != digest):
            descriptor = _remember(images, layer.diff_id, writer, kind or media.DOCKER_LAYER_GZIP)
        return layer, descriptor, digest


def ingest_tar(images: ImageStore, chunks: Iterable[bytes], diff_id: Digest | None = None) -> Layer:
    """Make a layer of an uncompressed or compressed tar, and keep it as a blob too.

    Raises `Invalid` (a damaged tar, or another diff-id than expected); nothing is left of it then.
    """

    def fill(out: Sink) -> None:
        for chunk in decompressed(chunks, _MAX_TAR):
            out.write(chunk)

    return write_layer(images, fill, diff_id)


def write_layer(images: ImageStore, fill: Callable[[Sink], object], diff_id: Digest | None = None) -> Layer:
    """Make a layer of the plain tar that `fill` writes, and keep it as a blob too. Raises as `ingest_tar`."""
    with images.layers.ingest(media.OCI_LAYER, diff_id) as layer_ingest, images.content.writer() as writer:
        gzip = GzipSink(writer)
        fill(_Both(layer_ingest, gzip))
        gzip.finish()
        layer = layer_ingest.commit()
        if images.blob_for(layer.diff_id) is None:
            _remember(images, layer.diff_id, writer)
        return layer


class _Both:
    def __init__(self, first: Sink, second: Sink) -> None:
        self._first = first
        self._second = second

    def write(self, data: bytes) -> int:
        self._first.write(data)
        self._second.write(data)
        return len(data)


class _Counter:
    def __init__(self) -> None:
        self.size = 0

    def write(self, data: bytes, /) -> object:
        self.size += len(data)
        return None


def _remember(
    images: ImageStore, diff_id: Digest, writer: BlobWriter, media_type: str = media.DOCKER_LAYER_GZIP
) -> Descriptor:
    size = writer.size
    descriptor = Descriptor(media_type, writer.commit(), size)
    images.remember_blob(diff_id, descriptor)
    return descriptor
