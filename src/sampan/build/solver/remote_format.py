"""The cache's records as they travel: BuildKit's cache configuration (cache/remotecache/v1/spec.go there). Pure.

A record's digest is our key, its one result an index into the layers; the time of creation and the step are
fields that BuildKit ignores. Our keys mean nothing to BuildKit and its keys nothing to us: reading the other's cache is
a miss. Whatever comes in can only say which layer a key has, and when it was made.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter
from typing import TypeVar

import msgspec

from sampan.build.solver.cache import CacheEntry
from sampan.errors import Invalid
from sampan.oci.digest import Digest, parse_digest
from sampan.oci.manifest import Descriptor

T = TypeVar("T")

CONFIG_TYPE = "application/vnd.buildkit.cacheconfig.v0"
MAX_CONFIG = 8 << 20
"""Bytes."""
MAX_RECORDS = 20_000
MAX_LAYERS = 5_000
MAX_MOUNTS = 256
_MAX_STEP = 200
_MAX_MOUNT_ID = 4096
_MOUNT_NAME = re.compile(r"[0-9a-f]{64}")


class _Annotations(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    media_type: str = ""
    diff_id: str = msgspec.field(default="", name="diffID")
    size: int = 0


class _Layer(msgspec.Struct, frozen=True, omit_defaults=True):
    blob: str = ""
    parent: int = 0
    annotations: _Annotations | None = None


class _Result(msgspec.Struct, frozen=True):
    layer: int


class _Record(msgspec.Struct, frozen=True, omit_defaults=True):
    digest: str = ""
    layers: tuple[_Result, ...] = ()
    created: str = msgspec.field(default="", name="sampan.created")
    step: str = msgspec.field(default="", name="sampan.step")


class _Mount(msgspec.Struct, frozen=True):
    name: str
    id: str
    blob: str


class _Config(msgspec.Struct, frozen=True, omit_defaults=True):
    layers: tuple[_Layer, ...] = ()
    records: tuple[_Record, ...] = ()
    mounts: tuple[_Mount, ...] = msgspec.field(default=(), name="sampan.mounts")


@dataclass(frozen=True, slots=True)
class CachedMount:
    """The content of a cache mount, as a tar. `id`: the one that RUN has for it."""

    id: str
    blob: Descriptor


@dataclass(frozen=True, slots=True)
class RemoteCache:
    """`layers`: diff-id -> blob, for those that can be fetched. `mounts`: by the names of their directories."""

    records: dict[str, CacheEntry] = field(default_factory=dict)
    layers: dict[Digest, Descriptor] = field(default_factory=dict)
    mounts: dict[str, CachedMount] = field(default_factory=dict)


def encode(
    records: Mapping[str, CacheEntry],
    blobs: Mapping[Digest, Descriptor],
    mounts: Mapping[str, CachedMount] | None = None,
) -> bytes:
    """The configuration of a cache artifact whose layers are `blobs` in their order; records without one stay out."""
    places = {diff_id: index for index, diff_id in enumerate(blobs)}
    layers = tuple(
        _Layer(blob.digest, -1, _Annotations(blob.media_type, diff_id, blob.size))
        for diff_id, blob in blobs.items()
    )
    named = tuple(_Mount(name, mount.id, mount.blob.digest) for name, mount in (mounts or {}).items())
    return msgspec.json.encode(_Config(layers, _encoded(records, places), named))


def decode(raw: bytes, blobs: Sequence[Descriptor]) -> RemoteCache:
    """`blobs`: the manifest's layers: a layer that the manifest lacks does not exist. Raises `Invalid`."""
    config = _parse(raw, _Config)
    if len(config.layers) > MAX_LAYERS:
        raise Invalid(f"the cache has more than {MAX_LAYERS} layers")
    known = {blob.digest: blob for blob in blobs}
    diff_ids = [_diff_id(layer) if layer.blob in known else None for layer in config.layers]
    layers = {
        diff_id: known[Digest(layer.blob)]
        for diff_id, layer in zip(diff_ids, config.layers, strict=True)
        if diff_id is not None
    }
    if len(config.mounts) > MAX_MOUNTS:
        raise Invalid(f"the cache has more than {MAX_MOUNTS} cache mounts")
    mounts = {
        mount.name: CachedMount(mount.id, known[Digest(mount.blob)])
        for mount in config.mounts
        if mount.blob in known and _MOUNT_NAME.fullmatch(mount.name) and len(mount.id) <= _MAX_MOUNT_ID
    }
    return RemoteCache(_decoded(config.records, diff_ids), layers, mounts)


def encode_inline(records: Mapping[str, CacheEntry], diff_ids: Sequence[Digest]) -> str:
    """For an image's configuration (`moby.buildkit.cache.v0`): indices are those of its own layers."""
    places = {diff_id: index for index, diff_id in enumerate(diff_ids)}
    return base64.b64encode(msgspec.json.encode(_encoded(records, places))).decode("ascii")


def decode_inline(text: object, diff_ids: Sequence[Digest], blobs: Sequence[Descriptor] = ()) -> RemoteCache:
    """`blobs` as in the image's manifest; none for an image whose layers are here. Raises `Invalid`."""
    if not isinstance(text, str) or len(text) > MAX_CONFIG:
        raise Invalid("malformed inline cache")
    if blobs and len(blobs) != len(diff_ids):
        raise Invalid("the image has not as many layers as its configuration says")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid(f"malformed inline cache: {error}") from error
    records = _parse(raw, tuple[_Record, ...])
    return RemoteCache(_decoded(records, diff_ids), dict(zip(diff_ids, blobs, strict=False)))


def _encoded(records: Mapping[str, CacheEntry], places: Mapping[Digest, int]) -> tuple[_Record, ...]:
    """By key: stages that run at the same time see their steps in any order."""
    return tuple(
        _Record(
            f"sha256:{key}",
            (_Result(places[Digest(entry.layer)]),) if entry.layer else (),
            entry.created,
            entry.step[:_MAX_STEP],
        )
        for key, entry in sorted(records.items(), key=itemgetter(0))
        # Remembered checksums stay at home: they save reading, not work.
        if not entry.content and (not entry.layer or entry.layer in places)
    )


def _decoded(records: Sequence[_Record], diff_ids: Sequence[Digest | None]) -> dict[str, CacheEntry]:
    if len(records) > MAX_RECORDS:
        raise Invalid(f"the cache has more than {MAX_RECORDS} records")
    found: dict[str, CacheEntry] = {}
    for record in records:
        if len(record.layers) > 1 or not record.created or not _is_time(record.created):
            continue  # BuildKit's, or damaged: a miss
        layer: Digest | None = None
        if record.layers:
            index = record.layers[0].layer
            layer = diff_ids[index] if 0 <= index < len(diff_ids) else None
            if layer is None:
                continue
        try:
            key = parse_digest(record.digest).removeprefix("sha256:")
        except Invalid:
            continue
        found[key] = CacheEntry(record.created, layer or "", step=record.step[:_MAX_STEP])
    return found


def _diff_id(layer: _Layer) -> Digest | None:
    try:
        return parse_digest(layer.annotations.diff_id) if layer.annotations is not None else None
    except Invalid:
        return None


def _is_time(text: str) -> bool:
    """As steps are dated: RFC 3339 in UTC. It goes into images' configurations."""
    try:
        return len(text) <= 40 and text.endswith("Z") and datetime.fromisoformat(text) is not None
    except ValueError:
        return False


def _parse(raw: bytes, kind: type[T]) -> T:
    if len(raw) > MAX_CONFIG:
        raise Invalid(f"the cache's configuration is larger than {MAX_CONFIG} bytes")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"malformed cache configuration: {error}") from error
