"""What the running containers have used up to now, for whoever watches all of them at once."""

from __future__ import annotations

from dataclasses import dataclass

from sampan.engine.model import ContainerRecord
from sampan.engine.stats import Interfaces
from sampan.linux.cgroups import CgroupStats


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one container; `interfaces` is empty where it has no network of its own."""

    record: ContainerRecord
    stats: CgroupStats
    interfaces: Interfaces
    oom_kills: int
