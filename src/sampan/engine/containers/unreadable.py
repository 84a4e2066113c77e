"""Containers whose records can't be read: nobody can use them, and what they may still need is kept.

What a record names is found in its bytes, whatever is wrong with them. Of bytes that do not end as they should nobody
knows what else they named: as long as there are such, no prune takes a volume or an image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from sampan.errors import Conflict, NotFound
from sampan.oci.digest import Digest

_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}")


class Unreadable:
    """`bodies`: what the database has of them, by their ids."""

    def __init__(self, bodies: Mapping[str, bytes]) -> None:
        self._bodies = dict(bodies)

    def _entries(self) -> list[tuple[str, bytes]]:
        """Those of this moment, also for another thread (what images are in use): one step of the interpreter."""
        return list(self._bodies.items())

    def ids(self) -> frozenset[str]:
        return frozenset(self._bodies)

    def naming(self, text: str) -> list[str]:
        """Ids of those that name an image or a volume."""
        wanted = msgspec.json.encode(text)
        return [key for key, body in self._entries() if wanted in body]

    def digests(self, without: Sequence[str] = ()) -> set[Digest]:
        """Of images and layers, whichever they are."""
        bodies = [body for key, body in self._entries() if key not in without]
        return {Digest(found.decode()) for body in bodies for found in _DIGEST.findall(body)}

    def unknown(self) -> list[str]:
        """Ids of those that may have named more than what is left of them does."""
        return [key for key, body in self._entries() if not _is_whole(body)]

    def find(self, reference: str) -> str:
        """The id of one, by that or a part of it that only it begins with. Raises `NotFound`."""
        found = [key for key in self._bodies if reference and key.startswith(reference)]
        if len(found) != 1:
            raise NotFound(f"No such container: {reference}")
        return found[0]

    def check_remove(self, container_id: str, *, force: bool) -> None:
        """Raises `Conflict`: whether it runs is not known either."""
        if not force:
            raise Conflict(
                f"cannot remove container {container_id}: its record can't be read",
                hint="'rm --force' gives it up, with its files; its volumes stay",
            )

    def forget(self, container_id: str) -> None:
        self._bodies.pop(container_id, None)


def _is_whole(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
