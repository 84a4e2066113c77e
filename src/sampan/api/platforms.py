"""The `platform` of requests about images, and what an image's several platforms look like in answers."""

from __future__ import annotations

import msgspec

from sampan.api.messages import Request
from sampan.errors import Invalid
from sampan.oci.attestation import attested
from sampan.oci.digest import Digest
from sampan.oci.manifest import Descriptor, Platform
from sampan.registry.platforms import parse_platform
from sampan.storage.image_model import Image
from sampan.storage.images import ImageStore
from sampan.storage.index_model import IndexRecord
from sampan.storage.packing import platform_of_image

Json = dict[str, object]


def platform_query(request: Request) -> Platform | None:
    """OCI's object as JSON, as Docker's clients send it, or `os/architecture[/variant]`. Raises `Invalid`."""
    text = request.get("platform")
    if not text:
        return None
    if not text.startswith("{"):
        return parse_platform(text)
    try:
        sent = msgspec.json.decode(text, type=_Sent)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"invalid platform: {error}") from error
    return parse_platform("/".join(part for part in (sent.os, sent.architecture, sent.variant) if part))


class _Sent(msgspec.Struct):
    os: str
    architecture: str
    variant: str = ""


def manifests(store: ImageStore, image: Image, containers_of: dict[Digest, int]) -> list[Json] | None:
    """Docker's `Manifests` of an image whose name has several platforms; None for another."""
    index = _index_of(store, image)
    if index is None:
        return None
    found: list[Json] = []
    here = {one.image: one for one in index.members}
    for member in here.values():
        own = store.find(member.image)
        if own is None:
            continue
        content = sum(layer.size for layer in member.layers) + len(own.config_raw) + member.descriptor.size
        found.append(
            {
                **_manifest(member.descriptor, content, content + own.size),
                "Kind": "image",
                "ImageData": {
                    "Platform": platform_of_image(own),
                    "Containers": containers_of.get(own.id, 0),
                    "Size": {"Unpacked": own.size},
                },
            }
        )
    for one in index.attestations:
        content = sum(layer.size for layer in one.layers) + one.config.size + one.descriptor.size
        data = {"For": attested(one.descriptor) or ""}
        found.append(
            {
                **_manifest(one.descriptor, content, content),
                "Kind": "attestation",
                "AttestationData": data,
            }
        )
    return found


def descriptor_of(store: ImageStore, image: Image) -> Json | None:
    """Of the index that the image's name means."""
    index = _index_of(store, image)
    if index is None:
        return None
    raw = index.raw.encode()
    return {"mediaType": index.media_type, "digest": index.digest, "size": len(raw)}


def _manifest(descriptor: Descriptor, content: int, total: int) -> Json:
    return {
        "ID": descriptor.digest,
        "Descriptor": descriptor,
        "Available": True,
        "Size": {"Content": content, "Total": total},
    }


def _index_of(store: ImageStore, image: Image) -> IndexRecord | None:
    for name in (*image.tags, *image.digests, *image.part_of):
        found = store.index_of(str(name))
        if found is not None:
            return found[1]
    return None
