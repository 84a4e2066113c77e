"""What removing images would do: the same code on a copy in memory, with nothing behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sampan.oci.digest import Digest
from sampan.storage.image_data import Changes
from sampan.storage.images import ImageStore


class ImageTrial(ImageStore):
    """A store's images as they are now. Removals and prunes answer as the store's would, and change nothing in it.

    `layer_roots` as the store's, but perhaps of a state that is not there yet.
    """

    def __init__(self, store: ImageStore, layer_roots: Callable[[], Iterable[Digest]]) -> None:
        # Not ImageStore's: that reads the database. Locks, layers, content and what is held are the store's.
        with store._lock:
            vars(self).update(vars(store))
            self._records = dict(store._records)
            self._names = dict(store._names)
            self._indexes = dict(store._indexes)
            self._blobs = dict(store._blobs)
            self._postponed = set()
            self.layer_roots = layer_roots
        self._gone: set[Digest] = set()

    def _write_down(self, changes: Changes) -> None:
        """Nowhere."""

    def drop_blobs(self, digests: Iterable[Digest]) -> None:
        """They stay."""

    def _remove_data(
        self, layers: Sequence[Digest], blobs: Sequence[Digest], mappings: Iterable[Digest]
    ) -> int:
        """The bytes that would be freed. What a removal before has counted is still there, but does not count again."""
        self._commit(Changes(blobs=dict.fromkeys(mappings)))
        fresh = [one for one in layers if one not in self._gone]
        freed = sum(self._layer_size(diff_id) for diff_id in fresh)
        fresh_blobs = [one for one in blobs if one not in self._gone]
        freed += sum(self.content.size(digest) for digest in fresh_blobs)
        self._gone.update(fresh, fresh_blobs)
        return freed
