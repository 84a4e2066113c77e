from __future__ import annotations

from pathlib import Path

from sampan.linux.cgroups.model import Cgroup


class CgroupHost:
    """What control groups this host has. `layout`: "v1", "hybrid" (version 1 controllers, empty version 2) or "v2"."""

    layout: str
    controllers: frozenset[str]

    def group(self, path: str) -> Cgroup:
        """The group at `path` below the root(s); nothing is made yet. Raises `Invalid` for a bad path."""
        raise NotImplementedError

    @property
    def swap_limit(self) -> bool:
        """Whether `memory_swap` can be enforced."""
        raise NotImplementedError


def detect(root: Path = Path("/sys/fs/cgroup")) -> CgroupHost:
    """Raises `Unsupported` when no control groups are mounted at `root`."""
    raise NotImplementedError
