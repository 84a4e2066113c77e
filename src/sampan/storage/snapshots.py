"""Writable layers: `snapshots/<id>/{upper,work}` over read-only layers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from sampan.oci.digest import Digest
from sampan.oci.rootfs import RootAssembly
from sampan.storage.layers import Layer, LayerStore


class SnapshotStore:
    def __init__(self, root: Path, layers: LayerStore) -> None:
        """`root` is the `snapshots` directory itself (made when missing)."""
        raise NotImplementedError

    def create(self, snapshot_id: str, layers: Sequence[Digest]) -> RootAssembly:
        """Make upper and work. `layers` from the base up. Raises `Conflict` (id in use), `NotFound` (layer)."""
        raise NotImplementedError

    def assembly(self, snapshot_id: str) -> RootAssembly:
        """Raises `NotFound`."""
        raise NotImplementedError

    def layers(self, snapshot_id: str) -> tuple[Digest, ...]:
        """The read-only layers it was made over. Raises `NotFound`."""
        raise NotImplementedError

    def upper(self, snapshot_id: str) -> Path:
        """Raises `NotFound`."""
        raise NotImplementedError

    def adopt(self, snapshot_id: str) -> Layer:
        """Its upper directory becomes a layer; the snapshot is gone afterwards."""
        raise NotImplementedError

    def usage(self, snapshot_id: str) -> int:
        """Bytes of regular files' content in upper. Raises `NotFound`."""
        raise NotImplementedError

    def remove(self, snapshot_id: str) -> None:
        """Idempotent."""
        raise NotImplementedError

    def ids(self) -> list[str]:
        raise NotImplementedError

    def sweep(self, known: Collection[str]) -> list[str]:
        """Remove every snapshot whose id is not in `known`; returns their ids."""
        raise NotImplementedError
