"""Java's keystores in the format JKS, as `sun.security.provider.JavaKeyStore` reads them. Pure.

magic, version, count, entries, and the SHA-1 of (password in UTF-16, a constant, all before). Numbers are big-endian.
A trusted certificate: tag 2, alias, date in milliseconds (8 bytes), type, length, DER. Strings have a length of two
bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from sampan.errors import Invalid

PASSWORD = "changeit"
"""Of every distribution's and JDK's store."""
_MAGIC = 0xFEEDFEED
_SALT = b"Mighty Aphrodite"
OURS = b"sampan-host-"
_TRUSTED, _KEY = 2, 1


@dataclass(frozen=True, slots=True)
class Entry:
    alias: bytes
    raw: bytes
    """All of it, its tag first."""
    certificate: bytes = b""
    """DER, of a trusted certificate."""


@dataclass(frozen=True, slots=True)
class Store:
    version: int
    entries: tuple[Entry, ...]

    def with_certificates(self, certificates: Iterable[bytes]) -> Store:
        """And those that it lacks, under aliases of ours."""
        known = {entry.certificate for entry in self.entries}
        lacking = [der for der in certificates if der not in known]
        return Store(self.version, (*self.entries, *(_entry(der, self.version) for der in lacking)))

    def without_ours(self) -> Store:
        return Store(self.version, tuple(one for one in self.entries if not one.alias.startswith(OURS)))


def decode(data: bytes) -> Store | None:
    """None for what is no such store, or has another password. Raises `Invalid` for one that is damaged."""
    if len(data) < 32 or data[:4] != struct.pack(">I", _MAGIC) or _digest(data[:-20]) != data[-20:]:
        return None
    version, count = struct.unpack_from(">II", data, 4)
    if version not in (1, 2):
        return None
    reader = _Reader(data[:-20], 12)
    return Store(version, tuple(reader.entry(version) for _ in range(count)))


def encode(store: Store) -> bytes:
    body = struct.pack(">III", _MAGIC, store.version, len(store.entries))
    body += b"".join(entry.raw for entry in store.entries)
    return body + _digest(body)


class _Reader:
    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position

    def entry(self, version: int) -> Entry:
        start = self._position
        tag = self._number(4)
        alias = self._take(self._number(2))
        self._take(8)
        certificate = b""
        if tag == _TRUSTED:
            certificate = self._certificate(version)
        elif tag == _KEY:
            self._take(self._number(4))
            for _ in range(self._number(4)):
                self._certificate(version)
        else:
            raise Invalid(f"a Java keystore has an entry of the unknown kind {tag}")
        return Entry(alias, self._data[start : self._position], certificate)

    def _certificate(self, version: int) -> bytes:
        if version == 2:
            self._take(self._number(2))
        return self._take(self._number(4))

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    def _take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._data):
            raise Invalid("a Java keystore is cut off")
        piece = self._data[self._position : end]
        self._position = end
        return piece


def _entry(der: bytes, version: int) -> Entry:
    alias = OURS + hashlib.sha256(der).hexdigest()[:32].encode()
    kind = struct.pack(">H", 5) + b"X.509" if version == 2 else b""
    head = struct.pack(">IH", _TRUSTED, len(alias)) + alias + bytes(8)
    return Entry(alias, head + kind + struct.pack(">I", len(der)) + der, der)


def _digest(body: bytes) -> bytes:
    # The format's own check against damage, not a protection.
    return hashlib.sha1(PASSWORD.encode("utf-16-be") + _SALT + body, usedforsecurity=False).digest()
