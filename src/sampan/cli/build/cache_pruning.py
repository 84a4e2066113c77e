"""What of a cache's directory belongs to the manifests of its index.json, and the removal of the rest."""

from __future__ import annotations

import os

from sampan.client.codec import loads
from sampan.errors import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX_MANIFEST = 4 << 20
_HEX = frozenset("0123456789abcdef")


def require_complete(path: str, digest: str) -> None:
    """Raises `Invalid` when a blob of the manifest is not there: somebody has pruned the directory meanwhile."""
    for wanted in _members(path, digest):
        if not os.path.exists(_blob(path, wanted)):
            raise Invalid(f"the blob {wanted} was removed from {path} while the cache was exported")


def prune(path: str, index: dict[str, Any]) -> None:
    """Remove blobs that no manifest of the index has. Nothing when one can't be read: then nobody knows.

    Raises `OSError`.
    """
    try:
        kept = set().union(*(_members(path, entry["digest"]) for entry in index["manifests"]))
    except (Invalid, OSError, KeyError, TypeError):
        return
    blobs = os.path.join(path, "blobs", "sha256")
    for name in os.listdir(blobs):
        if len(name) == 64 and set(name) <= _HEX and f"sha256:{name}" not in kept:
            os.unlink(os.path.join(blobs, name))


def _members(path: str, digest: str) -> set[str]:
    """The manifest and all that it names. Raises `Invalid`, `OSError`."""
    with open(_blob(path, digest), "rb") as file:
        raw = file.read(_MAX_MANIFEST + 1)
    try:
        manifest: Any = loads(raw.decode()) if len(raw) <= _MAX_MANIFEST else None
        # An image manifest has layers and a configuration, the older form of a cache is an index of both.
        named = [*manifest.get("layers", ()), *manifest.get("manifests", ()), manifest.get("config") or {}]
        digests = {one["digest"] for one in named if one}
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        raise Invalid(f"{digest} in {path} is no manifest of a cache") from None
    for one in digests:
        _blob(path, one)
    return {digest, *digests}


def _blob(path: str, digest: object) -> str:
    name = digest.removeprefix("sha256:") if isinstance(digest, str) else ""
    if len(name) != 64 or not set(name) <= _HEX:
        raise Invalid(f"a manifest in {path} names a blob by no digest")
    return os.path.join(path, "blobs", "sha256", name)
