"""What the parts of the container service share: collaborators, and small operations on records."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from msgspec.structs import replace

from sampan.engine import selinux
from sampan.engine.config import HostConfig, LogConfig
from sampan.engine.containers.store import ContainerStore, Slot
from sampan.engine.events import EventBus
from sampan.engine.host_facts import HostFacts
from sampan.engine.model import ContainerRecord, State
from sampan.engine.networks.service import Networks
from sampan.engine.record_store import Store
from sampan.engine.settings import Settings
from sampan.engine.spec_resources import cgroup_path
from sampan.engine.validate import container_of
from sampan.engine.volumes.service import Volumes
from sampan.linux.cgroups import Cgroup, CgroupHost
from sampan.logs.options import FILE_DRIVERS
from sampan.network.dns import NameServer
from sampan.network.host import NetworkHost
from sampan.oci.digest import Digest
from sampan.oci.image import ImageConfig
from sampan.runtime.launcher_client import LauncherClient
from sampan.storage.images import ImageStore
from sampan.storage.layers import LayerStore
from sampan.storage.snapshots import SnapshotStore

Json = dict[str, Any]
Filters = Mapping[str, Sequence[str]]


class ImageView(Protocol):
    """What a container needs to know of its image."""

    @property
    def id(self) -> Digest: ...

    @property
    def config(self) -> ImageConfig: ...

    @property
    def diff_ids(self) -> tuple[Digest, ...]: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The collaborators of the container service. `facts`: what limits are checked against."""

    settings: Settings
    metadata: Store
    store: ContainerStore
    events: EventBus
    images: ImageStore
    layers: LayerStore
    snapshots: SnapshotStore
    volumes: Volumes
    networks: Networks
    network_host: NetworkHost
    names: NameServer
    launcher: LauncherClient
    cgroups: CgroupHost
    facts: HostFacts

    def directory(self, container_id: str) -> Path:
        """What outlives a reboot: log, hosts, resolv.conf, hostname."""
        return self.settings.containers_dir / container_id

    def run_directory(self, container_id: str) -> Path:
        return self.settings.containers_run_dir / container_id

    def log_path(self, container_id: str, driver: str = "json-file") -> Path:
        """Its log on this host: of a driver that sends elsewhere, the local copy."""
        name = f"{container_id}-json.log" if driver in FILE_DRIVERS else "container-cached.log"
        return self.directory(container_id) / name

    def labels(self, host: HostConfig) -> tuple[str, str]:
        """The SELinux labels of a new container's processes and files; empty where the host has no SELinux."""
        contexts = self.facts.selinux
        if contexts is None:
            return "", ""
        used = {selinux.level_of(record.mount_label) for record in self.store}
        level = selinux.unique_level(used, secrets.randbelow)
        # Who shares another's memory or processes needs its level, or could not reach them.
        others = (self.store.get(container_of(mode) or "") for mode in (host.ipc_mode, host.pid_mode))
        shared = tuple(
            f"level:{selinux.level_of(one.record.mount_label)}" for one in others if one is not None
        )
        options = (*shared, *selinux.label_options(host.security_opt or ()))
        return selinux.labels(contexts, options, level)

    def cgroup(self, record: ContainerRecord) -> Cgroup:
        return self.cgroups.group(cgroup_path(record.host, record.id, self.settings.cgroup_parent))

    def set_state(self, slot: Slot, state: State, **changes: Any) -> ContainerRecord:
        """A new record with this state; in memory only (`store.save` writes it)."""
        record = replace(slot.record, state=state, **changes)
        self.store.replace(slot, record)
        return record

    def announce(self, record: ContainerRecord, action: str, extra: Mapping[str, str] | None = None) -> None:
        """Publish an event of the container, with Docker's attributes."""
        attributes = {**record.labels, "image": record.image, "name": record.name, **(extra or {})}
        self.events.publish("container", action, record.id, attributes)

    def announce_volumes(self, record: ContainerRecord, action: str) -> None:
        """Publish `mount` or `unmount` of every volume of the container, with Docker's attributes."""
        for point in record.mounts:
            if point.type != "volume":
                continue
            attributes = {"driver": self.volumes.driver(point.name), "container": record.id}
            if action == "mount":
                attributes |= {
                    "destination": point.destination,
                    "read/write": "true" if point.rw else "false",
                    "propagation": point.propagation,
                }
            self.events.publish("volume", action, point.name, attributes)


def log_driver(record: ContainerRecord, settings: Settings) -> tuple[str, dict[str, str]]:
    """(driver, options) of a container's log."""
    config = merge_log_config(record.host.log_config, settings)
    return config.type, config.config


def merge_log_config(config: LogConfig, settings: Settings) -> LogConfig:
    """With the engine's defaults: its driver, and its options unless another driver is chosen."""
    driver = config.type or settings.log_driver
    defaults = settings.log_options if driver == settings.log_driver else {}
    return LogConfig(driver, {**defaults, **config.config})
