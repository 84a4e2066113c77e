"""What an image is, as a value; what is stored of it; what lists and reports show. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from sampan.oci.digest import Digest
from sampan.oci.image import ImageConfig
from sampan.oci.manifest import Descriptor
from sampan.oci.reference import Reference

MISSING = "<missing>"


class ImageRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The stored form. Raw documents are text, since both are JSON; `tagged_at` in ns since the epoch."""

    config: str
    manifest: str = ""
    manifest_descriptor: Descriptor | None = None
    tagged_at: int = 0
    parent: str = ""


class BlobRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The compressed form of a layer, and the repositories that are known to have it."""

    descriptor: Descriptor
    repositories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """`size` is the bytes of the layers' file content. `tags` and `digests` are full references, sorted.

    `parent` is the id of the image that this one was built on here, "" when it came from elsewhere.
    """

    id: Digest
    config: ImageConfig
    config_raw: bytes
    manifest_raw: bytes
    manifest_descriptor: Descriptor | None
    size: int
    tags: tuple[Reference, ...]
    digests: tuple[Reference, ...]
    parent: str = ""
    tagged_at: int = 0
    part_of: tuple[Reference, ...] = ()
    """Names of indexes that it is in for another platform than the one that the name alone means."""

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        return self.config.rootfs.diff_ids

    @property
    def dangling(self) -> bool:
        return not self.tags and not self.part_of

    @property
    def created(self) -> float:
        return created_seconds(self.config)


@dataclass(frozen=True, slots=True)
class Use:
    """A container that uses an image."""

    container_id: str
    running: bool


@dataclass(frozen=True, slots=True)
class Removal:
    """What was removed, in the order in which it happened.

    `untagged`: names in their familiar form; `deleted`: ids of images; `chains`: the chain ids (image-spec
    config.md) that no image has any more, which is what Docker reports of layers; `layers`: diff-ids of layers whose
    data is gone; `freed`: bytes; `owners`: the id of the image that each of `untagged` was a name of.
    """

    untagged: tuple[str, ...] = ()
    deleted: tuple[Digest, ...] = ()
    chains: tuple[Digest, ...] = ()
    layers: tuple[Digest, ...] = ()
    freed: int = 0
    owners: tuple[Digest, ...] = ()

    def records(self) -> list[dict[str, str]]:
        """Docker's answer to DELETE /images/{name}."""
        return [
            *({"Untagged": name} for name in self.untagged),
            *({"Deleted": str(digest)} for digest in (*self.deleted, *self.chains)),
        ]

    def __add__(self, other: Removal) -> Removal:
        return Removal(
            self.untagged + other.untagged,
            self.deleted + other.deleted,
            self.chains + other.chains,
            self.layers + other.layers,
            self.freed + other.freed,
            self.owners + other.owners,
        )


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """A line of `docker history`. `id` is `MISSING` for a step whose image is not here; `created` in seconds."""

    id: str
    created: float
    created_by: str
    tags: tuple[str, ...]
    size: int
    comment: str


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """Bytes of one image's layers: those other images have too, and all."""

    image: Image
    shared: int


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """`layers_size`: bytes of all images' layers, each counted once."""

    layers_size: int
    images: tuple[ImageUsage, ...]


def chain_ids(diff_ids: Sequence[Digest]) -> tuple[Digest, ...]:
    """The chain id of every prefix of the layers, the base's first (image-spec config.md, "Layer ChainID")."""
    chains: list[Digest] = []
    for diff_id in diff_ids:
        if not chains:
            chains.append(diff_id)
            continue
        text = f"{chains[-1]} {diff_id}".encode()
        chains.append(Digest("sha256:" + hashlib.sha256(text).hexdigest()))
    return tuple(chains)


def created_seconds(config: ImageConfig) -> float:
    """Seconds since the epoch; 0 when the image does not say."""
    return _seconds(config.created)


def _seconds(text: str | None) -> float:
    try:
        return max(datetime.fromisoformat(text).timestamp(), 0.0) if text else 0.0
    except (ValueError, OverflowError):
        return 0.0


def history_of(
    image: Image, layer_sizes: Sequence[int], ancestors: dict[int, tuple[str, tuple[str, ...]]]
) -> list[HistoryItem]:
    """Newest first. `layer_sizes` in the order of the diff-ids.

    `ancestors`: for the images of earlier steps that are here, number of steps -> id and tags.
    """
    items: list[HistoryItem] = []
    layer = 0
    steps = image.config.history or ()
    for number, step in enumerate(steps, 1):
        size = 0
        if not step.empty_layer and layer < len(layer_sizes):
            size = layer_sizes[layer]
            layer += 1
        name, tags = ancestors.get(number, (MISSING, ()))
        if number == len(steps):
            name, tags = image.id, tuple(tag.familiar for tag in image.tags)
        items.append(
            HistoryItem(name, _seconds(step.created), step.created_by or "", tags, size, step.comment or "")
        )
    return items[::-1]


def disk_usage_of(images: Sequence[Image], size_of: dict[Digest, int]) -> DiskUsage:
    """What the images' layers take, `size_of` by diff-id; layers are shared by chain, as Docker counts."""
    users: dict[Digest, int] = {}
    chain_size: dict[Digest, int] = {}
    for image in images:
        for chain, diff_id in zip(chain_ids(image.diff_ids), image.diff_ids, strict=True):
            users[chain] = users.get(chain, 0) + 1
            chain_size[chain] = size_of.get(diff_id, 0)
    usages = tuple(
        ImageUsage(image, sum(chain_size[chain] for chain in chain_ids(image.diff_ids) if users[chain] > 1))
        for image in images
    )
    return DiskUsage(sum(size_of.get(one, 0) for one in {d for i in images for d in i.diff_ids}), usages)
