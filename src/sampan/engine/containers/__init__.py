"""The container service: creation, life, streams, files and recovery of containers; only writer of their records."""

from __future__ import annotations

from sampan.engine.containers.base import Parts
from sampan.engine.containers.service import Containers
from sampan.engine.containers.store import ContainerStore

__all__ = ["ContainerStore", "Containers", "Parts"]
