"""The engine: one service per noun, each the only writer of its noun's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.engine.build_calls import BuildCalls
    from sampan.engine.builds import Builds
    from sampan.engine.containers import Containers
    from sampan.engine.events import EventBus
    from sampan.engine.execs import Execs
    from sampan.engine.images import Images
    from sampan.engine.networks.service import Networks
    from sampan.engine.settings import Settings
    from sampan.engine.system import System
    from sampan.engine.volume_backup.service import VolumeBackups
    from sampan.engine.volumes.service import Volumes


@dataclass(frozen=True, slots=True)
class Engine:
    settings: Settings
    events: EventBus
    containers: Containers
    execs: Execs
    images: Images
    volumes: Volumes
    networks: Networks
    builds: Builds
    system: System
    volume_backups: Callable[[], VolumeBackups]
    """Made when it is first wanted."""

    def build_calls(self) -> BuildCalls:
        """Questions about Dockerfiles: few engines are asked any, and its imports take long."""
        from sampan.engine.build_calls import BuildCalls

        return BuildCalls(self.images, self.settings.run / "builds", self.settings.root / "builds")
