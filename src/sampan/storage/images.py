"""Images and their names, on top of content, layers and metadata.

An image's id is the digest of its configuration, as Docker's is. Its record holds the configuration and, for
an image that came from elsewhere, the manifest as it came, so that a push gives the same digest again. A
name (tag or digest) is a row of its own that points to an id. Both appear in one transaction, after all that they
need is complete on disk, and go in one before anything of it is removed.
"""

from __future__ import annotations

import builtins
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import msgspec

from sampan.errors import Conflict, Invalid, NotFound
from sampan.oci.digest import Digest, digest_of, hex_of
from sampan.oci.image import ImageConfig, encode_image_config, parse_image_config
from sampan.oci.manifest import Descriptor
from sampan.oci.reference import Reference, parse_reference
from sampan.storage.image_data import ORPHAN_AGE, Changes, ImageData
from sampan.storage.image_model import (
    DiskUsage,
    HistoryItem,
    Image,
    ImageRecord,
    Removal,
    Use,
    chain_ids,
    disk_usage_of,
    history_of,
)
from sampan.storage.image_removal import Plan, plan_removal
from sampan.storage.index_model import IndexRecord, Target, images_in, unnamed

__all__ = ["FindUses", "Image", "ImageStore", "Removal", "Use"]

FindUses = Callable[[Digest], Sequence[Use]]


def _no_uses(_image_id: Digest) -> Sequence[Use]:
    return ()


class ImageStore(ImageData):
    """Thread-safe. The working copy is in memory; the database is where it comes from after a restart."""

    # Looking up

    def get(self, name: str) -> Image:
        """By id, unique prefix of an id, name (tag "latest" if none) or name and digest.

        Raises `NotFound` and `Invalid` in Docker's words.
        """
        with self._lock:
            return self._image(self._resolve(name)[0].image)

    def find(self, name: str) -> Image | None:
        try:
            return self.get(name)
        except NotFound:
            return None

    def variants(self, name: str) -> builtins.list[Image]:
        """What `get` gives, then the images for other platforms that the name has beside it. Raises as `get`."""
        with self._lock:
            target = self._resolve(name)[0]
            record = self._indexes.get(target.index) if target.index else None
            others = [one for one in record.images() if one != target.image] if record else []
            return [
                self._image(one) for one in (target.image, *dict.fromkeys(others)) if one in self._records
            ]

    def index_of(self, name: str) -> tuple[Digest, IndexRecord] | None:
        """The index that a name points to and its digest; None for a single image, and for an unknown name."""
        with self._lock:
            try:
                index = self._resolve(name)[0].index
            except NotFound:
                return None
            return None if index is None else (index, self._indexes[index])

    def has(self, image_id: Digest) -> bool:
        return image_id in self._records

    def list(self) -> builtins.list[Image]:
        with self._lock:
            names = self._names_by_id()
            return [self._image(image_id, names.get(image_id, ())) for image_id in self._records]

    def count(self) -> int:
        return len(self._records)

    def _resolve(self, name: str) -> tuple[Target, Reference | None]:
        """What it points to, and the reference if it was found by name."""
        wanted = name.removeprefix("sha256:")
        if len(wanted) == 64:
            digest = Digest(f"sha256:{wanted}")
            if digest in self._records:
                return Target(digest), None
            if digest in self._indexes:
                return Target(self._indexes[digest].members[0].image, digest), None
        reference = _parse_or_none(name)
        if reference is not None:
            full = reference.with_default_tag()
            # A digest says it all: a tag beside it is only for people.
            key = f"{full.name}@{full.digest}" if full.digest else str(full)
            if key in self._names:
                return self._names[key], full
        if wanted and all(digit in "0123456789abcdef" for digit in wanted):
            found = [image_id for image_id in self._records if hex_of(image_id).startswith(wanted)]
            if len(found) == 1:
                return Target(found[0]), None
            if found:
                some = ", ".join(sorted(hex_of(one)[:12] for one in found)[:5])
                raise NotFound(
                    f"No such image: {_shown(name, reference)}",
                    hint=f"{len(found)} images have an id that begins so: {some}",
                )
        raise NotFound(f"No such image: {_shown(name, reference)}")

    def _image(self, image_id: Digest, names: Sequence[Reference] | None = None) -> Image:
        record, config = self._records[image_id]
        names = self._names_of(image_id) if names is None else names
        return Image(
            image_id,
            config,
            record.config.encode(),
            record.manifest.encode(),
            record.manifest_descriptor,
            sum(self._layer_size(diff_id) for diff_id in config.rootfs.diff_ids),
            tuple(sorted((name for name in names if name.digest is None), key=str)),
            tuple(sorted((name for name in names if name.digest is not None), key=str)),
            record.parent,
            record.tagged_at,
            self._part_of(image_id) if self._indexes else (),
        )

    def _part_of(self, image_id: Digest) -> tuple[Reference, ...]:
        return tuple(
            parse_reference(key)
            for key, target in sorted(self._names.items())
            if target.index and target.image != image_id and image_id in self._indexes[target.index].images()
        )

    def _names_of(self, image_id: Digest) -> builtins.list[Reference]:
        found = (parse_reference(key) for key, target in self._names.items() if target.image == image_id)
        return sorted(found, key=str)

    def _names_by_id(self) -> dict[Digest, builtins.list[Reference]]:
        found: dict[Digest, list[Reference]] = {}
        for key, target in self._names.items():
            found.setdefault(target.image, []).append(parse_reference(key))
        return found

    def children(self, image_id: Digest) -> tuple[Digest, ...]:
        """Images that were built here on this one."""
        with self._lock:
            return tuple(one for one, (record, _) in self._records.items() if record.parent == image_id)

    def history(self, name: str) -> builtins.list[HistoryItem]:
        """Newest first. Raises `NotFound`."""
        with self._lock:
            image = self.get(name)
            ancestors: dict[int, tuple[str, tuple[str, ...]]] = {}
            parent = Digest(image.parent)
            while parent in self._records:
                ancestor = self._image(parent)
                tags = tuple(tag.familiar for tag in ancestor.tags)
                ancestors[len(ancestor.config.history or ())] = (ancestor.id, tags)
                parent = Digest(ancestor.parent)
            return history_of(image, [self._layer_size(one) for one in image.diff_ids], ancestors)

    def disk_usage(self) -> DiskUsage:
        with self._lock:
            images = self.list()
            sizes = {one: self._layer_size(one) for image in images for one in image.diff_ids}
        return disk_usage_of(images, sizes)

    # Making

    def create(
        self, config: ImageConfig, *, parent: Digest | None = None, names: Sequence[Reference] = ()
    ) -> Image:
        """An image of layers that the layer store has: a build's or a commit's result."""
        return self.register(encode_image_config(config), parent=parent, names=names)

    def register(
        self,
        config_raw: bytes,
        *,
        manifest_raw: bytes = b"",
        manifest_descriptor: Descriptor | None = None,
        blobs: Sequence[Descriptor] = (),
        names: Sequence[Reference] = (),
        repository: str = "",
        parent: Digest | None = None,
    ) -> Image:
        """Make an image known, when all its layers are there, and give it `names` in the same transaction.

        `blobs` are the layers' compressed forms (in the content store, in the order of the diff-ids),
        `repository` the one (domain/path) that has them. Raises `Invalid` when they don't fit together, `Conflict`
        when a layer is missing.
        """
        config = parse_image_config(config_raw)
        diff_ids = config.rootfs.diff_ids
        if blobs and len(blobs) != len(diff_ids):
            raise Invalid(f"the manifest has {len(blobs)} layers, the configuration {len(diff_ids)}")
        image_id = digest_of(config_raw)
        with self._lock:
            for diff_id in diff_ids:
                if not self.layers.has(diff_id):
                    raise Conflict(f"layer {diff_id} of the image is missing")
            old = self._records[image_id][0] if image_id in self._records else ImageRecord("")
            record = ImageRecord(
                config_raw.decode("utf-8"),
                manifest_raw.decode("utf-8") or old.manifest,
                manifest_descriptor or old.manifest_descriptor,
                time.time_ns() if any(name.digest is None for name in names) else old.tagged_at,
                parent or old.parent,
            )
            changes = Changes(records={image_id: (record, config)})
            for diff_id, descriptor in zip(diff_ids, blobs, strict=False):
                changes.blobs[diff_id] = self._blob_record(diff_id, descriptor, repository)
            for name in names:
                changes.names[_key(name)] = Target(image_id)
            self._commit(changes)
            return self._image(image_id)

    def put_index(self, record: IndexRecord, preferred: Digest, names: Sequence[Reference]) -> Digest:
        """Let the names point to an index of images that are here; its digest.

        `preferred`: which of them a name means by itself. Raises `NotFound`, `Conflict` when a blob of it is missing.
        """
        index = digest_of(record.raw.encode())
        with self._lock:
            for image_id in (preferred, *record.images()):
                if image_id not in self._records:
                    raise NotFound(f"No such image: {image_id}")
            for digest in record.blobs():
                if not self.content.has(digest):
                    raise Conflict(f"blob {digest} of the image index is missing")
            changes = Changes(indexes={index: record})
            for name in names:
                changes.names[_key(name)] = Target(preferred, index)
                self._stamp(changes, preferred, name)
            self._commit(changes)
        return index

    def _stamp(self, changes: Changes, image_id: Digest, name: Reference) -> None:
        if name.digest is None:
            record, config = self._records[image_id]
            stamped = msgspec.structs.replace(record, tagged_at=time.time_ns())
            changes.records[image_id] = (stamped, config)

    def tag(self, image_id: Digest, reference: Reference, index: Digest | None = None) -> Digest | None:
        """Let `reference` (tag or digest) name the image; the id it named before, if another.

        `index`: and with it this index, whose preferred image it is. Raises `NotFound`.
        """
        with self._lock:
            if image_id not in self._records:
                raise NotFound(f"No such image: {image_id}")
            if index is not None and index not in self._indexes:
                raise NotFound(f"No such image: {index}")
            key = _key(reference)
            before = self._names.get(key)
            changes = Changes(names={key: Target(image_id, index)})
            self._stamp(changes, image_id, reference)
            self._commit(changes)
            return before.image if before is not None and before.image != image_id else None

    # Removing

    def untag(self, reference: Reference) -> None:
        """Take the name away and leave the image, dangling if it was the last. Raises `NotFound`."""
        with self._lock:
            if _key(reference) not in self._names:
                raise NotFound(f"No such image: {reference.with_default_tag().familiar}")
            self._commit(Changes(names={_key(reference): None}))

    def remove(
        self, name: str, *, force: bool = False, prune_parents: bool = True, uses: FindUses = _no_uses
    ) -> Removal:
        """Docker's `rmi`: see `image_removal`. Raises `NotFound`, `Conflict`."""
        with self._removing(), self._lock:
            target, reference = self._resolve(name)
            image_id = target.image
            if reference is not None and reference.digest is not None:
                reference = replace(reference, tag=None)
            plan = plan_removal(
                _View(self, uses), image_id, reference, force=force, prune_parents=prune_parents
            )
            self._mind_indexes(plan, image_id, uses)
            doomed = [self._records[one][1].rootfs.diff_ids for one in plan.delete]
            changes = Changes(names={_key(name): None for name in plan.untag})
            changes.records = dict.fromkeys(plan.delete)
            self._commit(changes)
            untagged = tuple(name.familiar for name in plan.untag)
            if not plan.delete:
                return Removal(untagged, owners=(image_id,) * len(untagged))
            chains = self._dead_chains(doomed)
            freed, layers = self.collect({diff_id for one in doomed for diff_id in one})
        owners = (image_id,) * len(untagged)
        return Removal(untagged, tuple(plan.delete), chains, layers, freed, owners)

    def forget_lost(self) -> builtins.list[str]:
        """Remove the images whose layers a crash of the host has taken (`LayerStore.lost`); their names, or ids."""
        lost = set(self.layers.lost)
        with self._lock:
            gone = [
                (image_id, self._names_of(image_id))
                for image_id, (_, config) in self._records.items()
                if not lost.isdisjoint(config.rootfs.diff_ids)
            ]
        for image_id, _ in gone:
            if self.has(image_id):
                self.remove(image_id, force=True, prune_parents=False)
        return [", ".join(name.familiar for name in names) or image_id for image_id, names in gone]

    def _mind_indexes(self, plan: Plan, image_id: Digest, uses: FindUses) -> None:
        """What an index that stays needs is not deleted; what only one that goes has had, is."""
        if not self._indexes:
            return
        going = unnamed(self._indexes, self._names, [_key(name) for name in plan.untag])
        staying = images_in(record for index, record in self._indexes.items() if index not in going)
        if image_id in plan.delete and image_id in staying and not plan.untag:
            names = ", ".join(name.familiar for name in self._part_of(image_id))
            raise Conflict(
                f"conflict: unable to delete {hex_of(image_id)[:12]} (cannot be forced) - "
                f"image is one platform's of {names}",
                hint="remove that name: all of its images go with it",
            )
        plan.delete[:] = [one for one in plan.delete if one not in staying]
        for other in sorted(images_in(self._indexes[index] for index in going)):
            alone = not self._names_of(other) and not self.children(other) and not uses(other)
            if other in self._records and other not in staying and other not in plan.delete and alone:
                plan.delete.append(other)

    def _together(self, image_id: Digest) -> tuple[Digest, ...]:
        """The image, and those that its names have for other platforms."""
        indexes = {target.index for target in self._names.values() if target.image == image_id}
        others = images_in(self._indexes[index] for index in indexes if index is not None)
        return (image_id, *sorted(others - {image_id}))

    def _dead_chains(self, doomed: Sequence[Sequence[Digest]]) -> tuple[Digest, ...]:
        live = {chain for _, config in self._records.values() for chain in chain_ids(config.rootfs.diff_ids)}
        dead = [chain for diff_ids in doomed for chain in reversed(chain_ids(diff_ids)) if chain not in live]
        return tuple(dict.fromkeys(dead))

    def prune(
        self,
        *,
        dangling: bool = True,
        until: float | None = None,
        matches: Callable[[Mapping[str, str]], bool] = lambda _labels: True,
        uses: FindUses = _no_uses,
    ) -> Removal:
        """Remove images that no container uses: those without a tag, or all.

        `until`: only images created before (seconds since the epoch). `matches` is asked with an image's labels.
        """
        total = Removal()
        with self._removing(), self._lock:
            for image in self.list():
                children = self.children(image.id)
                skipped = (
                    image.part_of
                    or (dangling and (image.tags or children))
                    or (not image.tags and not image.digests and children)
                    or (until is not None and image.created > until)
                    or not matches(image.config.defaults.labels or {})
                    or any(uses(one) for one in self._together(image.id))
                )
                if skipped or image.id not in self._records:
                    continue
                names = [str(name) for name in (*image.tags, *image.digests)] or [image.id]
                for name in names:
                    if name != image.id and _key(parse_reference(name)) not in self._names:
                        continue  # went together with the tag
                    with contextlib.suppress(Conflict):
                        total += self.remove(name, uses=uses)
            freed, layers = self.collect(min_age=ORPHAN_AGE)
        return total + Removal(layers=layers, freed=freed)


class _View:
    """The state that `plan_removal` decides about."""

    def __init__(self, store: ImageStore, uses: FindUses) -> None:
        self._store = store
        self.uses = uses

    def names(self, image_id: Digest) -> Sequence[Reference]:
        return self._store._names_of(image_id)

    def children(self, image_id: Digest) -> Sequence[Digest]:
        return self._store.children(image_id)

    def parent(self, image_id: Digest) -> Digest | None:
        parent = Digest(self._store._records[image_id][0].parent)
        return parent if parent in self._store._records else None


def _shown(name: str, reference: Reference | None) -> str:
    return reference.with_default_tag().familiar if reference is not None else name


def _key(reference: Reference) -> str:
    if reference.digest is not None:
        return f"{reference.name}@{reference.digest}"
    return str(reference.with_default_tag())


def _parse_or_none(name: str) -> Reference | None:
    try:
        return parse_reference(name)
    except Invalid:
        return None
