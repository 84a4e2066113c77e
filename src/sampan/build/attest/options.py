"""`--attest`, `--provenance` and `--sbom`: which statements are wanted. Pure.

As buildx has it: `--provenance=X` is `--attest type=provenance,X` (`true`, `mode=max`, ...), a later one of a type
replaces an earlier one, `disabled=true` or `false` takes it away.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass

from sampan.build.attest.provenance import Wanted, wanted
from sampan.errors import Invalid, Unsupported

MAX_TEXT = 4096
_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")


@dataclass(frozen=True, slots=True)
class Attests:
    provenance: Wanted | None = None
    sbom: bool = False

    def __bool__(self) -> bool:
        return self.provenance is not None or self.sbom


def parse_attests(texts: Sequence[str]) -> Attests:
    """From `type=provenance,mode=max` and the like. Raises `Invalid` and `Unsupported`."""
    found = Attests()
    for text in texts:
        attributes = _attributes(text)
        kind = attributes.pop("type", "")
        off = _flag(text, attributes.pop("disabled", "false"))
        if kind == "provenance":
            found = Attests(None if off else wanted(attributes), found.sbom)
        elif kind == "sbom":
            if not off and attributes.pop("generator", ""):
                raise Unsupported(
                    "other generators of bills of materials are not supported",
                    hint="`--sbom=true` uses sampan's own",
                )
            if attributes and not off:
                raise Invalid(f"unknown sbom attribute {sorted(attributes)[0]!r}", hint="generator, disabled")
            found = Attests(found.provenance, not off)
        else:
            raise Invalid(
                f"attestation type must be provenance or sbom: {text!r}", hint="type=provenance,mode=max"
            )
    return found


def _attributes(text: str) -> dict[str, str]:
    if len(text) > MAX_TEXT:
        raise Invalid(f"an attestation's description is longer than {MAX_TEXT} characters")
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise Invalid(f"invalid attestation {text!r}: {error}") from error
    attributes: dict[str, str] = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals:
            name, value = "disabled", "false" if _flag(text, field) else "true"
        attributes[name.strip().lower()] = value.strip()
    return attributes


def _flag(text: str, value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise Invalid(f"invalid attestation {text!r}: {value!r} is neither true nor false")
