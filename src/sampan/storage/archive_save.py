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
from sampan.oci.manifest import (
    Descriptor,
    Index,
    Manifest,
    Platform,
    encode_manifest,
    parse_manifest,
)
from sampan.oci.reference import Reference
from sampan.storage import tar_format as tf
from sampan.storage.content import BLOCK
from sampan.storage.image_model import Image
from sampan.storage.images import ImageStore
from sampan.storage.layer_blobs import compressed_blob, tar_size, write_tar
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
class _Saved:
    """One image and the names it is saved under, without repetition."""

    image: Image
    names: list[Reference] = field(default_factory=list)


def save_archive(
    store: ImageStore,
    images: Sequence[tuple[Image, Reference | None]],
    out: Sink,
    *,
    form: Literal["docker", "oci"] = "docker",
) -> None:
    """Write the images, each under the name given with it, to `out` as one tar, in one pass.

    Raises `Internal` when data of an image is missing.
    """
    saved: dict[Digest, _Saved] = {}
    for image, name in images:
        one = saved.setdefault(image.id, _Saved(image))
        if name is not None and name.digest is None and name not in one.names:
            one.names.append(name)
    with store.hold({diff_id for one in saved.values() for diff_id in one.image.diff_ids}):
        writer = _Writer(store, out)
        writer.directory("blobs/")
        writer.directory(_BLOBS)
        write = writer.docker if form == "docker" else writer.oci
        manifests = [write(one) for one in saved.values()]
        writer.documents(list(saved.values()), manifests, docker=form == "docker")
        out.write(_END)


class _Writer:
    def __init__(self, store: ImageStore, out: Sink) -> None:
        self._store = store
        self._out = out
        self._written: set[Digest] = set()

    def docker(self, saved: _Saved) -> Descriptor:
        """Layers as plain tars, named by diff-id; the descriptor of the manifest."""
        image = saved.image
        layers = []
        for diff_id in image.diff_ids:
            size = tar_size(self._store, diff_id)
            self._layer(diff_id, size)
            layers.append(Descriptor(media.OCI_LAYER, diff_id, size))
        return self._manifest(image, layers)

    def oci(self, saved: _Saved) -> Descriptor:
        """Layers as their compressed blobs; the descriptor of the manifest, which is the image's own if it can be."""
        image = saved.image
        blobs = [compressed_blob(self._store, diff_id) for diff_id in image.diff_ids]
        for blob in blobs:
            self._blob(blob)
        known = image.manifest_descriptor
        if known is not None and _lists(image, blobs):
            self._bytes(image.id, image.config_raw)
            self._bytes(known.digest, image.manifest_raw)
            return Descriptor(known.media_type, known.digest, len(image.manifest_raw))
        names = {media.DOCKER_LAYER_GZIP: media.OCI_LAYER_GZIP, media.DOCKER_LAYER: media.OCI_LAYER}
        return self._manifest(
            image,
            [Descriptor(names.get(one.media_type, one.media_type), one.digest, one.size) for one in blobs],
        )

    def documents(self, saved: Sequence[_Saved], manifests: Sequence[Descriptor], *, docker: bool) -> None:
        entries: list[Descriptor] = []
        for one, manifest in zip(saved, manifests, strict=True):
            platform = Platform(one.image.config.architecture, one.image.config.os, one.image.config.variant)
            for name in one.names or (None,):
                notes = {IMAGE_NAME: str(name), REF_NAME: name.tag or "latest"} if name else None
                entries.append(
                    Descriptor(
                        manifest.media_type, manifest.digest, manifest.size, platform, annotations=notes
                    )
                )
        self._file("index.json", encode_manifest(Index(tuple(entries))))
        if docker:
            items = [
                _DockerItem(
                    _BLOBS + hex_of(one.image.id),
                    [name.familiar for name in one.names] or None,
                    [_BLOBS + hex_of(diff_id) for diff_id in one.image.diff_ids],
                )
                for one in saved
            ]
            self._file("manifest.json", msgspec.json.encode(items))
        self._file("oci-layout", LAYOUT)

    def directory(self, name: str) -> None:
        self._out.write(
            pack_header(name.encode(), tf.DIRECTORY, mode=0o755, uid=0, gid=0, mtime=_DOCUMENT_TIME)
        )

    def _manifest(self, image: Image, layers: Sequence[Descriptor]) -> Descriptor:
        config = Descriptor(media.OCI_CONFIG, image.id, len(image.config_raw))
        raw = encode_manifest(Manifest(config, tuple(layers)))
        self._bytes(image.id, image.config_raw)
        digest = digest_of(raw)
        self._bytes(digest, raw)
        return Descriptor(media.OCI_MANIFEST, digest, len(raw))

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


def _lists(image: Image, blobs: Sequence[Descriptor]) -> bool:
    """Whether the image's own manifest lists just these blobs."""
    if image.manifest_descriptor is None or not image.manifest_raw:
        return False
    parsed = parse_manifest(image.manifest_raw, image.manifest_descriptor.media_type)
    return isinstance(parsed, Manifest) and [one.digest for one in parsed.layers] == [
        one.digest for one in blobs
    ]
