"""Images and their names, on top of content, layers and metadata.

An image's id is the digest of its configuration, as Docker's is. Its record holds the configuration and, for
an image that came from elsewhere, the manifest as it came, so that a push gives the same digest again. A
name (tag or digest) is a row of its own that points to an id. Both appear in one transaction, after all that they
need is complete on disk, and go in one before anything of it is removed.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from sampan.errors import Conflict, Invalid, NotFound
from sampan.oci.digest import Digest, digest_of, hex_of
from sampan.oci.image import ImageConfig, encode_image_config, parse_image_config
from sampan.oci.manifest import Descriptor
from sampan.oci.reference import Reference, parse_reference
from sampan.storage.content import ContentStore
from sampan.storage.gc import Have, find_garbage
from sampan.storage.image_model import (
    BlobRecord,
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
from sampan.storage.image_removal import plan_removal
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata, Table
from sampan.storage.removal import remove_tree

__all__ = ["FindUses", "Image", "ImageStore", "Removal", "Use"]

K = TypeVar("K")
V = TypeVar("V")

FindUses = Callable[[Digest], Sequence[Use]]

ORPHAN_AGE = 3600.0
"""Seconds for which a layer or blob that nobody refers to (yet) is left alone."""


@dataclass(slots=True)
class _Changes:
    """What one transaction writes; None removes. Applied to the working copy after the commit."""

    records: dict[Digest, tuple[ImageRecord, ImageConfig] | None] = field(default_factory=dict)
    names: dict[str, Digest | None] = field(default_factory=dict)
    blobs: dict[Digest, BlobRecord | None] = field(default_factory=dict)


def _no_uses(_image_id: Digest) -> Sequence[Use]:
    return ()


class ImageStore:
    """Thread-safe. The working copy is in memory; the database is where it comes from after a restart."""

    def __init__(self, content: ContentStore, layers: LayerStore, metadata: Metadata) -> None:
        self.content = content
        self.layers = layers
        self._metadata = metadata
        self._lock = threading.RLock()
        self._doomed = _Doomed()
        self._held: dict[Digest, int] = {}
        self._sizes: dict[Digest, int] = {}
        self._collection_off = 0
        self.tar_sizes: dict[Digest, int] = {}
        """Bytes of layers' tar streams, as far as they have been needed."""
        self.layer_roots: Callable[[], Iterable[Digest]] = lambda: ()
        """Layers that containers and the build cache need; set by the composition root."""
        self.release: Callable[[Sequence[str]], None] = lambda _paths: None
        """Told the paths of layers before they are removed (they may be mounted); set by the composition root."""
        self._records: dict[Digest, tuple[ImageRecord, ImageConfig]] = {}
        for key, body in metadata.items(Table.IMAGES):
            record = msgspec.json.decode(body, type=ImageRecord)
            self._records[Digest(key)] = (record, parse_image_config(record.config.encode()))
        self._names: dict[str, Digest] = {
            key: Digest(body.decode()) for key, body in metadata.items(Table.TAGS)
        }
        self._blobs: dict[Digest, BlobRecord] = {
            Digest(key): msgspec.json.decode(body, type=BlobRecord)
            for key, body in metadata.items(Table.BLOBS)
        }

    # Looking up

    def get(self, name: str) -> Image:
        """By id, unique prefix of an id, name (tag "latest" if none) or name and digest.

        Raises `NotFound` and `Invalid` in Docker's words.
        """
        with self._lock:
            return self._image(self._resolve(name)[0])

    def find(self, name: str) -> Image | None:
        try:
            return self.get(name)
        except NotFound:
            return None

    def has(self, image_id: Digest) -> bool:
        return image_id in self._records

    def list(self) -> builtins.list[Image]:
        with self._lock:
            names = self._names_by_id()
            return [self._image(image_id, names.get(image_id, ())) for image_id in self._records]

    def count(self) -> int:
        return len(self._records)

    def _resolve(self, name: str) -> tuple[Digest, Reference | None]:
        """The id, and the reference if it was found by name."""
        wanted = name.removeprefix("sha256:")
        if len(wanted) == 64 and Digest(f"sha256:{wanted}") in self._records:
            return Digest(f"sha256:{wanted}"), None
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
                return found[0], None
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
        )

    def _names_of(self, image_id: Digest) -> builtins.list[Reference]:
        found = (parse_reference(key) for key, target in self._names.items() if target == image_id)
        return sorted(found, key=str)

    def _names_by_id(self) -> dict[Digest, builtins.list[Reference]]:
        found: dict[Digest, list[Reference]] = {}
        for key, target in self._names.items():
            found.setdefault(target, []).append(parse_reference(key))
        return found

    def _layer_size(self, diff_id: Digest) -> int:
        """0 for a layer that is missing."""
        size = self._sizes.get(diff_id)
        if size is None:
            try:
                size = self._sizes[diff_id] = self.layers.size(diff_id)
            except NotFound:
                return 0
        return size

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
            changes = _Changes(records={image_id: (record, config)})
            for diff_id, descriptor in zip(diff_ids, blobs, strict=False):
                changes.blobs[diff_id] = self._blob_record(diff_id, descriptor, repository)
            for name in names:
                changes.names[_key(name)] = image_id
            self._commit(changes)
            return self._image(image_id)

    def tag(self, image_id: Digest, reference: Reference) -> Digest | None:
        """Let `reference` (tag or digest) name the image; the id it named before, if another.

        Raises `NotFound`.
        """
        with self._lock:
            if image_id not in self._records:
                raise NotFound(f"No such image: {image_id}")
            key = _key(reference)
            before = self._names.get(key)
            changes = _Changes(names={key: image_id})
            if reference.digest is None:
                record, config = self._records[image_id]
                stamped = msgspec.structs.replace(record, tagged_at=time.time_ns())
                changes.records[image_id] = (stamped, config)
            self._commit(changes)
            return before if before != image_id else None

    def _commit(self, changes: _Changes) -> None:
        """Write, then take over into the working copy; on an error neither has happened."""
        changes.names = {k: v for k, v in changes.names.items() if self._names.get(k) != v}
        changes.blobs = {k: v for k, v in changes.blobs.items() if self._blobs.get(k) != v}
        changes.records = {k: v for k, v in changes.records.items() if self._records.get(k) != v}
        durable = bool(changes.names or changes.records)
        with self._metadata.transaction(durable=durable):
            for image_id, known in changes.records.items():
                self._write(Table.IMAGES, image_id, None if known is None else msgspec.json.encode(known[0]))
            for key, target in changes.names.items():
                self._write(Table.TAGS, key, None if target is None else target.encode())
            for diff_id, blob in changes.blobs.items():
                self._write(Table.BLOBS, diff_id, None if blob is None else msgspec.json.encode(blob))
        _apply(self._records, changes.records)
        _apply(self._names, changes.names)
        _apply(self._blobs, changes.blobs)

    def _write(self, table: Table, key: str, body: bytes | None) -> None:
        if body is None:
            self._metadata.delete(table, key)
        else:
            self._metadata.put(table, key, body)

    # The compressed forms of layers

    def blob_for(self, diff_id: Digest) -> Descriptor | None:
        """The layer's compressed blob, if the content store has it."""
        record = self._blobs.get(diff_id)
        return (
            record.descriptor if record is not None and self.content.has(record.descriptor.digest) else None
        )

    def repositories_of(self, diff_id: Digest) -> tuple[str, ...]:
        """Repositories (domain/path) that have the blob; candidates for a cross-repository mount."""
        record = self._blobs.get(diff_id)
        return record.repositories if record is not None else ()

    def remember_blob(self, diff_id: Digest, descriptor: Descriptor, repository: str = "") -> None:
        with self._lock:
            self._commit(_Changes(blobs={diff_id: self._blob_record(diff_id, descriptor, repository)}))

    def _blob_record(self, diff_id: Digest, descriptor: Descriptor, repository: str) -> BlobRecord:
        known = self._blobs.get(diff_id)
        same = known is not None and known.descriptor.digest == descriptor.digest
        repositories = known.repositories if known is not None and same else ()
        if repository and repository not in repositories:
            repositories = (*repositories[-7:], repository)
        plain = Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)
        return BlobRecord(plain, repositories)

    # Removing

    def untag(self, reference: Reference) -> None:
        """Take the name away and leave the image, dangling if it was the last. Raises `NotFound`."""
        with self._lock:
            if _key(reference) not in self._names:
                raise NotFound(f"No such image: {reference.with_default_tag().familiar}")
            self._commit(_Changes(names={_key(reference): None}))

    def remove(
        self, name: str, *, force: bool = False, prune_parents: bool = True, uses: FindUses = _no_uses
    ) -> Removal:
        """Docker's `rmi`: see `image_removal`. Raises `NotFound`, `Conflict`."""
        with self._removing(), self._lock:
            image_id, reference = self._resolve(name)
            if reference is not None and reference.digest is not None:
                reference = replace(reference, tag=None)
            plan = plan_removal(
                _View(self, uses), image_id, reference, force=force, prune_parents=prune_parents
            )
            doomed = [self._records[one][1].rootfs.diff_ids for one in plan.delete]
            changes = _Changes(names={_key(name): None for name in plan.untag})
            changes.records = dict.fromkeys(plan.delete)
            self._commit(changes)
            untagged = tuple(name.familiar for name in plan.untag)
            if not plan.delete:
                return Removal(untagged, owners=(image_id,) * len(untagged))
            chains = self._dead_chains(doomed)
            freed, layers = self.collect({diff_id for one in doomed for diff_id in one})
        owners = (image_id,) * len(untagged)
        return Removal(untagged, tuple(plan.delete), chains, layers, freed, owners)

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
                    (dangling and (image.tags or children))
                    or (not image.tags and not image.digests and children)
                    or (until is not None and image.created > until)
                    or not matches(image.config.defaults.labels or {})
                    or uses(image.id)
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

    @contextlib.contextmanager
    def hold(self, digests: Iterable[Digest]) -> Iterator[None]:
        """Keep layers and blobs from being collected while work on them is under way."""
        kept = tuple(digests)
        with self._lock:
            for digest in kept:
                self._held[digest] = self._held.get(digest, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                for digest in kept:
                    self._held[digest] -= 1
                    if not self._held[digest]:
                        del self._held[digest]

    @contextlib.contextmanager
    def no_collection(self) -> Iterator[None]:
        """Nothing at all is collected meanwhile: for work whose digests are known only at its end."""
        with self._lock:
            self._collection_off += 1
        try:
            yield
        finally:
            with self._lock:
                self._collection_off -= 1

    def collect(
        self, candidates: Iterable[Digest] | None = None, *, min_age: float = ORPHAN_AGE
    ) -> tuple[int, tuple[Digest, ...]]:
        """Remove data that nobody needs; bytes freed, and the diff-ids of the layers that went.

        `candidates`: only these layers and their blobs, at once. None: everything that is older than `min_age`
        seconds: what is younger may belong to work that has not given it a name yet, or to a broken pull that
        will be tried again.
        """
        with self._removing(), self._lock:
            if self._collection_off:
                return 0, ()
            have = Have(
                frozenset(self.layers.digests()),
                frozenset(self.content.digests()),
                {diff_id: record.descriptor.digest for diff_id, record in self._blobs.items()},
            )
            roots = {diff_id for _, config in self._records.values() for diff_id in config.rootfs.diff_ids}
            garbage = find_garbage(have, roots | set(self._held) | set(self.layer_roots()), self._held)
            if candidates is None:
                layers = [one for one in garbage.layers if self._layer_age(one) > min_age]
                blobs = [one for one in garbage.blobs if self.content.age(one) > min_age]
                mappings = garbage.mappings - (garbage.layers - set(layers))
            else:
                wanted = set(candidates)
                layers = [one for one in garbage.layers if one in wanted]
                mappings = garbage.mappings & wanted
                theirs = {have.blob_of[one] for one in mappings}
                blobs = [one for one in garbage.blobs if one in theirs]
            freed = self._remove_data(layers, blobs, mappings)
        return freed, tuple(sorted(layers))

    @contextlib.contextmanager
    def _removing(self) -> Iterator[None]:
        """Entered before the lock: what was put aside under it is removed after it, by the outermost of a thread.

        A tree may have very many files, and whoever lists images must not wait for them.
        """
        self._doomed.depth += 1
        try:
            yield
        finally:
            self._doomed.depth -= 1
            while not self._doomed.depth and self._doomed.trees:
                remove_tree(self._doomed.trees.pop())

    def _remove_data(
        self, layers: Sequence[Digest], blobs: Sequence[Digest], mappings: Iterable[Digest]
    ) -> int:
        freed = sum(self._layer_size(diff_id) for diff_id in layers)
        self._commit(_Changes(blobs=dict.fromkeys(mappings)))
        if layers:
            self.release([self.layers.mount_of(diff_id).path for diff_id in layers])
        for diff_id in layers:
            self._sizes.pop(diff_id, None)
            aside = self.layers.put_aside(diff_id)
            if aside is not None:
                self._doomed.trees.append(aside)
        for digest in blobs:
            freed += self.content.delete(digest)
        return freed

    def _layer_age(self, diff_id: Digest) -> float:
        """Seconds since the layer got its name: that of its directory, which nobody writes to later."""
        try:
            directory = os.path.dirname(self.layers.mount_of(diff_id).path)
            return time.time() - os.stat(directory).st_mtime
        except (NotFound, FileNotFoundError):
            return 0.0


class _Doomed(threading.local):
    """Of one thread: layers' trees that are to be removed when it has left the lock."""

    def __init__(self) -> None:
        self.depth = 0
        self.trees: list[Path] = []


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


def _apply(target: dict[K, V], changes: Mapping[K, V | None]) -> None:
    for key, value in changes.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = value


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
