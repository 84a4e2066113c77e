"""Indexes as they are stored: one name for images of several platforms, with attestations beside them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from sampan.oci.digest import Digest, digest_of
from sampan.oci.manifest import Descriptor, Index, Platform, parse_manifest


class IndexMember(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image of the index; `manifest` is the document that `descriptor`, its entry in the index, names."""

    image: Digest
    descriptor: Descriptor
    manifest: str
    layers: tuple[Descriptor, ...] = ()


class IndexAttestation(msgspec.Struct, frozen=True):
    """An attestation manifest; its layers, the statements, are in the content store."""

    descriptor: Descriptor
    manifest: str
    config: Descriptor
    config_raw: str
    layers: tuple[Descriptor, ...]


class IndexRecord(msgspec.Struct, frozen=True):
    """The stored form; its key is the digest of `raw`."""

    raw: str
    media_type: str
    members: tuple[IndexMember, ...]
    attestations: tuple[IndexAttestation, ...] = ()

    @property
    def digest(self) -> Digest:
        return digest_of(self.raw.encode())

    def blobs(self) -> frozenset[Digest]:
        """What the content store has to keep for it."""
        layers = [part.layers for part in self.members] + [part.layers for part in self.attestations]
        return frozenset(layer.digest for some in layers for layer in some)

    @property
    def complete(self) -> bool:
        """Whether everything that the document names is here; of a pulled one mostly some platforms are."""
        have = {one.descriptor.digest for one in self.members}
        have |= {one.descriptor.digest for one in self.attestations}
        parsed = parse_manifest(self.raw.encode(), self.media_type)
        return isinstance(parsed, Index) and all(entry.digest in have for entry in parsed.manifests)

    def images(self) -> tuple[Digest, ...]:
        return tuple(member.image for member in self.members)


@dataclass(frozen=True, slots=True)
class Target:
    """What a name points to: an image, and the index it is the preferred image of, if any."""

    image: Digest
    index: Digest | None = None

    def encode(self) -> bytes:
        return (f"{self.image} {self.index}" if self.index else self.image).encode()

    @staticmethod
    def decode(body: bytes) -> Target:
        image, _, index = body.decode().partition(" ")
        return Target(Digest(image), Digest(index) if index else None)


def best_member(record: IndexRecord, wanted: Platform) -> IndexMember:
    """That of the wanted platform, with its variant if there is one, else of its architecture, else the first."""

    def distance(member: IndexMember) -> int:
        own = member.descriptor.platform
        if own is None or (own.os, own.architecture) != (wanted.os, wanted.architecture):
            return 2
        return int((own.variant or "") != (wanted.variant or ""))

    return min(record.members, key=distance)


def images_in(records: Iterable[IndexRecord]) -> frozenset[Digest]:
    return frozenset(image for record in records for image in record.images())


def unnamed(
    records: Mapping[Digest, IndexRecord], names: Mapping[str, Target], going: Iterable[str]
) -> tuple[Digest, ...]:
    """The indexes that no name points to when the names `going` have gone."""
    gone = frozenset(going)
    left = {target.index for name, target in names.items() if name not in gone}
    return tuple(index for index in records if index not in left)
