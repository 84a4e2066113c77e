"""Where backups and snapshots are found that others are made from, restored or compared. Blocking."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from sampan.engine.images import Images
from sampan.engine.volume_backup.base import Base
from sampan.engine.volume_backup.format import Entry
from sampan.engine.volume_backup.manifests import describe, read_entries, read_manifest, write_manifest
from sampan.engine.volume_backup.orders import Backup, Order
from sampan.engine.volume_backup.registry import Artifact, Registry
from sampan.engine.volume_backup.snapshots import MANIFEST, SnapshotStore, Source
from sampan.engine.volume_backup.trees import opened_directory
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials


class Sources:
    def __init__(self, images: Images, snapshots: SnapshotStore) -> None:
        self._images = images
        self._snapshots = snapshots

    def registry(self, reference: Reference, credentials: Credentials) -> Registry:
        return Registry(self._images, reference, credentials)

    def snapshot_tree(self, snapshot: Source) -> Path:
        """Raises `NotFound`."""
        return self._snapshots.tree(snapshot)

    def snapshot_manifest(self, snapshot: Source) -> Path:
        """The file with a snapshot's manifest, which is made now if there is none. Raises `NotFound`."""
        tree = self._snapshots.tree(snapshot)
        path = tree.with_name(MANIFEST)
        if not path.exists():
            fresh = path.with_name(f"{MANIFEST}.new")
            with opened_directory(tree) as root, open(fresh, "wb") as out:
                write_manifest(describe(root), out.write)
            fresh.replace(path)
        return path

    def base(self, order: Order) -> tuple[Base | None, Artifact | None]:
        """What a backup is made from, with the artifact that it is in; nothing for a whole one."""
        if order.manifest:
            return read_manifest([order.manifest]), None
        if order.base_snapshot is not None:
            return read_manifest([self.snapshot_manifest(order.base_snapshot).read_bytes()]), None
        if order.base_reference is None:
            return None, None
        cancelled = threading.Event()
        registry = self.registry(order.base_reference, order.base_credentials or Credentials())
        artifact = registry.look(cancelled)
        return registry.base(artifact, cancelled), artifact

    def entries(self, backup: Backup) -> Iterator[Entry]:
        """Of a backup, as its manifest has them."""
        if backup.reference is None:
            return read_entries([backup.manifest])
        registry = self.registry(backup.reference, backup.credentials or Credentials())
        cancelled = threading.Event()
        return read_entries([registry.manifest(registry.look(cancelled), cancelled)])
