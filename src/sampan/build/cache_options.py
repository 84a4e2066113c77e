"""`--cache-from` and `--cache-to`: the texts that people write, checked. Pure."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from typing import cast

from sampan.errors import Invalid, Unsupported
from sampan.oci.digest import Digest, parse_digest
from sampan.oci.reference import Reference, parse_reference
from sampan.storage.layer_forms import Compression, LayerForm

_FORM_KEYS = ("compression", "compression-level", "force-compression", "oci-mediatypes", "image-manifest")
_EXPORT_KEYS = {
    # inline data go into the image, whose form `--output` decides: BuildKit looks at none of these either.
    "inline": (*_FORM_KEYS, "mode", "ignore-error"),
    "registry": (*_FORM_KEYS, "mode", "ignore-error", "ref", "mounts"),
    "local": (*_FORM_KEYS, "mode", "ignore-error", "dest", "tag", "mounts", "prune", "id"),
}
_IMPORT_KEYS = {"registry": ("ref",), "local": ("src", "tag", "digest", "id")}
_ELSEWHERE = ("mode", "ignore-error", *_FORM_KEYS)
"""Options of an export that people copy to the import, where they mean nothing, in BuildKit neither."""
_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-+:/@]{0,254}")


@dataclass(frozen=True, slots=True)
class CacheDirectory:
    """An OCI image layout on the client's side, which its session calls `id`. `path`: as it was written."""

    id: str
    path: str
    tag: str = "latest"
    digest: Digest | None = None
    """Of the manifest, instead of what has the tag; for an import."""


@dataclass(frozen=True, slots=True)
class CacheFrom:
    place: Reference | CacheDirectory

    @property
    def name(self) -> str:
        return f"local:{self.place.path}" if isinstance(self.place, CacheDirectory) else self.place.familiar


@dataclass(frozen=True, slots=True)
class CacheForm:
    """What an exported cache looks like. `image_manifest`: else an index whose members are the layers."""

    layers: LayerForm = field(default_factory=LayerForm)
    oci: bool = True
    image_manifest: bool = True


@dataclass(frozen=True, slots=True)
class CacheTo:
    """`place`: None for inline."""

    place: Reference | CacheDirectory | None
    everything: bool = False
    """mode=max: every step of the build; min: those whose layers are in the image."""
    ignore_error: bool = False
    form: CacheForm = field(default_factory=CacheForm)
    mounts: bool = False
    """Also the cache mounts that the build's steps have used."""

    @property
    def inline(self) -> bool:
        return self.place is None


def parse_cache_from(text: str) -> CacheFrom:
    """`type=registry,ref=IMAGE`, `type=local,src=DIR,id=ID[,tag=|digest=]`, or IMAGE.

    Raises `Invalid`, `Unsupported`.
    """
    fields = _fields(text) if "=" in text else {"type": "registry", "ref": text}
    kind = fields.pop("type", "registry")
    if kind not in _IMPORT_KEYS:
        raise Unsupported(
            f"cache import of type {kind!r} is not supported",
            hint="use type=registry,ref=IMAGE or type=local,src=DIRECTORY",
        )
    if unknown := sorted(set(fields) - {*_IMPORT_KEYS[kind], *_ELSEWHERE}):
        raise Invalid(f"unknown option {unknown[0]!r} in cache import {text!r}")
    if kind == "registry":
        return CacheFrom(_reference(fields, text))
    digest = parse_digest(fields["digest"]) if fields.get("digest") else None
    return CacheFrom(_directory(fields, "src", digest))


def parse_cache_to(text: str) -> CacheTo:
    """`type=inline`, `type=registry,ref=IMAGE`, `type=local,dest=DIR,id=ID`, or IMAGE.

    Raises `Invalid`, `Unsupported`.
    """
    fields = _fields(text) if "=" in text or text == "inline" else {"type": "registry", "ref": text}
    kind = fields.pop("type", "registry")
    if kind not in _EXPORT_KEYS:
        raise Unsupported(
            f"cache export of type {kind!r} is not supported",
            hint="use type=registry,ref=IMAGE, type=local,dest=DIRECTORY or type=inline",
        )
    if unknown := sorted(set(fields) - set(_EXPORT_KEYS[kind])):
        raise Invalid(f"unknown option {unknown[0]!r} in cache export {text!r}")
    mode = fields.get("mode", "min")
    if mode not in ("min", "max"):
        raise Invalid(f"invalid mode={mode}: expected min or max")
    form = _form(fields)
    ignore = _flag(fields, "ignore-error")
    if kind == "inline":
        return CacheTo(None)
    _flag(fields, "prune")  # which the client does
    place = _directory(fields, "dest") if kind == "local" else _reference(fields, text)
    return CacheTo(place, mode == "max", ignore, form, _flag(fields, "mounts"))


def _fields(text: str) -> dict[str, str]:
    if text == "inline":
        return {"type": "inline"}
    try:
        row = next(csv.reader([text]), [])
    except csv.Error as error:
        raise Invalid(f"invalid cache option {text[:80]!r}: {error}") from error
    found: dict[str, str] = {}
    for part in row:
        name, equals, value = part.partition("=")
        if not equals:
            raise Invalid(f"invalid value {part!r}: expected KEY=VALUE in {text!r}")
        found[name.strip().lower()] = value
    return found


def _form(fields: dict[str, str]) -> CacheForm:
    kind = fields.get("compression", "gzip")
    if kind not in ("gzip", "zstd", "uncompressed"):
        raise Unsupported(
            f"cache export with compression {kind!r} is not supported",
            hint="the compressions are gzip, zstd, uncompressed",
        )
    level = fields.get("compression-level")
    if level is not None and not (level.isascii() and level.isdigit() and len(level) <= 3):
        raise Invalid(f"invalid compression-level={level}: expected a number")
    form = LayerForm(
        cast(Compression, kind), None if level is None else int(level), _flag(fields, "force-compression")
    )
    oci = _flag(fields, "oci-mediatypes", default=True)
    image_manifest = _flag(fields, "image-manifest", default=oci)
    if image_manifest and not oci:
        raise Invalid(
            "invalid configuration for remote cache: OCI mediatypes are required for image-manifest cache format",
            hint="leave image-manifest=true out",
        )
    if kind == "zstd" and not oci:
        raise Invalid("zstd compression needs OCI's media types", hint="use oci-mediatypes=true")
    return CacheForm(form, oci, image_manifest)


def _flag(fields: dict[str, str], name: str, *, default: bool = False) -> bool:
    value = fields.get(name)
    if value is None:
        return default
    if value.lower() not in (*_TRUE, *_FALSE):
        raise Invalid(f"invalid {name}={value}: expected true or false")
    return value.lower() in _TRUE


def _reference(fields: dict[str, str], text: str) -> Reference:
    if not fields.get("ref"):
        raise Invalid(f"{text!r}: type=registry needs ref=IMAGE")
    return parse_reference(fields["ref"]).with_default_tag()


def _directory(fields: dict[str, str], key: str, digest: Digest | None = None) -> CacheDirectory:
    path = fields.get(key, "")
    if not path:
        raise Invalid(f"local cache {'importer' if key == 'src' else 'exporter'} requires {key}")
    if not fields.get("id"):
        raise Unsupported(
            f"the directory {path} of a local cache is the client's, and this client offers none",
            hint="`sampan build` opens a session for it",
        )
    tag = fields.get("tag") or "latest"
    if not _TAG.fullmatch(tag):
        raise Invalid(f"invalid tag={tag[:40]} of a local cache")
    return CacheDirectory(fields["id"], path, tag, digest)
