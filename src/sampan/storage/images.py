"""Images and their names, on top of content, layers and metadata.

An image's id is the digest of its configuration, as Docker's is. Its record holds the configuration and, for
an image that came from elsewhere, the manifest as it came, so that a push gives the same digest again. A
name (tag or digest) is a row of its own that points to an id: it is written last and removed first.
"""

from __future__ import annotations

import builtins
import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from sampan.errors import Conflict, Invalid, NotFound
from sampan.oci.digest import Digest, digest_of, hex_of
from sampan.oci.image import ImageConfig, encode_image_config, parse_image_config
from sampan.oci.manifest import Descriptor
from sampan.oci.reference import Reference, parse_reference
from sampan.storage.content import ContentStore
from sampan.storage.gc import Have, find_garbage
from sampan.storage.layers import LayerStore
from sampan.storage.metadata import Metadata, Table

MIN_PREFIX = 1


class ImageRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The stored form. Raw documents are text, since both are JSON."""

    config: str
    manifest: str = ""
    manifest_descriptor: Descriptor | None = None
    tagged_at: int = 0


class BlobRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The compressed form of a layer, and the repositories that are known to have it."""

    descriptor: Descriptor
    repositories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """`size` is the bytes of the layers' file content. `tags` and `digests` are full references, sorted."""

    id: Digest
    config: ImageConfig
    config_raw: bytes
    manifest_raw: bytes
    manifest_descriptor: Descriptor | None
    size: int
    tags: tuple[Reference, ...]
    digests: tuple[Reference, ...]

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        return self.config.rootfs.diff_ids

    @property
    def dangling(self) -> bool:
        return not self.tags


@dataclass(frozen=True, slots=True)
class Removal:
    """What `remove` did: names in their familiar form, and the ids of the images that are gone."""

    untagged: tuple[str, ...] = ()
    deleted: tuple[Digest, ...] = ()
    layers: tuple[Digest, ...] = ()
    freed: int = 0


@dataclass(frozen=True, slots=True)
class Use:
    """A container that uses an image."""

    container_id: str
    running: bool


FindUses = Callable[[Digest], Sequence[Use]]


class ImageStore:
    """Thread-safe. The working copy is in memory; the database is where it comes from after a restart."""

    def __init__(self, content: ContentStore, layers: LayerStore, metadata: Metadata) -> None:
        self.content = content
        self.layers = layers
        self._metadata = metadata
        self._lock = threading.RLock()
        self._held: dict[Digest, int] = {}
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

    def list(self) -> list[Image]:
        with self._lock:
            return [self._image(image_id) for image_id in self._records]

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
                raise Invalid(f"ambiguous image id prefix {name!r}: {len(found)} images begin with it")
        shown = reference.with_default_tag().familiar if reference is not None else name
        raise NotFound(f"No such image: {shown}")

    def _image(self, image_id: Digest) -> Image:
        record, config = self._records[image_id]
        names = [parse_reference(key) for key, target in self._names.items() if target == image_id]
        return Image(
            image_id,
            config,
            record.config.encode(),
            record.manifest.encode(),
            record.manifest_descriptor,
            sum(self.layers.size(diff_id) for diff_id in config.rootfs.diff_ids if self.layers.has(diff_id)),
            tuple(sorted((name for name in names if name.digest is None), key=str)),
            tuple(sorted((name for name in names if name.digest is not None), key=str)),
        )

    def tagged_at(self, image_id: Digest) -> int:
        """Nanoseconds since the epoch of the last time the image got a name; 0 if never."""
        return self._records[image_id][0].tagged_at

    # Making

    def create(self, config: ImageConfig) -> Image:
        """An image of layers that the layer store has: a build's or a commit's result."""
        return self.register(encode_image_config(config))

    def register(
        self,
        config_raw: bytes,
        *,
        manifest_raw: bytes = b"",
        manifest_descriptor: Descriptor | None = None,
        blobs: Sequence[Descriptor] = (),
        names: Sequence[Reference] = (),
        repository: str = "",
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
        for diff_id in diff_ids:
            if not self.layers.has(diff_id):
                raise Conflict(f"layer {diff_id} of the image is missing")
        image_id = digest_of(config_raw)
        with self._lock, self._metadata.transaction():
            old = self._records.get(image_id)
            record = ImageRecord(
                config_raw.decode("utf-8"),
                manifest_raw.decode("utf-8") or (old[0].manifest if old else ""),
                manifest_descriptor or (old[0].manifest_descriptor if old else None),
                old[0].tagged_at if old else 0,
            )
            if old is None or old[0] != record:
                self._metadata.put(Table.IMAGES, image_id, msgspec.json.encode(record))
                self._records[image_id] = (record, config)
            for diff_id, descriptor in zip(diff_ids, blobs, strict=False):
                self.remember_blob(diff_id, descriptor, repository)
            for name in names:
                self._name(image_id, name)
            return self._image(image_id)

    def tag(self, image_id: Digest, reference: Reference) -> Digest | None:
        """Let `reference` (tag or digest) name the image; the id it named before, if another."""
        with self._lock, self._metadata.transaction():
            return self._name(image_id, reference)

    def _name(self, image_id: Digest, reference: Reference) -> Digest | None:
        if image_id not in self._records:
            raise NotFound(f"No such image: {image_id}")
        key = _key(reference)
        before = self._names.get(key)
        if before == image_id:
            return None
        self._metadata.put(Table.TAGS, key, image_id.encode())
        self._names[key] = image_id
        return before

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
            known = self._blobs.get(diff_id)
            same = known is not None and known.descriptor.digest == descriptor.digest
            repositories = known.repositories if known is not None and same else ()
            if repository and repository not in repositories:
                repositories = (*repositories[-7:], repository)
            plain = Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)
            record = BlobRecord(plain, repositories)
            if record != known:
                self._metadata.put(Table.BLOBS, diff_id, msgspec.json.encode(record))
                self._blobs[diff_id] = record

    # Removing

    def remove(self, name: str, *, force: bool = False, uses: FindUses = lambda _id: ()) -> Removal:
        """Docker's `rmi`: take a name away, and the image with its last one. Raises `NotFound`, `Conflict`."""
        with self._lock:
            image_id, reference = self._resolve(name)
            if reference is not None:
                removal, gone = self._remove_name(image_id, reference, force, uses(image_id))
            else:
                removal, gone = self._remove_id(image_id, force, uses(image_id))
        if gone:
            freed, layers = self.collect()
            return Removal(removal.untagged, removal.deleted, layers, freed)
        return removal

    def _remove_name(
        self, image_id: Digest, reference: Reference, force: bool, uses: Sequence[Use]
    ) -> tuple[Removal, bool]:
        names = self._names_of(image_id)
        repository = [name for name in names if name.name == reference.name]
        last = len([name for name in names if name.digest is None]) <= 1 or len(names) == 1
        if last and uses and not force:
            raise Conflict(
                f'conflict: unable to remove repository reference "{reference.familiar}" (must force) - '
                f"container {uses[0].container_id[:12]} is using its referenced image {hex_of(image_id)[:12]}"
            )
        doomed = [reference]
        if reference.digest is None and not any(
            other.digest is None and other != reference for other in repository
        ):
            doomed += [other for other in repository if other.digest is not None]
        remaining = len(names) - len(doomed)
        keep = remaining > 0 or any(use.running for use in uses)
        return self._drop(image_id, doomed, keep=keep)

    def _remove_id(self, image_id: Digest, force: bool, uses: Sequence[Use]) -> tuple[Removal, bool]:
        short = hex_of(image_id)[:12]
        names = self._names_of(image_id)
        running = [use for use in uses if use.running]
        if running:
            raise Conflict(
                f"conflict: unable to delete {short} (cannot be forced) - "
                f"image is being used by running container {running[0].container_id[:12]}"
            )
        if not force:
            if len({name.name for name in names}) > 1 or len([n for n in names if n.digest is None]) > 1:
                raise Conflict(
                    f"conflict: unable to delete {short} (must be forced) - "
                    "image is referenced in multiple repositories"
                )
            if uses:
                raise Conflict(
                    f"conflict: unable to delete {short} (must be forced) - "
                    f"image is being used by stopped container {uses[0].container_id[:12]}"
                )
        return self._drop(image_id, names, keep=False)

    def _names_of(self, image_id: Digest) -> builtins.list[Reference]:
        return sorted(
            (parse_reference(k) for k, target in self._names.items() if target == image_id), key=str
        )

    def _drop(self, image_id: Digest, names: Sequence[Reference], *, keep: bool) -> tuple[Removal, bool]:
        # Names and record go in one transaction; data that is then garbage is found by `collect`, also later.
        with self._metadata.transaction():
            for name in names:
                self._metadata.delete(Table.TAGS, _key(name))
            if not keep:
                self._metadata.delete(Table.IMAGES, image_id)
        for name in names:
            del self._names[_key(name)]
        if not keep:
            del self._records[image_id]
        removal = Removal(tuple(name.familiar for name in names), () if keep else (image_id,))
        return removal, not keep

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

    def collect(self) -> tuple[int, tuple[Digest, ...]]:
        """Remove layers and blobs that nobody needs; bytes freed, and the layers that went."""
        with self._lock:
            have = Have(
                frozenset(self.layers.digests()),
                frozenset(self.content.digests()),
                {diff_id: record.descriptor.digest for diff_id, record in self._blobs.items()},
            )
            roots = {diff_id for _, config in self._records.values() for diff_id in config.rootfs.diff_ids}
            garbage = find_garbage(have, roots | set(self._held) | set(self.layer_roots()), self._held)
            freed = sum(self.layers.size(diff_id) for diff_id in garbage.layers)
            paths = [self.layers.mount_of(diff_id).path for diff_id in garbage.layers]
            self.release(paths)
            for diff_id in garbage.layers:
                self.layers.remove(diff_id)
            for diff_id in garbage.mappings:
                self._metadata.delete(Table.BLOBS, diff_id)
                del self._blobs[diff_id]
            for digest in garbage.blobs:
                freed += self.content.delete(digest)
        return freed, tuple(sorted(garbage.layers))


def _key(reference: Reference) -> str:
    if reference.digest is not None:
        return f"{reference.name}@{reference.digest}"
    return str(reference.with_default_tag())


def _parse_or_none(name: str) -> Reference | None:
    try:
        return parse_reference(name)
    except Invalid:
        return None
