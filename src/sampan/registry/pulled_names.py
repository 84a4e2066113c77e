"""What a pulled image is called afterwards, and which other platforms' images of the same index stay beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sampan.oci.digest import Digest
from sampan.oci.manifest import Descriptor, Index, Manifest, parse_manifest
from sampan.oci.reference import Reference
from sampan.registry.client import FetchedManifest
from sampan.storage.images import Image, ImageStore
from sampan.storage.index_model import IndexMember, IndexRecord


@dataclass(frozen=True, slots=True)
class PulledNames:
    """`digest`: of what the reference means in the registry. `beside`: the tag is neither given nor moved."""

    reference: Reference
    digest: Digest
    beside: bool

    @property
    def digested(self) -> Reference:
        return replace(self.reference, tag=None, digest=self.digest)

    def alone(self, images: ImageStore, image_id: Digest) -> tuple[Reference, ...]:
        """All names that the image gets; none when there may be others of its index here to think of."""
        here = images.find(str(self.digested))
        if images.index_of(str(self.digested)) is not None or (here is not None and here.id != image_id):
            return ()
        return (self.digested, *(() if self.beside or self.tagged is None else (self.tagged,)))

    @property
    def tagged(self) -> Reference | None:
        return None if self.reference.tag is None else replace(self.reference, digest=None)


def give_names(images: ImageStore, image: Image, named: FetchedManifest, names: PulledNames) -> None:
    """Name the image. With others of its index here, the names point to the index, of which it is one."""
    here = images.find(str(names.digested))
    tag = names.tagged
    moved = () if names.beside or tag is None else (tag,)
    record = _record(images, image, named, names)
    if record is None:
        for name in (names.digested, *moved):
            images.tag(image.id, name)
        return
    # A tag that means an image of this index by itself gets the others beside it, whoever pulled it.
    own = None if tag is None else images.find(str(tag))
    same = own is not None and own.id in record.images()
    preferred = here.id if names.beside and here is not None else image.id
    if names.beside and same and own is not None and tag is not None:
        preferred, moved = own.id, (tag,)
    images.put_index(record, preferred, (names.digested, *moved))


def _record(
    images: ImageStore, image: Image, named: FetchedManifest, names: PulledNames
) -> IndexRecord | None:
    """The index as far as it is here; None when this image is all there is of it."""
    parsed = parse_manifest(named.raw, named.descriptor.media_type)
    if not isinstance(parsed, Index):
        return None
    known = images.index_of(str(names.digested))
    members = {member.image: member for member in known[1].members} if known is not None else {}
    here = images.find(str(names.digested))
    for one in (image, *(() if here is None else (here,))):
        member = _member(one, parsed.manifests)
        if member is not None and one.id not in members:
            members[one.id] = member
    complete = [one for one in members.values() if _has_blobs(images, one)]
    if len(complete) < 2 or image.id not in {one.image for one in complete}:
        return None
    return IndexRecord(
        named.raw.decode("utf-8"),
        named.descriptor.media_type,
        tuple(complete),
        known[1].attestations if known is not None else (),
    )


def _member(image: Image, entries: Sequence[Descriptor]) -> IndexMember | None:
    own = image.manifest_descriptor
    if own is None or not image.manifest_raw:
        return None
    entry = next((one for one in entries if one.digest == own.digest), None)
    parsed = parse_manifest(image.manifest_raw, own.media_type)
    if entry is None or not isinstance(parsed, Manifest):
        return None
    layers = tuple(Descriptor(one.media_type, one.digest, one.size) for one in parsed.layers)
    return IndexMember(image.id, entry, image.manifest_raw.decode("utf-8"), layers)


def _has_blobs(images: ImageStore, member: IndexMember) -> bool:
    return images.has(member.image) and all(images.content.has(layer.digest) for layer in member.layers)
