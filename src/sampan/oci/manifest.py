"""Descriptors, manifests and indexes: OCI image-spec descriptor.md, manifest.md, image-index.md.

Docker's schema 2 manifests and lists have the same shape and differ in media types only.
The raw bytes of a manifest are what its digest names: keep them; never encode a parsed one again
to push it under the same digest.
"""

from __future__ import annotations

import msgspec

from sampan.errors import Invalid
from sampan.oci import media
from sampan.oci.digest import Digest, parse_digest

MAX_MANIFEST_SIZE = 4 * 1024 * 1024
"""Bytes; the distribution-spec asks registries to accept at least this much."""


class Platform(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={"os_version": "os.version", "os_features": "os.features"},
):
    # Both are always written, which a default that is made anew each time sees to.
    architecture: str = msgspec.field(default_factory=lambda: "amd64")
    os: str = msgspec.field(default_factory=lambda: "linux")
    variant: str | None = None
    os_version: str | None = None
    os_features: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] | None = None
    urls: tuple[str, ...] | None = None
    artifact_type: str | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        parse_digest(self.digest)
        if self.size < 0:
            raise Invalid(f"descriptor {self.digest}: negative size {self.size}")


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    config: Descriptor
    layers: tuple[Descriptor, ...]
    schema_version: int = 2
    media_type: str = media.OCI_MANIFEST
    artifact_type: str | msgspec.UnsetType = msgspec.UNSET
    subject: Descriptor | msgspec.UnsetType = msgspec.UNSET
    annotations: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class Index(msgspec.Struct, frozen=True, rename="camel"):
    manifests: tuple[Descriptor, ...]
    schema_version: int = 2
    media_type: str = media.OCI_INDEX
    annotations: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class _Probe(msgspec.Struct, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw = msgspec.Raw()  # empty when absent; msgspec has no optional Raw


def parse_manifest(raw: bytes, media_type: str = "") -> Manifest | Index:
    """Parse a manifest or an index; the document's own media type wins over `media_type`.

    Raises `Invalid` for anything that is neither (schema 1 among it).
    """
    try:
        probe = msgspec.json.decode(raw, type=_Probe)
        kind = probe.media_type or media_type
        if kind in media.INDEXES or (
            kind not in media.MANIFESTS and bytes(probe.manifests) not in (b"", b"null")
        ):
            return msgspec.json.decode(raw, type=Index)
        if probe.schema_version != 2:
            raise Invalid(f"manifest schema version {probe.schema_version} is not supported (only 2 is)")
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"malformed image manifest: {error}") from error


def encode_manifest(manifest: Manifest | Index) -> bytes:
    return msgspec.json.encode(manifest)
