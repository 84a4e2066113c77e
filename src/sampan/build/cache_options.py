"""`--cache-from` and `--cache-to`: the texts that people write, checked. Pure."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Literal

from sampan.errors import Invalid, Unsupported
from sampan.oci.reference import Reference, parse_reference

_EXPORT_KEYS = ("type", "ref", "mode", "ignore-error", "compression", "oci-mediatypes", "image-manifest")


@dataclass(frozen=True, slots=True)
class CacheFrom:
    reference: Reference


@dataclass(frozen=True, slots=True)
class CacheTo:
    """`reference`: None for inline."""

    reference: Reference | None
    everything: bool = False
    """mode=max: every step of the build; min: those whose layers are in the image."""
    ignore_error: bool = False

    @property
    def inline(self) -> bool:
        return self.reference is None


def parse_cache_from(text: str) -> CacheFrom:
    """`type=registry,ref=IMAGE`, or IMAGE alone. Raises `Invalid`, `Unsupported`."""
    fields = _fields(text) if "=" in text else {"type": "registry", "ref": text}
    kind = fields.get("type", "registry")
    if kind != "registry":
        raise Unsupported(
            f"cache import of type {kind!r} is not supported", hint="use type=registry,ref=IMAGE"
        )
    return CacheFrom(_reference(fields, text))


def parse_cache_to(text: str) -> CacheTo:
    """`type=inline`, `type=registry,ref=IMAGE[,mode=min|max]`, or IMAGE alone. Raises `Invalid`, `Unsupported`."""
    fields = _fields(text) if "=" in text or text == "inline" else {"type": "registry", "ref": text}
    kind = fields.get("type", "registry")
    if unknown := sorted(set(fields) - set(_EXPORT_KEYS)):
        raise Invalid(f"unknown option {unknown[0]!r} in cache export {text!r}")
    if kind not in ("inline", "registry"):
        raise Unsupported(
            f"cache export of type {kind!r} is not supported",
            hint="use type=registry,ref=IMAGE or type=inline",
        )
    if fields.get("compression", "gzip") != "gzip":
        raise Unsupported(f"cache export with compression {fields['compression']!r} is not supported")
    mode = _one_of(fields, "mode", ("min", "max"))
    ignore = _one_of(fields, "ignore-error", ("false", "true"))
    if kind == "inline":
        return CacheTo(None)
    return CacheTo(_reference(fields, text), mode == "max", ignore == "true")


def _fields(text: str) -> dict[str, str]:
    if text == "inline":
        return {"type": "inline"}
    row = next(csv.reader([text]), [])
    found: dict[str, str] = {}
    for part in row:
        name, equals, value = part.partition("=")
        if not equals:
            raise Invalid(f"invalid value {part!r}: expected KEY=VALUE in {text!r}")
        found[name.strip().lower()] = value
    return found


def _one_of(fields: dict[str, str], name: str, allowed: tuple[str, str]) -> str | Literal[""]:
    value = fields.get(name, allowed[0])
    if value not in allowed:
        raise Invalid(f"invalid {name}={value}: expected {allowed[0]} or {allowed[1]}")
    return value


def _reference(fields: dict[str, str], text: str) -> Reference:
    if not fields.get("ref"):
        raise Invalid(f"{text!r}: type=registry needs ref=IMAGE")
    return parse_reference(fields["ref"]).with_default_tag()
