"""What a backup is to be, and what is known of it before its volume is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sampan.engine.model import now
from sampan.engine.volume_backup.base import Base
from sampan.engine.volume_backup.format import FORMAT, Head
from sampan.engine.volume_backup.registry import Artifact
from sampan.engine.volume_backup.snapshots import Source
from sampan.engine.volume_backup.trees import Tree
from sampan.engine.volume_backup.users import How
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials

OnChange = Literal["fail", "warn"]


@dataclass(frozen=True, slots=True)
class Order:
    """What a backup is to be. manifest: of the base, compressed, where the client has that one."""

    source: Source
    how: How = ""
    on_change: OnChange = "fail"
    base_snapshot: Source | None = None
    base_reference: Reference | None = None
    base_credentials: Credentials | None = None
    manifest: bytes = b""


@dataclass(frozen=True, slots=True)
class Backup:
    """One to be compared: its compressed manifest, or where it is in a registry."""

    manifest: bytes = b""
    reference: Reference | None = None
    credentials: Credentials | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of a backup before its volume is read. size: bytes of regular files, as they were counted."""

    source: Source
    labels: dict[str, str] | None
    size: int
    base: Base | None
    artifact: Artifact | None

    def head(self, tree: Tree) -> Head:
        base = self.base.id if self.base is not None else ""
        return Head(FORMAT, str(self.source), now(), self.labels, base, tree.users, tree.source, self.size)
