"""An image of what a container has changed (commit)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass

from msgspec.structs import replace

from sampan.engine.config import ContainerConfig, words
from sampan.engine.containers.base import Parts
from sampan.engine.containers.files import engine_places
from sampan.engine.model import ContainerRecord, now
from sampan.errors import Invalid, NotFound
from sampan.oci.digest import Digest
from sampan.oci.image import ContainerDefaults, History, ImageConfig
from sampan.oci.reference import Reference, parse_reference
from sampan.storage.layer_blobs import write_layer
from sampan.storage.tar_writer import write_tree


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """`config` None: the container's own configuration. `name` is repository and tag, "" for none."""

    name: str = ""
    author: str = ""
    comment: str = ""
    pause: bool = True
    config: ContainerConfig | None = None
    changes: tuple[str, ...] = ()
    """Dockerfile instructions for the new image's configuration."""


class Committing:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def commit(self, reference: str, request: CommitRequest) -> str:
        """The id of the new image. Raises `NotFound`, `Invalid`."""
        slot = self._parts.store.find(reference)
        name = parse_reference(request.name).with_default_tag() if request.name else None
        if name is not None and name.digest is not None:
            raise Invalid("refusing to create a tag with a digest reference")
        async with slot.lock:
            if self._parts.store.get(slot.record.id) is not slot:
                raise NotFound(f"No such container: {reference}")
            record = slot.record
            group = self._parts.cgroup(record)
            freeze = request.pause and record.state.status == "running"
            if freeze:
                try:
                    await asyncio.to_thread(group.freeze)
                except NotFound:
                    freeze = False  # it has just ended, nothing writes any more
            try:
                image_id = await asyncio.to_thread(self._commit, record, request, name)
            finally:
                if freeze:
                    with contextlib.suppress(NotFound):  # killed meanwhile
                        await asyncio.to_thread(group.thaw)
        attributes = {"comment": request.comment, "imageID": str(image_id)}
        if name is not None:
            self._parts.events.publish("image", "tag", image_id, {"name": name.familiar})
            attributes["imageRef"] = name.familiar
        self._parts.announce(record, "commit", attributes)
        return image_id

    def _commit(self, record: ContainerRecord, request: CommitRequest, name: Reference | None) -> Digest:
        parts = self._parts
        base = parts.images.get(record.image_id).config
        places = frozenset(place.lstrip("/") for place in engine_places(record))

        def exclude(entry: str) -> bool:
            return entry.rstrip("/") in places

        upper = os.open(parts.snapshots.upper(record.id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with parts.images.no_collection():
                layer = write_layer(
                    parts.images, lambda out: write_tree(upper, out, overlay=True, exclude=exclude)
                )
                config = committed_config(base, record, request, layer.diff_id, now())
                image = parts.images.create(config)
        finally:
            os.close(upper)
        if name is not None:
            parts.images.tag(image.id, name)
        return image.id


def committed_config(
    base: ImageConfig, record: ContainerRecord, request: CommitRequest, layer: Digest, created: str
) -> ImageConfig:
    """The configuration of the new image. Pure."""
    from sampan.engine.changes import apply_changes  # and with it the Dockerfile's language

    chosen = request.config or record.config
    entry = History(
        created=created,
        created_by=" ".join(record.config.argv),
        author=request.author or None,
        comment=request.comment or None,
    )
    return replace(
        base,
        created=created,
        author=request.author or base.author,
        config=apply_changes(_defaults(chosen, record.config), request.changes),
        rootfs=replace(base.rootfs, diff_ids=(*base.rootfs.diff_ids, layer)),
        history=(*(base.history or ()), entry),
    )


def _defaults(chosen: ContainerConfig, own: ContainerConfig) -> ContainerDefaults:
    """What was given wins, the container's configuration fills the rest."""
    return ContainerDefaults(
        user=chosen.user or own.user,
        exposed_ports=chosen.exposed_ports or own.exposed_ports,
        env=chosen.env or own.env,
        entrypoint=words(chosen.entrypoint) or words(own.entrypoint) or None,
        cmd=words(chosen.cmd) or words(own.cmd) or None,
        volumes=chosen.volumes or own.volumes,
        working_dir=chosen.working_dir or own.working_dir,
        labels={**(own.labels or {}), **(chosen.labels or {})} or None,
        stop_signal=chosen.stop_signal or own.stop_signal,
        healthcheck=chosen.healthcheck or own.healthcheck,
        on_build=chosen.on_build,
        shell=chosen.shell or own.shell,
    )
