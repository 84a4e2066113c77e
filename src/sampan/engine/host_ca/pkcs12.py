"""Java's keystores in the format PKCS #12 without a password, as JDKs since 18 bring their `cacerts`. Pure.

RFC 7292, in DER: a PFX without a MAC, whose safes are plain contents with bags. A trusted certificate is a bag with a
name and Java's mark of trust among its attributes. A store that is any different is left alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sampan.engine.host_ca.keystore import OURS

NAME = OURS.decode().encode("utf-16-be")
"""How our entries' names begin in such a store."""
_SEQUENCE, _SET, _OCTETS, _BMP, _CONTENT = 0x30, 0x31, 0x04, 0x1E, 0xA0
_LONGEST = 4
"""Bytes of a length."""
_VERSION = bytes.fromhex("020103")
# Object identifiers, whole.
_DATA = bytes.fromhex("06092a864886f70d010701")  # 1.2.840.113549.1.7.1, data
_CERT_BAG = bytes.fromhex("060b2a864886f70d010c0a0103")  # 1.2.840.113549.1.12.10.1.3, certBag
_X509 = bytes.fromhex("060a2a864886f70d01091601")  # 1.2.840.113549.1.9.22.1, x509Certificate
_FRIENDLY_NAME = bytes.fromhex("06092a864886f70d010914")  # 1.2.840.113549.1.9.20, friendlyName
_TRUSTED = bytes.fromhex(
    "060c6086480186f966adca7b0101"
)  # 2.16.840.1.113894.746875.1.1, Oracle's trustedKeyUsage
_ANY_USAGE = bytes.fromhex("0604551d2500")  # 2.5.29.37.0, anyExtendedKeyUsage


class _Other(Exception):
    """It is another kind of store, or none."""


@dataclass(frozen=True, slots=True)
class Safes:
    """`contents`: of each safe its bags, whole."""

    contents: tuple[tuple[bytes, ...], ...]

    def with_certificates(self, certificates: Iterable[bytes]) -> Safes:
        """And those that it lacks, in a safe of their own, under names of ours."""
        known = {der for bags in self.contents for bag in bags if (der := _certificate(bag))}
        ours = tuple(_bag(der) for der in certificates if der not in known)
        return Safes((*self.contents, ours)) if ours else self

    def without_ours(self) -> Safes:
        kept = (tuple(bag for bag in bags if not _is_ours(bag)) for bags in self.contents)
        return Safes(
            tuple(bags for bags, before in zip(kept, self.contents, strict=True) if bags or not before)
        )


def decode(data: bytes) -> Safes | None:
    """None for what is no such store, is damaged or needs a password."""
    try:
        version, content = _parts(_only(data, _SEQUENCE), 2)
        if version != _VERSION:
            return None
        safes = [_content(part) for part in _each(_only(_content(content), _SEQUENCE))]
        found = Safes(tuple(tuple(_each(_only(safe, _SEQUENCE))) for safe in safes))
    except _Other:
        return None
    return found if encode(found) == data else None


def encode(safes: Safes) -> bytes:
    contents = b"".join(_as_content(_value(_SEQUENCE, b"".join(bags))) for bags in safes.contents)
    return _value(_SEQUENCE, _VERSION + _as_content(_value(_SEQUENCE, contents)))


def _as_content(octets: bytes) -> bytes:
    return _value(_SEQUENCE, _DATA + _value(_CONTENT, _value(_OCTETS, octets)))


def _content(value: bytes) -> bytes:
    """The octets of a content of the kind `data`."""
    kind, content = _parts(_only(value, _SEQUENCE), 2)
    if kind != _DATA:
        raise _Other
    return _only(_only(content, _CONTENT), _OCTETS)


def _certificate(bag: bytes) -> bytes:
    """DER; b"" for another kind of bag."""
    try:
        kind, content, *_ = _each(_only(bag, _SEQUENCE))
        if kind != _CERT_BAG:
            return b""
        kind, content = _parts(_only(_only(content, _CONTENT), _SEQUENCE), 2)
        return _only(_only(content, _CONTENT), _OCTETS) if kind == _X509 else b""
    except (_Other, ValueError):
        return b""


def _is_ours(bag: bytes) -> bool:
    return bool(_certificate(bag)) and NAME in bag


def _bag(der: bytes) -> bytes:
    name = NAME + hashlib.sha256(der).hexdigest()[:32].encode("utf-16-be")
    attributes = _attribute(_FRIENDLY_NAME, _value(_BMP, name)) + _attribute(_TRUSTED, _ANY_USAGE)
    certificate = _value(_SEQUENCE, _X509 + _value(_CONTENT, _value(_OCTETS, der)))
    return _value(_SEQUENCE, _CERT_BAG + _value(_CONTENT, certificate) + _value(_SET, attributes))


def _attribute(kind: bytes, value: bytes) -> bytes:
    return _value(_SEQUENCE, kind + _value(_SET, value))


def _value(tag: int, body: bytes) -> bytes:
    if len(body) < 0x80:
        return bytes((tag, len(body))) + body
    length = len(body).to_bytes(_LONGEST, "big").lstrip(b"\0")
    return bytes((tag, 0x80 | len(length))) + length + body


def _only(data: bytes, tag: int) -> bytes:
    """The body of the one value that `data` is. Raises `_Other`."""
    (value,) = _parts(data, 1)
    if value[0] != tag:
        raise _Other
    return value[_head(value, 0)[0] :]


def _parts(data: bytes, count: int) -> list[bytes]:
    """The values one after the other, so many. Raises `_Other`."""
    found = list(_each(data))
    if len(found) != count:
        raise _Other
    return found


def _each(data: bytes) -> Iterator[bytes]:
    """The values that follow each other. Raises `_Other` for what is cut off."""
    at = 0
    while at < len(data):
        start, length = _head(data, at)
        end = start + length
        if end > len(data):
            raise _Other
        yield data[at:end]
        at = end


def _head(data: bytes, at: int) -> tuple[int, int]:
    """Where a value's body begins, and its length."""
    if at + 2 > len(data):
        raise _Other
    first = data[at + 1]
    if first < 0x80:
        return at + 2, first
    size = first & 0x7F
    if not 1 <= size <= _LONGEST:
        raise _Other
    return at + 2 + size, int.from_bytes(data[at + 2 : at + 2 + size], "big")
