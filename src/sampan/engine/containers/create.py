"""Making a container: checks, names, mounts, volumes, snapshot, record.

Order of what is written, so that a crash at any point leaves either nothing that is visible or a whole container:
volumes (the anonymous ones go at the next start when there is no such container), the snapshot and the container's
directory (swept at the next start when no record names them), the record.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from sampan.engine import health, merge, mounts, names, ports, restart, security, selinux, validate
from sampan.engine.config import (
    ContainerConfig,
    CreateBody,
    EndpointSettings,
    HostConfig,
    VolumeOptions,
    words,
)
from sampan.engine.containers.base import ImageView, Parts, merge_log_config
from sampan.engine.containers.ownership import permission_warnings
from sampan.engine.copy_tree import copy_tree, is_empty
from sampan.engine.default_spec import normalise_capabilities
from sampan.engine.model import (
    ContainerRecord,
    Endpoint,
    MountPoint,
    NetworkRecord,
    VolumeRecord,
    new_id,
    now,
)
from sampan.engine.settings import Settings
from sampan.engine.validate import container_of
from sampan.errors import Conflict, Internal, Invalid, NotFound, SampanError, Unsupported
from sampan.linux.binfmt import host_architecture
from sampan.linux.paths import open_in_root
from sampan.oci.digest import Digest
from sampan.oci.manifest import Platform
from sampan.oci.rootfs import RootAssembly
from sampan.registry.choice import choose_image
from sampan.registry.platforms import parse_platform
from sampan.storage.image_model import Image
from sampan.storage.packing import platform_of_image
from sampan.storage.removal import remove_tree


class Creator:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def create(self, name: str, body: CreateBody, platform: str = "") -> tuple[str, list[str]]:
        """(id, warnings). Raises `Invalid`, `NotFound`, `Conflict` in Docker's words.

        `platform`: `os/architecture[/variant]` that the image must be for.
        """
        parts = self._parts
        container_id = new_id()
        if name:
            name = names.check_name(name)
        if not body.image:
            raise Invalid("Config cannot be empty in order to create a container")
        image = await asyncio.to_thread(self._image, body.image, platform)
        unasked = [] if platform else platform_warnings(image)
        config = self._config(body, image, container_id)
        merged = merge_log_config(body.host_config.log_config, parts.settings)
        asked = replace(with_default_limits(body.host_config, parts.settings), log_config=merged)
        host, warnings = validate.check_host(asked, parts.facts)
        warnings = [*unasked, *warnings]
        validate.check_joined(body.config(), host)
        security.parse_security(host.security_opt or ())
        host = replace(
            host,
            cap_add=normalise_capabilities("CapAdd", words(host.cap_add)) or None,
            cap_drop=normalise_capabilities("CapDrop", words(host.cap_drop)) or None,
        )
        ports.requested(config, host)
        config = replace(config, exposed_ports=ports.exposed(config, host) or None)
        host = selinux.with_default_options(self._resolve_modes(host))
        endpoints = self._endpoints(host, body, config)
        self._check_links(host)
        restart.check_unhealthy(host.restart_policy, host.restart_unhealthy, body.labels or {})
        if host.restart_unhealthy and not health.command_of(config.healthcheck, config.shell):
            warnings.append("The container has no health check: --restart-unhealthy has no effect.")
        name = name or names.generate(parts.store.names)
        parts.store.reserve_name(name, container_id)
        try:
            points = self._points(config, host)
            labels = parts.labels(host)
            record = ContainerRecord(
                container_id,
                name,
                now(),
                image.id,
                body.image,
                tuple(image.diff_ids),
                config,
                host,
                points,
                endpoints,
                process_label=labels[0],
                mount_label=labels[1],
                restart_label=restart.asked_by_label(body.labels or {}),
            )
            with parts.images.hold(Digest(layer) for layer in record.needed_layers):
                if any(point.type == "bind" for point in points):
                    warnings = [*warnings, *await asyncio.to_thread(permission_warnings, parts, record)]
                record = await self._make(record)
        except BaseException:
            parts.store.release_name(name, container_id)
            raise
        parts.announce(record, "create")
        return container_id, warnings

    def _image(self, name: str, platform: str) -> Image:
        images = self._parts.images
        return (
            fitting(name, images.variants(name), parse_platform(platform)) if platform else images.get(name)
        )

    def _config(self, body: CreateBody, image: ImageView, container_id: str) -> ContainerConfig:
        config = merge.merge(body.config(), image.config.defaults)
        validate.check_config(config)
        joined = container_of(body.host_config.network_mode)
        if joined and not config.hostname:
            other = self._other(joined).config
            config = replace(config, hostname=other.hostname, domainname=other.domainname)
        if not config.hostname:
            # With the host's network a container has its name too.
            own = os.uname().nodename if body.host_config.network_mode == "host" else container_id[:12]
            config = replace(config, hostname=own)
        return config

    def _resolve_modes(self, host: HostConfig) -> HostConfig:
        """Names of other containers become ids, so that a renamed container is still found."""
        changes: dict[str, Any] = {}
        for field in ("network_mode", "pid_mode", "ipc_mode"):
            other = container_of(getattr(host, field))
            if other == "":
                kind = "network" if field == "network_mode" else "PID"
                raise Invalid(f"Invalid {kind} mode: invalid container format container:<name|id>")
            if other is not None:
                changes[field] = f"container:{self._other(other).id}"
        if host.security_opt is None and (host.privileged or "host" in (host.ipc_mode, host.pid_mode)):
            # Docker's way of leaving these containers without an SELinux label; shown on every host.
            changes["security_opt"] = ("label=disable",)
        return replace(host, **changes)

    def _check_links(self, host: HostConfig) -> None:
        for link in host.links or ():
            name = link.partition(":")[0]
            try:
                self._parts.store.find(name)
            except NotFound as error:
                raise Invalid(f"could not get container for {name}: {error.message}") from error

    def _other(self, name: str) -> ContainerRecord:
        """Another container that this one speaks of.

        `Invalid` when there is none: a client takes "not found" here for a missing image, and pulls it.
        """
        try:
            return self._parts.store.find(name).record
        except NotFound as error:
            raise Invalid(error.message) from error

    def _check_endpoint(self, record: NetworkRecord, asked: EndpointSettings) -> None:
        try:
            self._parts.networks.check_endpoint(record, asked)
        except Invalid as error:
            raise Invalid(f"invalid config for network {record.name}: {error.message}") from error

    def _network(self, name: str) -> NetworkRecord:
        """As `_other`, for a network; `default` is what a container gets of which nothing is said."""
        try:
            return self._parts.networks.find("bridge" if name == "default" else name)
        except NotFound as error:
            raise Invalid(error.message) from error

    def _endpoints(self, host: HostConfig, body: CreateBody, config: ContainerConfig) -> dict[str, Endpoint]:
        """The networks of a new container, by name."""
        asked = dict(body.networking_config.endpoints_config)
        mode = "none" if config.network_disabled else host.network_mode
        if container_of(mode) is not None:
            if asked:
                raise Invalid(
                    "conflicting options: cannot attach both user-defined and container network-modes"
                )
            return {}
        if mode in ("default", "bridge") and self._parts.networks.default is None:
            main = NetworkRecord("", "bridge", "", "bridge", predefined=True)
        else:
            main = self._network(mode)
        own = asked.pop(mode, None) or asked.pop(main.name, None) or asked.pop(main.id, None)
        chosen = own or EndpointSettings()
        if config.mac_address and not chosen.mac_address:
            chosen = replace(chosen, mac_address=config.mac_address)
        found = {main.name: Endpoint(main.id, chosen)}
        self._check_endpoint(main, chosen)
        for name, settings in asked.items():
            record = self._network(name)
            if main.driver in ("host", "null") or record.driver in ("host", "null"):
                raise Invalid(
                    "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
                )
            self._check_endpoint(record, settings)
            found[record.name] = Endpoint(record.id, settings)
        return found

    def _points(self, config: ContainerConfig, host: HostConfig) -> tuple[MountPoint, ...]:
        inherited: list[MountPoint] = []
        for spec in host.volumes_from or ():
            other, read_only = mounts.parse_volumes_from(spec)
            inherited += mounts.inherit(self._other(other).mounts, read_only=read_only)
        points = mounts.collect(host, config.volumes or {}, inherited)
        points = tuple(self._with_image(point, host) if point.type == "image" else point for point in points)
        for point in points:
            # With -v a missing source is made at start; with --mount it is a mistake to be told at once.
            if point.type == "bind" and not point.create and not os.path.lexists(point.source):
                raise Invalid(
                    f'invalid mount config for type "bind": bind source path does not exist: {point.source}'
                )
        return points

    def _with_image(self, point: MountPoint, host: HostConfig) -> MountPoint:
        """One that is inherited has its image already. Raises `Unsupported` where its ids could not be mapped."""
        if self._parts.settings.id_maps is not None and host.userns_mode != "host":
            raise Unsupported(
                "image mounts are not there for containers with a user namespace: overlayfs can't map ids",
                hint="--userns host",
            )
        if point.image:
            return point
        try:
            image = self._parts.images.get(point.name)
        except NotFound as error:
            raise Invalid(error.message) from error
        return replace(point, image=image.id, layers=tuple(image.diff_ids))

    async def _make(self, record: ContainerRecord) -> ContainerRecord:
        parts = self._parts
        made: list[VolumeRecord] = []
        try:
            with parts.volumes.holding() as held:
                record = replace(record, mounts=await self._volumes(record, made, held))
                await self._prepare(record)
                # A container that removes itself at its end is not worth a flush to the disk.
                await parts.store.insert(record, durable=not record.host.auto_remove)
        except BaseException:
            await asyncio.to_thread(self.discard, record.id)
            for volume in made:
                await parts.volumes.remove_unused(volume.name)
            raise
        return record

    async def _volumes(
        self, record: ContainerRecord, made: list[VolumeRecord], held: set[str]
    ) -> tuple[MountPoint, ...]:
        """The mount points with their volumes, which are made where they are missing."""
        asked = {
            request.target: request.volume_options
            for request in record.host.mounts or ()
            if request.volume_options is not None
        }
        points = []
        for point in record.mounts:
            if point.type != "volume":
                points.append(point)
                continue
            known = bool(point.name) and self._parts.volumes.find(point.name) is not None
            wanted = asked.get(point.destination) or VolumeOptions()
            try:
                volume = await self._parts.volumes.create(
                    point.name,
                    driver=point.driver,
                    labels=wanted.labels,
                    options=wanted.driver_config.options if wanted.driver_config else None,
                    owner="" if point.name else record.id,
                    hold=held,
                )
            except NotFound as error:
                raise Invalid(error.message) from error
            if not known:
                made.append(volume)
            source = str(self._parts.volumes.path(volume.name) / point.subpath)
            points.append(replace(point, name=volume.name, source=source, driver=volume.driver))
        return tuple(points)

    async def _prepare(self, record: ContainerRecord) -> None:
        """Directories, snapshot, contents of new volumes."""
        assembly = await asyncio.to_thread(self._make_directories, record)
        volumes = self._parts.volumes
        fill = [
            point for point in record.mounts if point.type == "volume" and point.copy and not point.subpath
        ]
        mounted = [point for point in fill if volumes.needs_mount(point.name)]
        plain = [point for point in fill if point not in mounted]
        if plain:
            await asyncio.to_thread(self._fill, assembly, plain)
        if mounted:
            # Only what the image has something for is mounted: a server that is away keeps nobody from the rest.
            for point in await asyncio.to_thread(self._offered, assembly, mounted):
                await self._fill_mounted(assembly, point)

    async def _fill_mounted(self, assembly: RootAssembly, point: MountPoint) -> None:
        user = new_id()
        try:
            place = await self._parts.volumes.mount(point.name, user)
        except SampanError as error:
            failure = type(error)(f"failed to populate volume: {error.message}", hint=error.hint)
            raise failure from error
        try:
            await asyncio.to_thread(self._fill, assembly, [replace(point, source=str(place))])
        finally:
            await self._parts.volumes.unmount(point.name, user)

    def _make_directories(self, record: ContainerRecord) -> RootAssembly:
        """Blocking. Returns what the image has."""
        parts = self._parts
        parts.directory(record.id).mkdir(mode=0o710, parents=True)
        assembly = parts.snapshots.create(record.id, record.layers)  # type: ignore[arg-type]
        # By this file programs tell that they run in one of Docker's containers.
        marker = parts.snapshots.upper(record.id) / ".dockerenv"
        os.close(os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755))
        os.chmod(marker, 0o755)
        return RootAssembly(layers=assembly.layers)

    def _offered(self, assembly: RootAssembly, points: Sequence[MountPoint]) -> list[MountPoint]:
        """Blocking: those for which the image has a directory."""
        found: list[MountPoint] = []
        root = self._parts.launcher.open_root(assembly)
        try:
            for point in points:
                try:
                    os.close(open_in_root(root, point.destination, os.O_PATH | os.O_DIRECTORY))
                except OSError:
                    continue
                found.append(point)
        finally:
            os.close(root)
        return found

    def _fill(self, assembly: RootAssembly, points: Sequence[MountPoint]) -> None:
        """Blocking: copy what the image has at the volumes' places into those that are empty, with owner and mode."""
        empty = [point for point in points if not any(os.scandir(point.source))]
        if not empty:
            return
        root = self._parts.launcher.open_root(assembly)
        try:
            for point in empty:
                try:
                    source = open_in_root(root, point.destination, os.O_RDONLY | os.O_DIRECTORY)
                except (NotFound, FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as error:
                    raise Internal(f"image path {point.destination}: {error.strerror}") from error
                try:
                    _copy_into(source, point)
                finally:
                    os.close(source)
        finally:
            os.close(root)

    def discard(self, container_id: str) -> None:
        """Blocking: remove what a container has on disk. Idempotent."""
        parts = self._parts
        parts.snapshots.remove(container_id)
        for directory in (parts.directory(container_id), parts.run_directory(container_id)):
            remove_tree(directory)


def platform_warnings(image: Image) -> list[str]:
    """Docker's words for an image of another platform than the host's."""
    own, host = platform_of_image(image), host_architecture()
    if own.architecture in ("", host):
        return []
    return [
        f"The requested image's platform ({own}) does not match the detected host platform (linux/{host}) "
        "and no specific platform was requested"
    ]


def fitting(reference: str, found: Sequence[Image], wanted: Platform) -> Image:
    """The image of that platform. Raises `NotFound`, upon which a client pulls the image for its platform."""
    chosen = choose_image(found, wanted)
    if chosen is None:
        raise NotFound(
            f"image with reference {reference} was found but does not match the specified platform: "
            f"wanted {wanted}, actual: {platform_of_image(found[0])}"
        )
    return chosen


def _copy_into(source: int, point: MountPoint) -> None:
    target = os.open(point.source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not is_empty(target):  # another container was faster
            return
        copy_tree(source, target)
    except FileExistsError as error:
        raise Conflict(f"volume {point.name} was being filled by another container") from error
    except OSError as error:
        raise Internal(
            f"could not copy {point.destination} of the image into volume {point.name}: {error.strerror}"
        ) from error
    finally:
        os.close(target)


def with_default_limits(host: HostConfig, settings: Settings) -> HostConfig:
    """With the engine's ulimits, and its size of /dev/shm, where the container has none of its own."""
    own = host.ulimits or ()
    added = tuple(one for one in settings.default_ulimits if one.name not in {each.name for each in own})
    return replace(
        host,
        ulimits=(*own, *added) if added else host.ulimits,
        shm_size=host.shm_size or settings.default_shm_size,
    )
