"""Writable layers: `snapshots/<id>/{upper,work}` over read-only layers, and `layers.json` that names those."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from sampan.errors import Conflict, Internal, Invalid, NotFound
from sampan.linux.placement import spread_children
from sampan.oci.digest import Digest
from sampan.oci.rootfs import RootAssembly
from sampan.storage.clamp import clamp_times
from sampan.storage.layers import Layer, LayerStore
from sampan.storage.removal import remove_tree

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_DOOMED: Final = ".remove-"
_NEW: Final = ".create-"
_RECORD: Final = "layers.json"
_VOLATILE: Final = "volatile"
"""In a snapshot that is a build's: a crash of the host may take it."""


class SnapshotStore:
    """Thread-safe for different ids."""

    def __init__(self, root: Path, layers: LayerStore) -> None:
        """`root` is the `snapshots` directory itself, made when missing."""
        self._root = root
        self._layers = layers
        root.mkdir(parents=True, exist_ok=True)
        os.chmod(root, 0o700)
        spread_children(root)

    def create(self, snapshot_id: str, layers: Sequence[Digest], *, volatile: bool = False) -> RootAssembly:
        """Make upper and work. `layers` go from the base up. `volatile`: it need not survive a crash of the host.

        Raises `Conflict` (the id is in use), `NotFound` (a layer), `Invalid` (no id).
        """
        target = self._path(snapshot_id)
        assembly = msgspec.structs.replace(self._assembly(target, layers), volatile=volatile)
        staging = self._root / f"{_NEW}{secrets.token_hex(8)}"
        staging.mkdir(mode=0o700)
        try:
            for name in ("upper", "work"):
                (staging / name).mkdir()
                os.chmod(staging / name, 0o755)
            (staging / _RECORD).write_bytes(msgspec.json.encode(list(layers)))
            if volatile:
                (staging / _VOLATILE).touch()
            os.rename(staging, target)
        except OSError as error:
            remove_tree(staging)
            if target.exists():
                raise Conflict(f"snapshot {snapshot_id} already exists") from error
            raise
        return assembly

    def assembly(self, snapshot_id: str, layers: Sequence[str] | None = None) -> RootAssembly:
        """Raises `NotFound`.

        `layers`: those it was made over, from a record that is flushed to the disk; what is kept here is not, and may
        be empty after a power failure.
        """
        if layers is None:
            return self._assembly(self._path(snapshot_id), self.layers(snapshot_id))
        return self._assembly(self.upper(snapshot_id).parent, [Digest(layer) for layer in layers])

    def layers(self, snapshot_id: str) -> tuple[Digest, ...]:
        """The read-only layers that it was made over, from the base up. Raises `NotFound`."""
        try:
            names = msgspec.json.decode(
                (self._path(snapshot_id) / _RECORD).read_bytes(), type=tuple[str, ...]
            )
        except FileNotFoundError:
            raise NotFound(f"No such snapshot: {snapshot_id}") from None
        except msgspec.DecodeError as error:
            raise Internal(f"snapshot {snapshot_id}: {_RECORD} is damaged: {error}") from error
        return tuple(Digest(name) for name in names)

    def upper(self, snapshot_id: str) -> Path:
        """Raises `NotFound`."""
        path = self._path(snapshot_id) / "upper"
        if not path.is_dir():
            raise NotFound(f"No such snapshot: {snapshot_id}")
        return path

    def adopt(self, snapshot_id: str, *, latest: int | None = None) -> Layer:
        """Its upper directory becomes a layer; the snapshot is gone afterwards. Nobody may have it mounted.

        No file in the layer is newer than `latest` (seconds since 1970) when that is given.
        """
        upper = self.upper(snapshot_id)
        if latest is not None:
            clamp_times(upper, latest)
        layer = self._layers.adopt(upper)
        self.remove(snapshot_id)
        return layer

    def usage(self, snapshot_id: str) -> int:
        """Bytes of regular files' content in upper, hard links counted once. Raises `NotFound`."""
        total = 0
        seen: set[int] = set()
        for status in _statuses(self.upper(snapshot_id)):
            if stat.S_ISREG(status.st_mode) and (status.st_nlink == 1 or status.st_ino not in seen):
                total += status.st_size
                if status.st_nlink > 1:
                    seen.add(status.st_ino)
        return total

    def remove(self, snapshot_id: str) -> None:
        """Idempotent; the id is free before the content is removed."""
        doomed = self._root / f"{_DOOMED}{secrets.token_hex(8)}"
        try:
            os.rename(self._path(snapshot_id), doomed)
        except FileNotFoundError:
            return
        remove_tree(doomed)

    def ids(self) -> list[str]:
        return sorted(name for name in os.listdir(self._root) if _ID.fullmatch(name))

    def sweep(self, known: Collection[str]) -> list[str]:
        """Remove every snapshot that is not in `known`, and rubbish; returns the snapshots' ids. Only at start."""
        removed: list[str] = []
        for name in sorted(os.listdir(self._root)):
            if name in known:
                continue
            remove_tree(self._root / name)
            if _ID.fullmatch(name):
                removed.append(name)
        return removed

    def _path(self, snapshot_id: str) -> Path:
        if not _ID.fullmatch(snapshot_id):
            raise Invalid(f"invalid snapshot id {snapshot_id!r}")
        return self._root / snapshot_id

    def _assembly(self, path: Path, layers: Sequence[Digest]) -> RootAssembly:
        mounts = tuple(self._layers.mount_of(layer) for layer in layers)
        volatile = os.path.exists(path / _VOLATILE)
        return RootAssembly(mounts, str(path / "upper"), str(path / "work"), volatile)


def _statuses(top: Path) -> Iterator[os.stat_result]:
    """Of everything below `top`. What vanishes meanwhile (the container runs) or lies too deep is passed over."""
    pending = [str(top)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    try:
                        yield entry.stat(follow_symlinks=False)
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
                    except FileNotFoundError:
                        continue
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                raise
