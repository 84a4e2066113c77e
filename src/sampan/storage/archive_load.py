"""Reading images from a tar, in one pass: nothing is unpacked.

The documents (manifest.json, index.json, configurations) may stand before or after the layers, and usually stand
after. So every member that can be a layer becomes one at once, and what no image of the archive turns out to
need is removed at the end. Documents are few and small, and are kept in memory within bounds.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec

from sampan.errors import Invalid, SampanError, Unsupported
from sampan.oci.digest import Digest, digest_of, hex_of
from sampan.oci.image import parse_image_config
from sampan.oci.manifest import Descriptor, Index, Manifest, Platform, parse_manifest
from sampan.oci.reference import Reference, parse_reference
from sampan.storage import tar_format as tf
from sampan.storage.archive_save import IMAGE_NAME, REF_NAME
from sampan.storage.content import BLOCK
from sampan.storage.decompress import decompressed
from sampan.storage.image_model import Image
from sampan.storage.images import ImageStore
from sampan.storage.layer_blobs import ingest_layer
from sampan.storage.tar_reader import TarReader

MAX_DOCUMENT = 8 << 20
MAX_DOCUMENTS = 64 << 20
"""Bytes of one document, and of all."""
MAX_MEMBERS = 20_000
MAX_LAYERS = 127
_MAX_ARCHIVE = 1 << 42
_LAYER_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst")
_BLOBS = "blobs/sha256/"
_LINKS = frozenset({tf.SYMLINK, tf.HARD_LINK})


class Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Layer:
    """What a member became. `blob` is its compressed form in the content store; `digest` the member's own bytes'."""

    diff_id: Digest
    blob: Descriptor
    digest: Digest


@dataclass(slots=True)
class _Archive:
    """What stood in the archive, by member name."""

    documents: dict[str, bytes] = field(default_factory=dict)
    layers: dict[str, _Layer] = field(default_factory=dict)
    failed: dict[str, SampanError] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def layer(self, name: str) -> _Layer:
        """Raises `Invalid` when there is none."""
        target = self._followed(name)
        if target in self.failed:
            raise self.failed[target]
        if target not in self.layers:
            raise Invalid(f"the archive has no layer {name!r}")
        return self.layers[target]

    def document(self, name: str) -> bytes:
        target = self._followed(name)
        if target not in self.documents:
            raise Invalid(f"the archive has no {name!r}")
        return self.documents[target]

    def blob(self, digest: Digest) -> bytes:
        raw = self.document(_BLOBS + hex_of(digest))
        if digest_of(raw) != digest:
            raise Invalid(f"the archive's blob {digest} has other bytes than its name says")
        return raw

    def _followed(self, name: str) -> str:
        name = posixpath.normpath(name)
        for _ in range(8):
            if name not in self.links:
                return name
            name = self.links[name]
        raise Invalid(f"the archive's {name!r} is a link that leads nowhere")


class _DockerItem(msgspec.Struct, rename="pascal"):
    config: str
    repo_tags: list[str] | None = None
    layers: list[str] = []


@dataclass(frozen=True, slots=True)
class _Found:
    """An image of the archive that is complete."""

    config_raw: bytes
    names: tuple[Reference, ...]
    blobs: tuple[Descriptor, ...] = ()
    manifest: tuple[Descriptor, bytes] | None = None


def load_archive(
    store: ImageStore,
    file: Source,
    *,
    platform: Platform | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Image, tuple[Reference, ...]]]:
    """The images of the archive (which may be compressed itself), once all of them are in the store.

    `platform`: which one to take where an OCI layout offers several; None takes the only one or all that
    are complete. Raises `Invalid` for what is no such archive; nothing of it is left then.
    """
    archive = _Archive()
    try:
        with store.no_collection():
            _read(store, file, archive, cancelled)
            loaded = [_register(store, found) for found in _images(archive, platform)]
    finally:
        # What no image needs: after a failure, all of it.
        store.collect({layer.diff_id for layer in archive.layers.values()})
    yield from loaded


def _register(store: ImageStore, found: _Found) -> tuple[Image, tuple[Reference, ...]]:
    descriptor, raw = found.manifest or (None, b"")
    image = store.register(
        found.config_raw,
        blobs=found.blobs,
        names=found.names,
        manifest_raw=raw,
        manifest_descriptor=descriptor,
    )
    return image, found.names


def _read(store: ImageStore, file: Source, archive: _Archive, cancelled: Callable[[], bool]) -> None:
    def chunks() -> Iterator[bytes]:
        while chunk := file.read(BLOCK):
            if cancelled():
                raise Invalid("loading was cancelled")
            yield chunk

    reader = TarReader(decompressed(chunks(), _MAX_ARCHIVE), tf.TarLimits(members=MAX_MEMBERS))
    total = 0
    for member in reader:
        name = posixpath.normpath(member.name.decode("utf-8", "surrogateescape"))
        if member.type in _LINKS:
            target = member.link.decode("utf-8", "surrogateescape")
            base = posixpath.dirname(name) if member.type == tf.SYMLINK else ""
            archive.links[name] = posixpath.normpath(posixpath.join(base, target))
            continue
        if member.type != tf.REGULAR or not member.stored:
            continue
        first = bytes(reader.take())
        if first[:1] in (b"{", b"["):
            total += member.stored
            if member.stored > MAX_DOCUMENT or total > MAX_DOCUMENTS:
                raise Invalid(f"the archive's {name!r} is too large: {member.stored} bytes")
            archive.documents[name] = first + reader.read()
        elif name.startswith(_BLOBS) or name.endswith(_LAYER_SUFFIXES):
            _take_layer(store, archive, name, _member_chunks(reader, first))


def _take_layer(store: ImageStore, archive: _Archive, name: str, chunks: Iterator[bytes]) -> None:
    try:
        layer, blob, digest = ingest_layer(store, chunks)
    except Invalid as error:
        for _ in chunks:  # the archive goes on behind it; whether it matters is seen when an image needs it
            pass
        archive.failed[name] = Invalid(f"{name}: {error.message}", hint=error.hint)
        return
    archive.layers[name] = _Layer(layer.diff_id, blob, digest)


def _member_chunks(reader: TarReader, first: bytes) -> Iterator[bytes]:
    yield first
    while chunk := reader.take():
        yield bytes(chunk)


def _images(archive: _Archive, platform: Platform | None) -> list[_Found]:
    if "manifest.json" in archive.documents:
        return [_docker_image(archive, item) for item in _docker_items(archive)]
    if "index.json" in archive.documents:
        return _oci_images(archive, platform)
    if "repositories" in archive.documents:
        raise Unsupported(
            "the archive is of the first format of `docker save` (before Docker 1.10)",
            hint="load it with an older Docker and save it again",
        )
    raise Invalid("the archive has neither manifest.json nor index.json: it is no archive of images")


def _docker_items(archive: _Archive) -> list[_DockerItem]:
    try:
        return msgspec.json.decode(archive.documents["manifest.json"], type=list[_DockerItem])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the archive's manifest.json is malformed: {error}") from error


def _docker_image(archive: _Archive, item: _DockerItem) -> _Found:
    _check_depth(item.config, len(item.layers))
    raw = archive.document(item.config)
    config = parse_image_config(raw)
    layers = [archive.layer(name) for name in item.layers]
    wanted = config.rootfs.diff_ids
    if tuple(layer.diff_id for layer in layers) != wanted:
        raise Invalid(
            f"invalid manifest, layers length mismatch: expected {len(wanted)}, got {len(layers)}"
            if len(layers) != len(wanted)
            else f"the layers of {item.config} are not those that its configuration names"
        )
    names = tuple(parse_reference(name).with_default_tag() for name in item.repo_tags or ())
    return _Found(raw, names, tuple(layer.blob for layer in layers))


def _check_depth(name: str, layers: int) -> None:
    """One small layer may be named any number of times."""
    if layers > MAX_LAYERS:
        raise Invalid(f"the image {name} has {layers} layers, more than {MAX_LAYERS}")


def _oci_images(archive: _Archive, platform: Platform | None) -> list[_Found]:
    index = parse_manifest(archive.documents["index.json"])
    if not isinstance(index, Index):
        raise Invalid("the archive's index.json is no image index")
    found: dict[Digest, _Found] = {}
    for descriptor, names in _flat(archive, index, platform):
        image = _oci_image(archive, descriptor, names)
        key = descriptor.digest
        if key in found:
            image = replace(image, names=tuple(dict.fromkeys((*found[key].names, *names))))
        found[key] = image
    if not found:
        raise Invalid("the archive has no image" + (f" for {platform}" if platform else ""))
    return list(found.values())


def _flat(
    archive: _Archive, index: Index, platform: Platform | None
) -> Iterable[tuple[Descriptor, tuple[Reference, ...]]]:
    """Manifests of images, with their names; one level of indexes inside the index."""
    for entry in index.manifests:
        names = _annotated_names(entry)
        raw = archive.blob(entry.digest)
        parsed = parse_manifest(raw, entry.media_type)
        inner = parsed.manifests if isinstance(parsed, Index) else (entry,)
        for descriptor in inner:
            present = _BLOBS + hex_of(descriptor.digest) in archive.documents
            if present and _is_wanted(descriptor, platform):
                yield descriptor, names


def _is_wanted(descriptor: Descriptor, platform: Platform | None) -> bool:
    own = descriptor.platform
    if own is None:
        return True
    if "unknown" in (own.os, own.architecture):
        return False  # an attestation
    return platform is None or (own.os, own.architecture) == (platform.os, platform.architecture)


def _oci_image(archive: _Archive, descriptor: Descriptor, names: tuple[Reference, ...]) -> _Found:
    raw = archive.blob(descriptor.digest)
    manifest = parse_manifest(raw, descriptor.media_type)
    if not isinstance(manifest, Manifest):
        raise Invalid("the archive's index goes deeper than one index inside another")
    _check_depth(descriptor.digest, len(manifest.layers))
    config_raw = archive.blob(manifest.config.digest)
    config = parse_image_config(config_raw)
    layers = [archive.layer(_BLOBS + hex_of(one.digest)) for one in manifest.layers]
    for layer, wanted in zip(layers, manifest.layers, strict=True):
        if layer.digest != wanted.digest:
            raise Invalid(f"the archive's blob {wanted.digest} has other bytes than its name says")
    if tuple(layer.diff_id for layer in layers) != config.rootfs.diff_ids:
        raise Invalid(f"the layers of {descriptor.digest} are not those that its configuration names")
    kept = [layer.blob.digest for layer in layers] == [one.digest for one in manifest.layers]
    media_type = manifest.media_type or descriptor.media_type
    return _Found(
        config_raw,
        names,
        tuple(layer.blob for layer in layers),
        (Descriptor(media_type, descriptor.digest, len(raw)), raw) if kept else None,
    )


def _annotated_names(entry: Descriptor) -> tuple[Reference, ...]:
    """containerd's and BuildKit's full name, or a ref.name that is more than a tag (skopeo and podman)."""
    notes = entry.annotations or {}
    name = notes.get(IMAGE_NAME) or notes.get(REF_NAME, "")
    if not name or (IMAGE_NAME not in notes and not any(sign in name for sign in ":/")):
        return ()
    try:
        reference = parse_reference(name)
    except Invalid:
        return ()
    return () if reference.digest is not None else (reference.with_default_tag(),)
