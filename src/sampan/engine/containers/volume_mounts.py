"""The volumes of a container that have to be mounted: before its start, until after its end.

They are mounted on the host; the container gets clones of these mounts, with its request. The launcher's own mount
namespace need not have them, and no path is looked up twice.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack

from msgspec.structs import replace

from sampan.engine.containers.base import Parts
from sampan.engine.model import ContainerRecord, MountPoint
from sampan.errors import Internal, NotFound, SampanError
from sampan.linux import detached, mount
from sampan.linux.paths import open_in_root
from sampan.oci.digest import Digest
from sampan.oci.rootfs import RootAssembly

log = logging.getLogger(__name__)


class VolumeMounts:
    def __init__(self, parts: Parts) -> None:
        self._volumes = parts.volumes

    def wanted(self, record: ContainerRecord) -> dict[str, None]:
        """Names of its volumes that have to be mounted, in order."""
        names = dict.fromkeys(point.name for point in record.mounts if point.type == "volume")
        return {name: None for name in names if self._needs_mount(name)}

    def _needs_mount(self, name: str) -> bool:
        return self._volumes.find(name) is not None and self._volumes.needs_mount(name)

    async def mount(self, record: ContainerRecord) -> ContainerRecord:
        """The record with the places where they are now. When it fails, none stays mounted for this container."""
        places: dict[str, str] = {}
        try:
            for name in self.wanted(record):
                places[name] = str(await self._volumes.mount(name, record.id))
        except BaseException:
            await self.unmount(record)
            raise
        if not places:
            return record
        points = tuple(
            replace(point, source=os.path.join(places[point.name], point.subpath).rstrip("/"))
            if point.name in places
            else point
            for point in record.mounts
        )
        return replace(record, mounts=points)

    async def unmount(self, record: ContainerRecord) -> None:
        """What can't be unmounted is logged: the container has ended all the same. Idempotent."""
        for name in self.wanted(record):
            try:
                await self._volumes.unmount(name, record.id)
            except (SampanError, OSError) as error:
                log.warning("volume %s of container %s could not be unmounted: %s", name, record.id, error)

    def adopt(self, record: ContainerRecord) -> None:
        """The container runs since an earlier engine's time."""
        for name in self.wanted(record):
            self._volumes.adopt(name, record.id)


class GivenMounts:
    """A context manager: `record` with mounts that are given as `trees` (detached mounts). Blocking."""

    def __init__(self, parts: Parts, record: ContainerRecord) -> None:
        self._parts = parts
        self._volumes = parts.volumes
        self.trees: list[int] = []
        self.record = record
        self._stack = ExitStack()

    def __enter__(self) -> GivenMounts:
        """Raises `NotFound` for a sub path that is not there."""
        try:
            points = tuple(self._given(point) for point in self.record.mounts)
        except BaseException:
            self._stack.close()
            raise
        if self.trees:
            self.record = replace(self.record, mounts=points)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _given(self, point: MountPoint) -> MountPoint:
        if point.type == "image":
            return self._give(point, self._image(point))
        if point.type != "volume" or self._volumes.find(point.name) is None:
            return point
        if not self._volumes.needs_mount(point.name):
            return point
        return self._give(point, self._tree(point))

    def _give(self, point: MountPoint, tree: int) -> MountPoint:
        self._stack.callback(os.close, tree)
        self.trees.append(tree)
        return replace(point, given=len(self.trees) - 1, source=point.source or point.name, subpath="")

    def _image(self, point: MountPoint) -> int:
        root = open_layers(self._parts, point.layers)
        try:
            found = open_subpath(root, point.subpath, point.name)
            try:
                return detached.clone(found, root)
            finally:
                os.close(found)
        finally:
            os.close(root)

    def _tree(self, point: MountPoint) -> int:
        place = point.within or point.source
        try:
            top = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            # A plugin can name any place.
            raise Internal(
                f"error mounting {place!r} to rootfs at {point.destination!r}: "
                f"{os.strerror(error.errno or errno.EIO).lower()}"
            ) from error
        try:
            found = open_subpath(top, point.subpath, point.within)
            try:
                return mount.clone_tree(found, recursive=True)
            finally:
                os.close(found)
        finally:
            os.close(top)


def open_layers(parts: Parts, layers: Sequence[str]) -> int:
    """A descriptor of a detached mount of an image's layers, from the base up. Raises `NotFound`."""
    mounts = tuple(parts.layers.mount_of(Digest(layer)) for layer in layers)
    return parts.launcher.open_root(RootAssembly(mounts))


def open_subpath(top: int, subpath: str, whole: str) -> int:
    """What lies at a path in the directory `top`, symbolic links resolved as if that were the root directory.

    `whole`: what messages call `top`. Raises `NotFound`.
    """
    try:
        return open_in_root(top, subpath or ".", os.O_PATH)
    except OSError as error:
        raise NotFound(
            f"cannot access path {whole}/{subpath}: {os.strerror(error.errno or errno.EIO).lower()}"
        ) from error
