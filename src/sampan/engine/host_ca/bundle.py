"""Bundles of CA certificates in PEM (RFC 7468): joined, and taken apart again. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

MAX_BUNDLE = 16 << 20
"""Bytes of a bundle that is looked at."""
_BLOCK = re.compile(
    rb"-----BEGIN (?:TRUSTED )?CERTIFICATE-----\s(.*?)-----END (?:TRUSTED )?CERTIFICATE-----[^\n]*\n?",
    re.DOTALL,
)
MARK = b"# from the host of this build step (sampan)\n"


@dataclass(frozen=True, slots=True)
class Joined:
    """`content` is `before`, then `inserted`."""

    before: bytes
    inserted: bytes

    @property
    def content(self) -> bytes:
        return self.before + self.inserted

    def removed_from(self, content: bytes) -> bytes:
        """What somebody made of the joined bundle, without what was inserted."""
        return content.replace(self.inserted, b"") if self.inserted else content


def certificates(pem: bytes) -> dict[bytes, bytes]:
    """The certificates in DER -> their blocks as they stand. What is no certificate is left out."""
    found: dict[bytes, bytes] = {}
    for match in _BLOCK.finditer(pem):
        try:
            der = base64.b64decode(b"".join(match[1].split()), validate=True)
        except binascii.Error:
            continue
        found.setdefault(der, match[0] if match[0].endswith(b"\n") else match[0] + b"\n")
    return found


def joined(own: bytes, host: bytes) -> Joined:
    """`own` with those certificates of `host` that it lacks behind it."""
    known = certificates(own)
    lacking = [block for der, block in certificates(host).items() if der not in known]
    if not lacking:
        return Joined(own, b"")
    start = b"" if not own or own.endswith(b"\n") else b"\n"
    return Joined(own, start + MARK + b"".join(lacking))
