"""The composition root: builds every object of the engine, and takes them down again."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sampan.api import build_cache as build_cache_api
from sampan.api import build_sessions as build_sessions_api
from sampan.api import build_shells as build_shells_api
from sampan.api import builds as builds_api
from sampan.api import containers as containers_api
from sampan.api import execs as execs_api
from sampan.api import images as images_api
from sampan.api import networks as networks_api
from sampan.api import system as system_api
from sampan.api import volume_backup as volume_backup_api
from sampan.api import volumes as volumes_api
from sampan.api.messages import AnyResponse, Request
from sampan.api.router import Router
from sampan.build.solver.cache import BuildCache, MetadataTable
from sampan.daemon.remap import check_kernel, with_id_maps
from sampan.engine import apparmor, selinux
from sampan.engine.build_cache import BuildCacheKeeper
from sampan.engine.build_contexts import KNOWN_FILES
from sampan.engine.builds import Builds, MakeTools
from sampan.engine.cache_mounts import CacheMounts
from sampan.engine.cache_use import CacheUse
from sampan.engine.containers import Containers, ContainerStore, Parts
from sampan.engine.engine import Engine
from sampan.engine.events import EventBus
from sampan.engine.host_facts import HostFacts
from sampan.engine.images import Images
from sampan.engine.model import new_id
from sampan.engine.networks.service import Networks
from sampan.engine.security import announced
from sampan.engine.settings import Settings
from sampan.engine.system import Counts, System
from sampan.engine.volume_backup import STILL_NOTES
from sampan.engine.volumes.service import Volumes
from sampan.errors import SampanError
from sampan.linux import cgroups
from sampan.linux.cgroups.features import available_cpuset, detect_features
from sampan.linux.filesystems import mounts_erofs_images
from sampan.network.dns import NameServer
from sampan.network.host import NetworkHost
from sampan.network.model import HostPolicy, PublishMode
from sampan.network.watch import RulesetWatch
from sampan.oci.digest import Digest
from sampan.runtime.launcher_client import LauncherClient
from sampan.storage.content import ContentStore
from sampan.storage.image_model import Use
from sampan.storage.images import ImageStore
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata, Table
from sampan.storage.snapshots import SnapshotStore

if TYPE_CHECKING:
    from sampan.daemon.cluster import Membership, Underlay
    from sampan.engine.volume_backup.service import VolumeBackups

log = logging.getLogger(__name__)

ORPHAN_AGE = 24 * 3600
"""Seconds: layers and blobs that nobody refers to are kept this long, for a pull that is tried again."""

LAUNCHER = (sys.executable, "-m", "sampan.daemon.launcher")

ROUTES = (
    *system_api.ROUTES,
    *images_api.ROUTES,
    *builds_api.ROUTES,
    *build_cache_api.ROUTES,
    *build_sessions_api.ROUTES,
    *build_shells_api.ROUTES,
    *containers_api.ROUTES,
    *execs_api.ROUTES,
    *volumes_api.ROUTES,
    *volume_backup_api.ROUTES,
    *networks_api.ROUTES,
)


@dataclass(frozen=True, slots=True)
class Stores:
    """What is on disk."""

    metadata: Metadata
    content: ContentStore
    layers: LayerStore
    snapshots: SnapshotStore
    images: ImageStore
    cache: BuildCache


class Assembled:
    """A whole engine. `recover` before the first request, `close` at the end."""

    def __init__(
        self,
        engine: Engine,
        stores: Stores,
        launcher: LauncherClient,
        host: NetworkHost,
        names: NameServer,
        membership: Membership | None = None,
    ) -> None:
        self.engine = engine
        self._stores = stores
        self._launcher = launcher
        self._host = host
        self._names = names
        self._membership = membership
        self._watch = RulesetWatch(host)
        self._router = Router(ROUTES)
        self._collecting: asyncio.Task[None] | None = None

    async def dispatch(self, request: Request) -> AnyResponse:
        request.version, path = self._router.split_version(request.path)
        handler, request.match = self._router.resolve(request.method, path)
        return await handler(self.engine, request)

    async def recover(self) -> None:
        """Find what an earlier engine left: containers, networks; sweep up what it could not finish."""
        await self.engine.networks.setup()
        if self._membership is not None:
            await self._membership.start()
        await self.engine.containers.recover()
        if self._membership is not None:
            await self._membership.cluster.complete()
        await self._wake_users()
        for image in await asyncio.to_thread(self._stores.images.forget_lost):
            log.warning("image %s is lost: the host went down before its layers were on disk", image)
        self._watch.start()
        self._collecting = asyncio.create_task(self.engine.builds.collect_garbage())
        await asyncio.to_thread(self._stores.images.collect, min_age=ORPHAN_AGE)

    async def _wake_users(self) -> None:
        """Containers that a backup kept still when an earlier engine died go on."""
        if await asyncio.to_thread(self._stores.metadata.items, Table.SETTINGS, STILL_NOTES):
            await self.engine.volume_backups().recover()

    async def close(self) -> None:
        """The containers run on. With none running, nothing of this engine stays on the host's network."""
        running = any(record.running for record in self.engine.containers.records())
        async with (
            AsyncExitStack() as ending
        ):  # from the last to the first, each whatever becomes of the others
            ending.callback(self._stores.metadata.close)
            ending.push_async_callback(asyncio.to_thread, self._stores.layers.settle)
            ending.push_async_callback(asyncio.to_thread, self._launcher.close)
            leave_host = self._host.close if running else self._leave_host
            ending.push_async_callback(asyncio.to_thread, leave_host)
            ending.push_async_callback(self._watch.close)
            ending.push_async_callback(self._names.close, stop=not running)
            if self._membership is not None:
                ending.push_async_callback(self._membership.close, leave=not running)
            ending.push_async_callback(self.engine.containers.close)
            ending.push_async_callback(self._end_collecting)

    async def _end_collecting(self) -> None:
        """A collection under way ends first: it uses the database."""
        if self._collecting is not None:
            self._collecting.cancel()
            await asyncio.gather(self._collecting, return_exceptions=True)

    def _leave_host(self) -> None:
        self._host.teardown()
        parent = cgroups.detect().group(self.engine.settings.cgroup_parent)
        try:
            parent.remove()
        except SampanError as error:
            # Somebody put other processes below it: that is theirs.
            log.warning("control group %s stays: %s", self.engine.settings.cgroup_parent, error)


def open_stores(settings: Settings) -> Stores:
    """Raises `Conflict` when another daemon uses the root."""
    metadata = Metadata(settings.root)
    content = ContentStore(settings.root / "content")
    content.sweep()
    layers = LayerStore(settings.root / "layers", prefer=layer_kind())
    layers.sweep()
    snapshots = SnapshotStore(settings.root / "snapshots", layers)
    images = ImageStore(content, layers, metadata)
    cache = BuildCache(MetadataTable(metadata), layers.has)
    return Stores(metadata, content, layers, snapshots, images, cache)


async def assemble(settings: Settings) -> Assembled:
    settings = await asyncio.to_thread(with_id_maps, settings)
    stores = await asyncio.to_thread(open_stores, settings)
    launcher = await asyncio.to_thread(LauncherClient.start, settings.run / "launcher", LAUNCHER)
    await asyncio.to_thread(check_kernel, settings, launcher)
    place = await asyncio.to_thread(_place, settings)
    host = NetworkHost(
        settings.instance,
        mode=PublishMode(settings.port_mode),
        policy=HostPolicy(
            settings.rules, settings.ip_forward, rules6=settings.rules6, direct=settings.direct_routing
        ),
        overlay_address=place.address if place else "",
    )
    names = NameServer(settings.run)
    control_groups = cgroups.detect()
    facts = await asyncio.to_thread(_host_facts, control_groups, settings)
    events = EventBus()
    volumes = Volumes(settings.root / "volumes", stores.metadata, events, settings.plugin_dir)
    engine_id = _engine_id(stores.metadata)
    networks = Networks(settings, stores.metadata, host, events, owner=engine_id)
    membership = _membership(settings, place, engine_id, host)
    if membership is not None:
        networks.join(membership.cluster)
    images = Images(stores.images, settings, events)
    containers = Containers(
        Parts(
            settings=settings,
            metadata=stores.metadata,
            store=ContainerStore(stores.metadata),
            events=events,
            images=stores.images,
            layers=stores.layers,
            snapshots=stores.snapshots,
            volumes=volumes,
            networks=networks,
            network_host=host,
            names=names,
            launcher=launcher,
            cgroups=control_groups,
            facts=facts,
        )
    )
    _connect_images(stores, images, containers, launcher)
    builds = _builds(settings, stores, images, containers, launcher)

    def counts() -> Counts:
        return Counts(*containers.counts(), stores.images.count())

    system = System(
        settings,
        _engine_id(stores.metadata),
        control_groups,
        counts,
        layer_kind=layer_kind(),
        volume_drivers=volumes.driver_names,
        security_options=announced(settings, facts),
        cluster=lambda: networks.cluster.facts() if networks.cluster is not None else None,
    )
    backups = _volume_backups(settings, stores, volumes, containers, images, events)
    engine = Engine(
        settings, events, containers, containers.execs, images, volumes, networks, builds, system, backups
    )
    return Assembled(engine, stores, launcher, host, names, membership)


def _place(settings: Settings) -> Underlay | None:
    """Blocking: this host in its cluster, if it is in one."""
    if settings.cluster is None:
        return None
    from sampan.daemon.cluster import underlay  # what only an engine in a cluster needs

    return underlay(settings.cluster)


def _membership(
    settings: Settings, place: Underlay | None, engine_id: str, host: NetworkHost
) -> Membership | None:
    if settings.cluster is None or place is None:
        return None
    from sampan.daemon.cluster import Membership

    return Membership(settings, settings.cluster, place, engine_id, host)


def _volume_backups(
    settings: Settings,
    stores: Stores,
    volumes: Volumes,
    containers: Containers,
    images: Images,
    events: EventBus,
) -> Callable[[], VolumeBackups]:
    @functools.cache
    def backups() -> VolumeBackups:
        from sampan.engine.volume_backup.service import VolumeBackups

        return VolumeBackups(settings.root / "volumes", volumes, containers, images, stores.metadata, events)

    return backups


def _connect_images(stores: Stores, images: Images, containers: Containers, launcher: LauncherClient) -> None:
    def layer_roots(without: Collection[str] = ()) -> set[Digest]:
        records = [record for record in containers.records() if record.id not in without]
        used = {Digest(layer) for record in records for layer in record.needed_layers}
        return used | containers.unreadable.digests(tuple(without)) | stores.cache.layers()

    def uses(image_id: Digest) -> list[Use]:
        lost = [Use(container_id, running=False) for container_id in containers.unreadable.naming(image_id)]
        return [Use(record.id, record.running) for record in containers.image_users(image_id)] + lost

    stores.images.layer_roots = layer_roots
    images.layer_roots = layer_roots
    stores.images.release = launcher.release_layers
    images.uses = uses
    images.unknown = containers.unreadable.unknown


def layer_kind() -> Literal["erofs", "dir"]:
    """EROFS images where this kernel mounts them, else directories."""
    return "erofs" if mounts_erofs_images() else "dir"


def _builds(
    settings: Settings, stores: Stores, images: Images, containers: Containers, launcher: LauncherClient
) -> Builds:
    loop = asyncio.get_running_loop()
    use = CacheUse()
    mounts = CacheMounts(settings.root / "caches", stores.metadata, use.__contains__)
    mounts.sweep()

    def tools() -> MakeTools:
        from sampan.daemon.build_tools import BuildTools  # most of the builder, which takes long to import

        made = BuildTools(
            images,
            stores.metadata,
            stores.snapshots,
            launcher,
            containers.build_steps,
            mounts,
            loop,
        )
        return made.make

    builds, small = settings.root / "builds", settings.run / "builds"
    cache = BuildCacheKeeper(
        stores.cache,
        mounts,
        stores.images,
        stores.metadata,
        use,
        settings.builder_gc,
        settings.root,
        builds.with_name(KNOWN_FILES),
    )
    hold = stores.images.holding
    return Builds(
        builds,
        small,
        tools,
        cache,
        hold,
        images.announce_tags,
        settings.builder_entitlements,
        settings.proxies,
    )


def _host_facts(control_groups: cgroups.CgroupHost, settings: Settings) -> HostFacts:
    cpus = os.cpu_count() or 1
    cpuset, nodes = available_cpuset(control_groups)
    return HostFacts(
        cpus,
        cpuset or f"0-{cpus - 1}",
        nodes or "0",
        detect_features(control_groups),
        cgroup_namespace=(
            settings.default_cgroupns_mode or ("private" if control_groups.layout == "v2" else "")
        )
        == "private",
        ipc_mode=settings.default_ipc_mode,
        selinux=selinux.find_contexts(settings.selinux_enabled),
        apparmor=apparmor.prepare(),
        runtimes=frozenset({"sampan", *settings.runtimes}),
        default_runtime=settings.default_runtime,
        remapped=settings.id_maps is not None,
    )


def _engine_id(metadata: Metadata) -> str:
    known = metadata.get(Table.SETTINGS, "engine-id")
    if known is None:
        known = new_id().encode()
        metadata.put(Table.SETTINGS, "engine-id", known)
    return known.decode()
