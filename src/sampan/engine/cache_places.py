"""Where build caches are, seen alike: a registry, a directory of the client's. What they hold is read here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sampan.build.cache_options import CacheForm
from sampan.build.solver import remote_format
from sampan.build.solver.remote_format import RemoteCache
from sampan.engine.images import platform_of
from sampan.errors import Invalid, NotFound
from sampan.oci import media
from sampan.oci.digest import Digest, digest_of
from sampan.oci.image import parse_image_config
from sampan.oci.manifest import Descriptor, Index, Manifest, encode_manifest, parse_manifest
from sampan.registry.platforms import choose

NO_CACHE = "the image has no cache in it"
INLINE_HINT = "build it with --cache-to type=inline"
MAX_IMAGE_CONFIG = 8 << 20
_TO_OCI = {media.DOCKER_LAYER_GZIP: media.OCI_LAYER_GZIP, media.DOCKER_LAYER: media.OCI_LAYER}
_TO_DOCKER = {oci: docker for docker, oci in _TO_OCI.items()}


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob to export. `make` puts it into the content store if it isn't there; `diff_id`: of the layer that it is.

    `known`: what it will be, if that is known before; where it is already, it need not be made.
    """

    make: Callable[[], Descriptor]
    diff_id: Digest | None = None
    known: Descriptor | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """A cache's configuration and manifest, as they are written last."""

    config: Descriptor
    config_raw: bytes
    manifest: Descriptor
    manifest_raw: bytes


class CachePlace(Protocol):
    """Of one build, one cache; thread-safe. Everything raises `SampanError`."""

    name: str

    def load(self) -> RemoteCache:
        """What the cache has; no layer comes."""
        ...

    def fetch(self, diff_id: Digest, blob: Descriptor) -> None:
        """Bring a layer of it into the store."""
        ...

    def bring(self, blob: Descriptor) -> None:
        """Bring a blob of it into the content store, as it is."""
        ...

    def upload(self, blobs: Sequence[Blob]) -> Sequence[Descriptor]:
        """Make the blobs and bring there what isn't there, several at a time."""
        ...

    def finish(self, artifact: Artifact) -> None:
        """Configuration and manifest: only now is the cache another than it was."""
        ...


class CacheReader(Protocol):
    def manifest(self, wanted: Descriptor | None) -> tuple[bytes, str]:
        """A manifest and its media type; None: what the cache's name means."""
        ...

    def small(self, wanted: Descriptor, limit: int) -> bytes:
        """A blob of at most `limit` bytes, verified."""
        ...


def read_cache(reader: CacheReader) -> RemoteCache:
    """A cache in any form of BuildKit's: an image manifest, an index of layers, or inside an image."""
    raw, media_type = reader.manifest(None)
    parsed = parse_manifest(raw, media_type)
    if isinstance(parsed, Index):
        configs = [one for one in parsed.manifests if one.media_type == remote_format.CONFIG_TYPE]
        if configs:
            return remote_format.decode(reader.small(configs[0], remote_format.MAX_CONFIG), parsed.manifests)
        raw, media_type = reader.manifest(choose(parsed, platform_of("")))
        inner = parse_manifest(raw, media_type)
        if isinstance(inner, Index):
            raise Invalid("the index names another index, which is not supported")
        parsed = inner
    if parsed.config.media_type == remote_format.CONFIG_TYPE:
        return remote_format.decode(reader.small(parsed.config, remote_format.MAX_CONFIG), parsed.layers)
    config = parse_image_config(reader.small(parsed.config, MAX_IMAGE_CONFIG))
    if config.inline_cache is None:
        raise NotFound(NO_CACHE, hint=INLINE_HINT)
    return remote_format.decode_inline(config.inline_cache, config.rootfs.diff_ids, parsed.layers)


def with_media_type(blob: Descriptor, *, oci: bool) -> Descriptor:
    """The descriptor with OCI's media type or Docker's; zstd has only OCI's."""
    media_type = (_TO_OCI if oci else _TO_DOCKER).get(blob.media_type, blob.media_type)
    return Descriptor(media_type, blob.digest, blob.size)


def make_artifact(config_raw: bytes, blobs: Sequence[Descriptor], form: CacheForm) -> Artifact:
    config = Descriptor(remote_format.CONFIG_TYPE, digest_of(config_raw), len(config_raw))
    if form.image_manifest:
        kind = media.OCI_MANIFEST
        raw = encode_manifest(Manifest(config, tuple(blobs)))
    else:
        kind = media.OCI_INDEX if form.oci else media.DOCKER_LIST
        raw = encode_manifest(Index((*blobs, config), media_type=kind))
    return Artifact(config, config_raw, Descriptor(kind, digest_of(raw), len(raw)), raw)
