"""Attestations beside an image in its index: BuildKit's attestation manifests, with in-toto statements.

An attestation manifest has one layer for each statement. It stands in the index for the platform
unknown/unknown, with annotations that name the image's manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sampan.oci.digest import Digest
from sampan.oci.image import ContainerDefaults, ImageConfig, RootFS, encode_image_config
from sampan.oci.manifest import Descriptor, Platform

IN_TOTO = "application/vnd.in-toto+json"
PREDICATE_TYPE = "in-toto.io/predicate-type"
REFERENCE_TYPE = "vnd.docker.reference.type"
REFERENCE_DIGEST = "vnd.docker.reference.digest"
MANIFEST_KIND = "attestation-manifest"
UNKNOWN = Platform("unknown", "unknown")


@dataclass(frozen=True, slots=True)
class Attestation:
    """A statement (in-toto, JSON) about an image's manifest, and what kind of predicate it makes."""

    predicate_type: str
    statement: bytes


def attestation_config(statements: Sequence[Digest]) -> bytes:
    """The configuration of an attestation manifest: that of an image which no machine runs."""
    config = ImageConfig("unknown", "unknown", RootFS(tuple(statements)), ContainerDefaults())
    return encode_image_config(config)


def statement_layer(predicate_type: str, digest: Digest, size: int) -> Descriptor:
    return Descriptor(IN_TOTO, digest, size, annotations={PREDICATE_TYPE: predicate_type})


def reference_annotations(manifest: Digest) -> dict[str, str]:
    """Of the attestation manifest's descriptor in the index."""
    return {REFERENCE_DIGEST: manifest, REFERENCE_TYPE: MANIFEST_KIND}


def attested(descriptor: Descriptor) -> Digest | None:
    """The manifest that an index's entry is an attestation of; None for an image."""
    notes = descriptor.annotations or {}
    if notes.get(REFERENCE_TYPE) == MANIFEST_KIND and notes.get(REFERENCE_DIGEST):
        return Digest(notes[REFERENCE_DIGEST])
    return None


def is_image(descriptor: Descriptor) -> bool:
    """Whether an index's entry is an image that a machine can run, as far as the entry tells."""
    platform = descriptor.platform
    return platform is None or "unknown" not in (platform.os, platform.architecture)
