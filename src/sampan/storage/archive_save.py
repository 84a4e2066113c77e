"""Writing images as a tar.

"docker" is what `docker save` writes: manifest.json and, in the same archive, an OCI image layout whose blobs
manifest.json points to, layers uncompressed. "oci" is an OCI image layout alone with the layers' compressed
blobs, and with the manifest as it came where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from sampan.errors import Internal
from sampan.oci import media
from sampan.oci.digest import Digest, digest_of, hex_of
from sampan.oci.manifest import Descriptor, Index, Manifest, encode_manifest
from sampan.oci.reference import Reference
from sampan.storage import tar_format as tf
from sampan.storage.content import BLOCK
from sampan.storage.image_model import Image
from sampan.storage.images import ImageStore
from sampan.storage.layer_blobs import tar_size, write_tar
from sampan.storage.layer_forms import LayerBlobs, LayerForm
from sampan.storage.packing import Packed, own_manifest, pack_image, platform_of_image, stored_index
from sampan.storage.tar_header import pack_header

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"
_BLOBS = "blobs/sha256/"
_END = bytes(2 * tf.BLOCK)
_DOCUMENT_TIME = 0  # as Docker does: the same image gives the same archive


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class _DockerItem(msgspec.Struct, rename="pascal"):
    """An entry of manifest.json."""

    config: str
    repo_tags: list[str] | None
    layers: list[str]


@dataclass(slots=True)
class _Entry:
    """A descriptor of index.json, the names it has there, and what manifest.json says of its image."""

    descriptor: Descriptor
    names: list[Reference] = field(default_factory=list)
    item: tuple[Digest, tuple[Digest, ...]] | None = None
    """Digests of the configuration and of the layers' blobs."""

    def add(self, name: Reference | None) -> None:
        if name is not None and name.digest is None and name not in self.names:
            self.names.append(name)


def save_archive(
    store: ImageStore,
    images: Sequence[tuple[Image, Reference | None]],
    out: Sink,
    *,
    form: Literal["docker", "oci"] = "docker",
    whole: bool = True,
) -> None:
    """Write the images, each under the name given with it, to `out` as one tar, in one pass.

    `whole`: a name that points to an index is written with all of its platforms, as compressed blobs.
    Raises `Internal` when data of an image is missing.
    """
    with store.hold({diff_id for image, _ in images for diff_id in image.diff_ids}):
        writer = _Writer(store, out)
        entries: dict[Digest, _Entry] = {}
        for image, name in images:
            index = store.index_of(str(name)) if name is not None and whole else None
            if index is not None and not (index[1].complete and image.id in index[1].images()):
                index = None
            key = index[0] if index is not None else image.id
            if key not in entries:
                if index is not None:
                    entries[key] = writer.packed(stored_index(store, index[1]), image.id)
                else:
                    entries[key] = writer.docker(image) if form == "docker" else writer.oci(image)
            entries[key].add(name)
        writer.documents(list(entries.values()), docker=form == "docker")


def save_packed(
    store: ImageStore, packed: Packed, names: Sequence[Reference], out: Sink, *, docker: bool = False
) -> None:
    """Write what was packed as an OCI layout; `docker`: with manifest.json, for its first image, beside it."""
    writer = _Writer(store, out)
    entry = writer.packed(packed, packed.images[0].config.digest)
    for name in names:
        entry.add(name)
    writer.documents([entry], docker=docker)


class _Writer:
    def __init__(self, store: ImageStore, out: Sink) -> None:
        self._store = store
        self._out = out
        self._written: set[Digest] = set()
        self.directory("blobs/")
        self.directory(_BLOBS)

    def docker(self, image: Image) -> _Entry:
        """Layers as plain tars, named by diff-id."""
        layers = []
        for diff_id in image.diff_ids:
            size = tar_size(self._store, diff_id)
            self._layer(diff_id, size)
            layers.append(Descriptor(media.OCI_LAYER, diff_id, size))
        config = Descriptor(media.OCI_CONFIG, image.id, len(image.config_raw))
        raw = encode_manifest(Manifest(config, tuple(layers)))
        self._bytes(image.id, image.config_raw)
        digest = digest_of(raw)
        self._bytes(digest, raw)
        descriptor = Descriptor(media.OCI_MANIFEST, digest, len(raw), platform_of_image(image))
        return _Entry(descriptor, item=(image.id, image.diff_ids))

    def oci(self, image: Image) -> _Entry:
        """Layers as their compressed blobs; the manifest is the image's own if it can be."""
        blobs = LayerBlobs(self._store, LayerForm())
        own = own_manifest(image, [blobs.get(diff_id) for diff_id in image.diff_ids]) is not None
        return self.packed(
            Packed((pack_image(self._store, image, blobs, oci=None if own else True),)), image.id
        )

    def packed(self, packed: Packed, preferred: Digest) -> _Entry:
        """Everything of it; `preferred`: the image that manifest.json is to tell of."""
        for manifest in packed.manifests:
            for blob in manifest.layers:
                self._blob(blob)
            self._bytes(manifest.config.digest, manifest.config_raw)
            self._bytes(manifest.descriptor.digest, manifest.raw)
        if packed.index:
            self._bytes(packed.descriptor.digest, packed.index)
        told = next(one for one in packed.images if one.config.digest == preferred)
        return _Entry(packed.descriptor, item=(preferred, tuple(layer.digest for layer in told.layers)))

    def documents(self, entries: Sequence[_Entry], *, docker: bool) -> None:
        """index.json, manifest.json and oci-layout, and the archive's end."""
        listed: list[Descriptor] = []
        for entry in entries:
            own = entry.descriptor
            for name in entry.names or (None,):
                notes = {IMAGE_NAME: str(name), REF_NAME: name.tag or "latest"} if name else {}
                notes = {**(own.annotations or {}), **notes}
                listed.append(msgspec.structs.replace(own, annotations=notes or None))
        self._file("index.json", encode_manifest(Index(tuple(listed))))
        if docker:
            items = [
                _DockerItem(
                    _BLOBS + hex_of(entry.item[0]),
                    [name.familiar for name in entry.names] or None,
                    [_BLOBS + hex_of(layer) for layer in entry.item[1]],
                )
                for entry in entries
                if entry.item is not None
            ]
            self._file("manifest.json", msgspec.json.encode(items))
        self._file("oci-layout", LAYOUT)
        self._out.write(_END)

    def directory(self, name: str) -> None:
        self._out.write(
            pack_header(name.encode(), tf.DIRECTORY, mode=0o755, uid=0, gid=0, mtime=_DOCUMENT_TIME)
        )

    def _layer(self, diff_id: Digest, size: int) -> None:
        if self._once(diff_id):
            self._member(_BLOBS + hex_of(diff_id), size, lambda out: write_tar(self._store, diff_id, out))

    def _blob(self, blob: Descriptor) -> None:
        def copy(out: Sink) -> None:
            with self._store.content.open(blob.digest) as file:
                while block := file.read(BLOCK):
                    out.write(block)

        if self._once(blob.digest):
            self._member(_BLOBS + hex_of(blob.digest), blob.size, copy)

    def _bytes(self, digest: Digest, data: bytes) -> None:
        if self._once(digest):
            self._file(_BLOBS + hex_of(digest), data)

    def _file(self, name: str, data: bytes) -> None:
        self._member(name, len(data), lambda out: out.write(data))

    def _once(self, digest: Digest) -> bool:
        first = digest not in self._written
        self._written.add(digest)
        return first

    def _member(self, name: str, size: int, write: Callable[[Sink], object]) -> None:
        self._out.write(
            pack_header(name.encode(), tf.REGULAR, mode=0o644, uid=0, gid=0, mtime=_DOCUMENT_TIME, size=size)
        )
        counting = _Counting(self._out)
        write(counting)
        if counting.size != size:
            raise Internal(f"{name} has {counting.size} bytes, not {size} as was counted before")
        self._out.write(bytes(-size % tf.BLOCK))


class _Counting:
    def __init__(self, out: Sink) -> None:
        self._out = out
        self.size = 0

    def write(self, data: bytes, /) -> object:
        self.size += len(data)
        return self._out.write(data)
