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
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_END, _TRUSTED_END = b"-----END CERTIFICATE-----", b"-----END TRUSTED CERTIFICATE-----"
_WIDTH = 76
"""Characters a line, as in MIME. RFC 7468 has 64, and parsers may take others, as those of programs do."""


@dataclass(frozen=True, slots=True)
class Joined:
    """`content` is `before`, then `inserted`."""

    before: bytes
    inserted: bytes
    blocks: frozenset[bytes] = frozenset()
    """The certificates that were inserted, whole."""

    @property
    def content(self) -> bytes:
        return self.before + self.inserted

    def removed_from(self, content: bytes) -> bytes:
        """What somebody made of the joined bundle without what was inserted, as a whole or one certificate of it.

        Certificates that look the same but for their lines were not inserted: an image may bring its own.
        """
        if not self.inserted:
            return content
        content = content.replace(self.inserted, b"")
        if _BEGIN not in content:
            return content
        end = _end_of_blocks(content)
        kept = _BLOCK.sub(lambda match: b"" if _ended(match[0]) in self.blocks else match[0], content[:end])
        return kept + content[end:]


def certificates(pem: bytes) -> dict[bytes, bytes]:
    """The certificates in DER -> their blocks as they stand. What is no certificate is left out."""
    found: dict[bytes, bytes] = {}
    for match in _BLOCK.finditer(pem[: _end_of_blocks(pem)]):
        try:
            der = base64.b64decode(b"".join(match[1].split()), validate=True)
        except binascii.Error:
            continue
        found.setdefault(der, _ended(match[0]))
    return found


def _end_of_blocks(pem: bytes) -> int:
    """Behind the line with the last end of a certificate: beginnings that have none are not looked for one by one."""
    last = max(pem.rfind(_END), pem.rfind(_TRUSTED_END))
    line = pem.find(b"\n", last)
    return 0 if last < 0 else len(pem) if line < 0 else line + 1


def _ended(block: bytes) -> bytes:
    return block if block.endswith(b"\n") else block + b"\n"


def _ours(der: bytes) -> bytes:
    """With lines longer than others write them: whoever copies one certificate copies that too."""
    text = base64.b64encode(der)
    lines = (text[at : at + _WIDTH] for at in range(0, len(text), _WIDTH))
    return _BEGIN + b"\n" + b"".join(line + b"\n" for line in lines) + _END + b"\n"


def joined(own: bytes, host: bytes) -> Joined:
    """`own` with those certificates of `host` that it lacks behind it."""
    known = certificates(own)
    lacking = [_ours(der) for der in certificates(host) if der not in known]
    if not lacking:
        return Joined(own, b"")
    start = b"" if not own or own.endswith(b"\n") else b"\n"
    return Joined(own, start + b"".join(lacking), frozenset(lacking))
