"""In-toto statements (in-toto attestation framework v0.1), as BuildKit attaches them to images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

import msgspec

from sampan.oci.attestation import Attestation
from sampan.oci.digest import Digest, hex_of
from sampan.oci.reference import Reference

STATEMENT = "https://in-toto.io/Statement/v0.1"
PROVENANCE_V02 = "https://slsa.dev/provenance/v0.2"
PROVENANCE_V1 = "https://slsa.dev/provenance/v1"
SPDX_DOCUMENT = "https://spdx.dev/Document"


def attestation(
    predicate_type: str, predicate: Mapping[str, object], manifest: Digest, names: Sequence[str]
) -> Attestation:
    """A statement about the image with that `manifest`; `names` are package URLs (`package_url`)."""
    subject_digest = {"sha256": hex_of(manifest)}
    statement = {
        "_type": STATEMENT,
        "predicateType": predicate_type,
        "subject": [{"name": name, "digest": subject_digest} for name in names or ("_",)],
        "predicate": predicate,
    }
    return Attestation(predicate_type, msgspec.json.encode(statement))


def package_url(reference: Reference, platform: str, digest: Digest | None = None) -> str:
    """`pkg:docker/…` of an image (purl-spec, type docker)."""
    version = f"@{quote(reference.tag, safe='')}" if reference.tag else ""
    parts = [f"digest={digest}"] if digest else []
    parts.append(f"platform={quote(platform, safe='')}")
    return f"pkg:docker/{reference.familiar_name}{version}?{'&'.join(parts)}"
