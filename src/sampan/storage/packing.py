"""Images made ready to leave: their manifests and blobs in the wanted form, and the index around several of them.

A manifest that came with an image leaves unchanged where that is what is wanted, so that its digest stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from sampan.errors import Invalid
from sampan.oci import media
from sampan.oci.attestation import (
    UNKNOWN,
    Attestation,
    attestation_config,
    reference_annotations,
    statement_layer,
)
from sampan.oci.digest import Digest, digest_of
from sampan.oci.manifest import Descriptor, Index, Manifest, Platform, encode_manifest, parse_manifest
from sampan.storage.image_model import Image
from sampan.storage.images import ImageStore
from sampan.storage.index_model import IndexAttestation, IndexMember, IndexRecord
from sampan.storage.layer_forms import LayerBlobs

_TO_DOCKER = {media.OCI_LAYER_GZIP: media.DOCKER_LAYER_GZIP, media.OCI_LAYER: media.DOCKER_LAYER}
_TO_OCI = {media.DOCKER_LAYER_GZIP: media.OCI_LAYER_GZIP, media.DOCKER_LAYER: media.OCI_LAYER}

Notes = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PackedManifest:
    """A manifest that is ready. `layers` are in the content store; `diff_ids` theirs, () for an attestation's."""

    descriptor: Descriptor
    """As an index has it: with platform and annotations."""
    raw: bytes
    config: Descriptor
    config_raw: bytes
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Packed:
    """What leaves under one name: a single image, or an index (its document is `index`) with attestations."""

    images: tuple[PackedManifest, ...]
    attestations: tuple[PackedManifest, ...] = ()
    index: bytes = b""
    index_descriptor: Descriptor | None = None

    @property
    def descriptor(self) -> Descriptor:
        """Of what a name points to."""
        return self.index_descriptor or self.images[0].descriptor

    @property
    def raw(self) -> bytes:
        return self.index or self.images[0].raw

    @property
    def manifests(self) -> tuple[PackedManifest, ...]:
        return (*self.images, *self.attestations)


@dataclass(frozen=True, slots=True)
class Annotations:
    """Of one image: for its manifest, and for the descriptor that names the manifest."""

    manifest: Notes = field(default_factory=dict)
    descriptor: Notes = field(default_factory=dict)


def platform_of_image(image: Image) -> Platform:
    config = image.config
    return Platform(config.architecture, config.os, config.variant, config.os_version, config.os_features)


def pack_image(
    images: ImageStore,
    image: Image,
    blobs: LayerBlobs,
    *,
    oci: bool | None = None,
    notes: Annotations | None = None,
) -> PackedManifest:
    """`oci`: media types of OCI or of Docker's schema 2; None: those it came with, else Docker's.

    Raises `Invalid` for zstd in Docker's media types, `NotFound` when a layer is missing.
    """
    notes = notes or Annotations()
    layers = tuple(blobs.get(diff_id) for diff_id in image.diff_ids)
    own = own_manifest(image, layers)
    if own is not None and not notes.manifest and oci in (None, own[1] == media.OCI_MANIFEST):
        raw, kind = own
    else:
        raw, kind = _new_manifest(image, layers, oci, notes.manifest)
    manifest = parse_manifest(raw, kind)
    if not isinstance(manifest, Manifest):
        raise Invalid("an image's manifest is an index")
    descriptor = Descriptor(
        kind, digest_of(raw), len(raw), platform_of_image(image), dict(notes.descriptor) or None
    )
    config = Descriptor(manifest.config.media_type, image.id, len(image.config_raw))
    return PackedManifest(descriptor, raw, config, image.config_raw, layers, image.diff_ids)


def own_manifest(image: Image, layers: Sequence[Descriptor]) -> tuple[bytes, str] | None:
    """The manifest the image came with and its media type, if it lists just these blobs."""
    known = image.manifest_descriptor
    if known is None or not image.manifest_raw:
        return None
    parsed = parse_manifest(image.manifest_raw, known.media_type)
    wanted = [one.digest for one in layers]
    if not isinstance(parsed, Manifest) or [one.digest for one in parsed.layers] != wanted:
        return None
    return image.manifest_raw, known.media_type


def _new_manifest(
    image: Image, layers: Sequence[Descriptor], oci: bool | None, annotations: Notes
) -> tuple[bytes, str]:
    zstd = any(one.media_type == media.OCI_LAYER_ZSTD for one in layers)
    if zstd and oci is False:
        raise Invalid("zstd compression needs OCI's media types", hint="use oci-mediatypes=true")
    # Docker's schema 2 has no annotations.
    if oci or zstd or annotations:
        kind, config_type, names = media.OCI_MANIFEST, media.OCI_CONFIG, _TO_OCI
    else:
        kind, config_type, names = media.DOCKER_MANIFEST, media.DOCKER_CONFIG, _TO_DOCKER
    manifest = Manifest(
        config=Descriptor(config_type, image.id, len(image.config_raw)),
        layers=tuple(
            Descriptor(names.get(one.media_type, one.media_type), one.digest, one.size) for one in layers
        ),
        media_type=kind,
        annotations=dict(annotations) or msgspec.UNSET,
    )
    return encode_manifest(manifest), kind


def pack_attestations(
    images: ImageStore, manifest: Descriptor, attestations: Sequence[Attestation]
) -> PackedManifest:
    """The attestation manifest of the image with that manifest; its statements are put into the content store."""
    layers = [
        statement_layer(one.predicate_type, images.content.put(one.statement), len(one.statement))
        for one in attestations
    ]
    config_raw = attestation_config([layer.digest for layer in layers])
    config = Descriptor(media.OCI_CONFIG, digest_of(config_raw), len(config_raw))
    raw = encode_manifest(Manifest(config, tuple(layers)))
    descriptor = Descriptor(
        media.OCI_MANIFEST, digest_of(raw), len(raw), UNKNOWN, reference_annotations(manifest.digest)
    )
    return PackedManifest(descriptor, raw, config, config_raw, tuple(layers))


def pack_index(
    members: Sequence[PackedManifest],
    attestations: Sequence[PackedManifest] = (),
    *,
    oci: bool = True,
    annotations: Notes | None = None,
    descriptor_annotations: Notes | None = None,
) -> Packed:
    kind = media.OCI_INDEX if oci else media.DOCKER_LIST
    index = Index(
        tuple(one.descriptor for one in (*members, *attestations)),
        media_type=kind,
        annotations=dict(annotations) if annotations else msgspec.UNSET,
    )
    raw = encode_manifest(index)
    notes = dict(descriptor_annotations) if descriptor_annotations else None
    descriptor = Descriptor(kind, digest_of(raw), len(raw), annotations=notes)
    return Packed(tuple(members), tuple(attestations), raw, descriptor)


def index_record(packed: Packed) -> IndexRecord:
    """What the image store keeps of it."""
    return IndexRecord(
        packed.index.decode("utf-8"),
        packed.descriptor.media_type,
        tuple(
            IndexMember(one.config.digest, one.descriptor, one.raw.decode("utf-8"), one.layers)
            for one in packed.images
        ),
        tuple(
            IndexAttestation(
                one.descriptor,
                one.raw.decode("utf-8"),
                one.config,
                one.config_raw.decode("utf-8"),
                one.layers,
            )
            for one in packed.attestations
        ),
    )


def stored_index(images: ImageStore, record: IndexRecord) -> Packed:
    """The index as it was stored, ready to leave. Raises `NotFound` when an image of it is not here."""
    members = []
    for member in record.members:
        image = images.get(member.image)
        parsed = parse_manifest(member.manifest.encode(), member.descriptor.media_type)
        if not isinstance(parsed, Manifest):
            raise Invalid("an image's manifest is an index")
        config = Descriptor(parsed.config.media_type, parsed.config.digest, parsed.config.size)
        members.append(
            PackedManifest(
                member.descriptor,
                member.manifest.encode(),
                config,
                image.config_raw,
                member.layers,
                image.diff_ids,
            )
        )
    attestations = tuple(
        PackedManifest(one.descriptor, one.manifest.encode(), one.config, one.config_raw.encode(), one.layers)
        for one in record.attestations
    )
    raw = record.raw.encode()
    return Packed(tuple(members), attestations, raw, Descriptor(record.media_type, digest_of(raw), len(raw)))
