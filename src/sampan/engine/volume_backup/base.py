"""The backup before: which contents an incremental one need not store."""

from __future__ import annotations

from collections.abc import Iterable

from sampan.engine.volume_backup.format import Entry, bytes_of
from sampan.errors import Invalid

_Key = tuple[bytes, int, bool]


class Base:
    """Files of another backup by path and by content."""

    def __init__(self, backup_id: str, entries: Iterable[Entry]) -> None:
        """Raises `Invalid` for an entry that no backup has."""
        self.id = backup_id
        self._by_path: dict[bytes, _Key] = {}
        self._by_content: dict[_Key, bytes] = {}
        self._sizes: set[int] = set()
        for entry in entries:
            if entry.type != "file":
                continue
            key = _key(entry.sha256, entry.size, entry.sparse)
            path = bytes_of(entry.path)
            self._by_path[path] = key
            self._by_content.setdefault(key, path)
            self._sizes.add(entry.size)

    def may_have(self, size: int) -> bool:
        """False when no file of that size is there: it need not be hashed first."""
        return size in self._sizes

    def find(self, path: bytes, sha256: str, size: int, *, sparse: bool) -> bytes | None:
        """The path of a file with this content, `path` itself if that is one."""
        key = _key(sha256, size, sparse)
        return path if self._by_path.get(path) == key else self._by_content.get(key)


def _key(sha256: str, size: int, sparse: bool) -> _Key:
    try:
        return bytes.fromhex(sha256), size, sparse
    except ValueError:
        raise Invalid("the manifest of the base is damaged: a checksum is none") from None
