"""Layers in another form than the store keeps them in: gzip of a wanted level, zstd, or no compression at all.

What the store remembers of a layer is one compressed blob in its own form; blobs made here leave with a push or
an archive and are removed afterwards.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import zstandard

from sampan.errors import Invalid
from sampan.oci import media
from sampan.oci.digest import Digest
from sampan.oci.manifest import Descriptor
from sampan.storage.images import ImageStore
from sampan.storage.layer_blobs import GzipSink, Sink, compressed_blob, write_tar

Compression = Literal["gzip", "zstd", "uncompressed"]

_LEVELS = {"gzip": (0, 9), "zstd": (0, 22), "uncompressed": (0, 0)}
_ZSTD_LEVEL = 3
_GZIP = 31  # zlib's window bits for a gzip stream, without time and name
_TYPES = {"gzip": media.OCI_LAYER_GZIP, "zstd": media.OCI_LAYER_ZSTD, "uncompressed": media.OCI_LAYER}
_FORM_OF = {
    media.OCI_LAYER_GZIP: "gzip",
    media.DOCKER_LAYER_GZIP: "gzip",
    media.OCI_LAYER_ZSTD: "zstd",
    media.OCI_LAYER: "uncompressed",
    media.DOCKER_LAYER: "uncompressed",
}


@dataclass(frozen=True, slots=True)
class LayerForm:
    """`force`: also layers that came in another compression are brought into this one."""

    compression: Compression = "gzip"
    level: int | None = None
    force: bool = False

    def __post_init__(self) -> None:
        low, high = _LEVELS[self.compression]
        if self.level is not None and not low <= self.level <= high:
            raise Invalid(
                f"invalid compression-level {self.level}: {self.compression} has levels {low} to {high}"
            )

    @property
    def is_own(self) -> bool:
        """Whether it is the form that the store keeps blobs in."""
        return self == LayerForm()


class LayerBlobs:
    """Finds and makes layers' blobs in one form. Those made for it alone go at the end of `layer_blobs`."""

    def __init__(self, images: ImageStore, form: LayerForm) -> None:
        self._images = images
        self._form = form
        self._made: dict[Digest, Descriptor] = {}
        self._passing: list[Digest] = []
        self._held = ExitStack()

    def get(self, diff_id: Digest) -> Descriptor:
        """The layer's blob, which is in the content store. Raises `NotFound` for an unknown layer."""
        if self._form.is_own:
            return compressed_blob(self._images, diff_id)
        known = self._images.blob_for(diff_id)
        same = known is not None and _FORM_OF.get(known.media_type) == self._form.compression
        # A layer that came from elsewhere stays as it came, unless that is forced.
        if known is not None and (
            same or (not self._form.force and not self._images.layers.reproducible(diff_id))
        ):
            return known
        if diff_id not in self._made:
            self._made[diff_id] = self.compressed(lambda sink: write_tar(self._images, diff_id, sink))
        return self._made[diff_id]

    def serves(self, blob: Descriptor) -> bool:
        """Whether a blob that comes from elsewhere can stay as it is."""
        return not self._form.force or _FORM_OF.get(blob.media_type) == self._form.compression

    def compressed(self, write: Callable[[Sink], object]) -> Descriptor:
        """What `write` writes, as a blob of this form, for the time being."""
        with self._images.content.writer() as writer:
            sink: GzipSink | _Compressing = (
                GzipSink(writer) if self._form.is_own else _Compressing(writer, _compressor(self._form))
            )
            write(sink)
            sink.finish()
            size = writer.size
            digest = writer.commit()
        return self.keep(Descriptor(_TYPES[self._form.compression], digest, size))

    def keep(self, blob: Descriptor) -> Descriptor:
        """A blob of the content store that is needed for the time being."""
        self._held.enter_context(self._images.hold((blob.digest,)))
        self._passing.append(blob.digest)
        return blob

    def close(self) -> None:
        self._held.close()
        self._images.drop_blobs(self._passing)


@contextmanager
def layer_blobs(images: ImageStore, form: LayerForm) -> Iterator[LayerBlobs]:
    blobs = LayerBlobs(images, form)
    with images.no_collection():
        try:
            yield blobs
        finally:
            blobs.close()


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def _compressor(form: LayerForm) -> _Compressor:
    if form.compression == "gzip":
        level = zlib.Z_DEFAULT_COMPRESSION if form.level is None else form.level
        return zlib.compressobj(level, zlib.DEFLATED, _GZIP)
    if form.compression == "zstd":
        return zstandard.ZstdCompressor(level=form.level or _ZSTD_LEVEL, write_checksum=True).compressobj()
    return _Plain()


class _Compressing:
    def __init__(self, out: Sink, compressor: _Compressor) -> None:
        self._out = out
        self._compressor = compressor

    def write(self, data: bytes, /) -> int:
        self._out.write(self._compressor.compress(data))
        return len(data)

    def finish(self) -> None:
        self._out.write(self._compressor.flush())
