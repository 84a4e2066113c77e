"""Content digests (`sha256:<64 hex>`): OCI image-spec, descriptor.md, section "Digests"."""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from sampan.errors import Invalid

Digest = NewType("Digest", str)

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


def parse_digest(text: str) -> Digest:
    """Check `text` and return it as a digest; only sha256 is accepted.

    Raises `Invalid` for anything else.
    """
    if not _SHA256.fullmatch(text):
        raise Invalid(f"invalid digest {text!r}: expected sha256 and 64 hexadecimal digits")
    return Digest(text)


def digest_of(data: bytes | memoryview) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def hex_of(digest: Digest) -> str:
    """The hexadecimal part, as used in file names."""
    return digest[7:]
