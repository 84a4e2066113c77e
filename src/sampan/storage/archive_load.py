"""Reading images from a tar, in one pass: nothing is unpacked.

The documents (manifest.json, index.json, configurations) may stand before or after the layers, and usually stand
after. So every member that can be a layer becomes one at once, and what no image of the archive turns out to
need is removed at the end. Documents are few and small, and are kept in memory within bounds.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec

from sampan.errors import Invalid, SampanError, Unsupported
from sampan.oci import media
from sampan.oci.attestation import attested, is_image
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
from sampan.storage.index_model import IndexAttestation, IndexMember, IndexRecord, best_member
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
class _FoundAttestation:
    record: IndexAttestation
    statements: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _FoundIndex:
    """An index with those of its images that the archive has."""

    raw: bytes
    media_type: str
    names: tuple[Reference, ...]
    images: tuple[tuple[Descriptor, _Found], ...]
    attestations: tuple[_FoundAttestation, ...] = ()


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
    preferred: Platform | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Image, tuple[Reference, ...]]]:
    """The images of the archive (which may be compressed itself), once all of them are in the store.

    `platform`: which one to take where an index offers several; None takes all that are complete, under the
    index's names, which by themselves mean the `preferred` platform's.

    Raises `Invalid` for what is no such archive; nothing of it is left then.
    """
    archive = _Archive()
    try:
        with store.no_collection():
            _read(store, file, archive, cancelled)
            loaded = [
                _register_index(store, found, preferred)
                if isinstance(found, _FoundIndex)
                else _register(store, found)
                for found in _images(archive, platform)
            ]
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


def _register_index(
    store: ImageStore, found: _FoundIndex, preferred: Platform | None
) -> tuple[Image, tuple[Reference, ...]]:
    images = {}
    members = []
    for descriptor, one in found.images:
        image, _ = _register(store, one)
        images[image.id] = image
        if one.manifest is not None:
            raw = one.manifest[1].decode("utf-8")
            members.append(IndexMember(image.id, descriptor, raw, one.blobs))
    if not members:  # the layers are not compressed as the manifests say: images, but no index of them
        chosen = next(iter(images.values()))
        for name in found.names:
            store.tag(chosen.id, name)
        return chosen, found.names
    attestations = tuple(_keep_attestation(store, one) for one in found.attestations if found.names)
    record = IndexRecord(found.raw.decode("utf-8"), found.media_type, tuple(members), attestations)
    best = best_member(record, preferred) if preferred is not None else record.members[0]
    if found.names:
        store.put_index(record, best.image, found.names)
    return images[best.image], found.names


def _keep_attestation(store: ImageStore, found: _FoundAttestation) -> IndexAttestation:
    for statement in found.statements:
        store.content.put(statement)
    return found.record


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


def _images(archive: _Archive, platform: Platform | None) -> Sequence[_Found | _FoundIndex]:
    if "index.json" in archive.documents and _has_indexes(archive):
        return _oci_images(archive, platform)
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


def _top(archive: _Archive) -> Index:
    index = parse_manifest(archive.documents["index.json"])
    if not isinstance(index, Index):
        raise Invalid("the archive's index.json is no image index")
    return index


def _has_indexes(archive: _Archive) -> bool:
    return any(entry.media_type in media.INDEXES for entry in _top(archive).manifests)


def _oci_images(archive: _Archive, platform: Platform | None) -> Sequence[_Found | _FoundIndex]:
    found: dict[Digest, _Found | _FoundIndex] = {}
    for entry in _top(archive).manifests:
        for key, image in _entry(archive, entry, platform):
            if key in found:
                image = replace(image, names=tuple(dict.fromkeys((*found[key].names, *image.names))))
            found[key] = image
    if not found:
        raise Invalid("the archive has no image" + (f" for {platform}" if platform else ""))
    return list(found.values())


def _entry(
    archive: _Archive, entry: Descriptor, platform: Platform | None
) -> Iterable[tuple[Digest, _Found | _FoundIndex]]:
    """The image of index.json's entry, or the images that it has for several platforms; their digest."""
    names = _annotated_names(entry)
    raw = archive.blob(entry.digest)
    parsed = parse_manifest(raw, entry.media_type)
    if isinstance(parsed, Manifest):
        if _is_wanted(entry, platform):
            yield entry.digest, _oci_image(archive, entry, names)
        return
    present = [one for one in parsed.manifests if _BLOBS + hex_of(one.digest) in archive.documents]
    wanted = [one for one in present if _is_wanted(one, platform)]
    attestations = [one for one in present if attested(one) in {each.digest for each in wanted}]
    if not wanted:
        return
    if len(wanted) == 1 and not (attestations and platform is None):
        yield wanted[0].digest, _oci_image(archive, wanted[0], names)
        return
    yield (
        entry.digest,
        _FoundIndex(
            raw,
            parsed.media_type or entry.media_type,
            names,
            tuple((one, _oci_image(archive, one, ())) for one in wanted),
            tuple(_attestation(archive, one) for one in attestations),
        ),
    )


def _attestation(archive: _Archive, descriptor: Descriptor) -> _FoundAttestation:
    raw = archive.blob(descriptor.digest)
    manifest = parse_manifest(raw, descriptor.media_type)
    if not isinstance(manifest, Manifest):
        raise Invalid(f"the archive's attestation {descriptor.digest} is an index")
    _check_depth(descriptor.digest, len(manifest.layers))
    record = IndexAttestation(
        descriptor,
        raw.decode("utf-8"),
        manifest.config,
        _text(archive.blob(manifest.config.digest)),
        manifest.layers,
    )
    return _FoundAttestation(record, tuple(archive.blob(layer.digest) for layer in manifest.layers))


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid(f"a document of the archive is no text: {error}") from error


def _is_wanted(descriptor: Descriptor, platform: Platform | None) -> bool:
    own = descriptor.platform
    if not is_image(descriptor):
        return False  # an attestation
    return (
        platform is None or own is None or (own.os, own.architecture) == (platform.os, platform.architecture)
    )


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
