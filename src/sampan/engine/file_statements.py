"""Attestations of a result that is files: statements beside them, about each of them, as BuildKit has it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence

import msgspec

from sampan.oci.attestation import Attestation
from sampan.oci.digest import Digest

NOBODY = Digest("sha256:" + "0" * 64)
"""In the place of a manifest's digest: there is none, and the statement's subject is replaced."""
_NAMES = (("https://slsa.dev/provenance/", "provenance.json"), ("https://spdx.dev/", "sbom.spdx.json"))
_CHUNK = 1 << 20

Subject = dict[str, object]


def statement_files(root: int, attestations: Sequence[Attestation]) -> Iterator[tuple[str, bytes]]:
    """Names and contents. `root`: a descriptor of the tree that they are about."""
    subjects = list(_subjects(root))
    for number, one in enumerate(attestations):
        body = msgspec.json.decode(one.statement)
        body["subject"] = subjects
        yield _name(one.predicate_type, number), msgspec.json.format(msgspec.json.encode(body)) + b"\n"


def _name(predicate_type: str, number: int) -> str:
    known = [name for prefix, name in _NAMES if predicate_type.startswith(prefix)]
    return known[0] if known else f"attestation-{number}.json"


def _subjects(root: int) -> Iterator[Subject]:
    """Regular files by path, sorted; no link is followed."""
    for place, directories, names, at in os.fwalk(".", dir_fd=root, follow_symlinks=False):
        directories.sort()
        for name in sorted(names):
            if not stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                continue
            path = os.path.normpath(os.path.join(place, name))
            shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            yield {"name": shown, "digest": {"sha256": _sha256(name, at)}}


def _sha256(name: str, at: int) -> str:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    found = hashlib.sha256()
    with open(os.open(name, flags, dir_fd=at), "rb", buffering=0) as file:
        while data := file.read(_CHUNK):
            found.update(data)
    return found.hexdigest()
