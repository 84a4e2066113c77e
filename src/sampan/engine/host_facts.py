"""What the engine knows of its host."""

from __future__ import annotations

from dataclasses import dataclass

from sampan.engine.selinux import Contexts
from sampan.linux.cgroups.features import CgroupFeatures

_ALL_FEATURES = CgroupFeatures()


@dataclass(frozen=True, slots=True)
class HostFacts:
    """`cpus`: how many there are; `cpuset`, `memory_nodes`: their numbers as the kernel lists them ("0-3")."""

    cpus: int
    cpuset: str
    memory_nodes: str = "0"
    features: CgroupFeatures = _ALL_FEATURES
    cgroup_namespace: bool = False
    """Whether containers get a cgroup namespace of their own by default (version 2, as in Docker)."""
    ipc_mode: str = "private"
    """Of containers that choose none."""
    selinux: Contexts | None = None
    """Labels of the host's policy, where containers are confined by SELinux."""
    apparmor: bool = False
    """Whether containers are confined by AppArmor."""
    runtimes: frozenset[str] = frozenset({"sampan"})
    """Names of OCI runtimes that a container may choose."""
    default_runtime: str = "sampan"
    remapped: bool = False
    """Whether containers get a user namespace of their own by default (userns-remap)."""
