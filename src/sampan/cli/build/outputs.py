"""`--output`, `--push`, `--load`, `--annotation`: what is asked of the engine, and what comes back to this side.

Attributes are BuildKit's and go to the engine as they are, but for `dest` and `tar`, which are this side's: the
engine delivers such an output over the build's session, by the id that is given here.
"""

from __future__ import annotations

import os
import sys

from sampan.cli.failure import Failure
from sampan.cli.flags import split_csv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.cli.build.destinations import Destination
    from sampan.cli.flags import Values
    from sampan.multiplex.link import Stream

_TARGETS = ("manifest", "manifest-descriptor", "index", "index-descriptor")
_IMAGES = ("image", "registry")
_ANNOTATED = (*_IMAGES, "oci", "docker")


class Outputs:
    """`wire`: the API's `outputs`; `destinations`: where what is delivered goes, by id."""

    def __init__(self, wire: list[dict[str, Any]], destinations: dict[str, Destination]) -> None:
        self.wire = wire
        self.destinations = destinations

    @property
    def to_stdout(self) -> bool:
        """Whether standard output is taken: then nothing else may be written there."""
        return any(one.path == "-" for one in self.destinations.values())

    def offers(self) -> dict[tuple[str, str], Callable[[Stream], None]]:
        """For the session."""
        return {("deliver", name): one.deliver for name, one in self.destinations.items()}


def parse_outputs(flags: Values) -> Outputs:
    """Raises `Failure`."""
    entries = [_fields(text) for text in flags["output"] if text]  # buildx leaves empty ones out too
    if flags["push"]:
        images = [entry for entry in entries if entry["type"] in _IMAGES]
        for entry in images:
            entry["push"] = "true"
        if not images:
            entries.append({"type": "image", "push": "true"})
    kept = any(entry["type"] == "image" or _stays(entry) for entry in entries)
    if flags["load"] and entries and not kept:
        entries.append({"type": "image"})
    if flags["iidfile"] and any(entry["type"] in ("local", "tar") for entry in entries):
        raise Failure("local and tar exporters are incompatible with image ID file")
    annotations = [pair for text in flags["annotation"] for pair in _annotation(text)]
    if annotations:
        entries = entries or [{"type": "image"}]
        _annotate(entries, annotations)
    return _split(entries)


def _fields(text: str) -> dict[str, str]:
    parts = split_csv(text)
    if len(parts) == 1 and "=" not in parts[0]:
        return {"type": "tar" if parts[0] == "-" else "local", "dest": parts[0]}
    entry: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals:
            raise Failure(f"invalid value {part}: expected KEY=VALUE in --output {text}")
        entry[name.strip().lower() if not name.startswith("annotation") else name] = value
    if not entry.get("type"):
        raise Failure(f"type is required for output: {text}")
    return entry


def _stays(entry: dict[str, str]) -> bool:
    """`type=docker` without a destination is the image store."""
    return entry["type"] == "docker" and "dest" not in entry


def _annotation(text: str) -> list[tuple[str, str]]:
    """`[TYPE,TYPE[PLATFORM]:]NAME=VALUE`: the attributes that say so."""
    where, colon, rest = text.partition(":")
    if not colon or "=" in where:
        where, rest = "manifest", text
    name, equals, value = rest.partition("=")
    if not equals or not name:
        raise Failure(f"invalid annotation {text!r}: expected NAME=VALUE")
    pairs = []
    for part in where.split(","):
        target, bracket, platform = part.partition("[")
        if target not in _TARGETS:
            raise Failure(f"invalid annotation {text!r}: {target!r} is none of {', '.join(_TARGETS)}")
        pairs.append((f"annotation-{target}{bracket}{platform}.{name}", value))
    return pairs


def _annotate(entries: list[dict[str, str]], annotations: list[tuple[str, str]]) -> None:
    taking = [entry for entry in entries if entry["type"] in _ANNOTATED]
    if not taking:
        raise Failure("annotations need an output that is an image: type=image, registry, oci or docker")
    for entry in taking:
        entry.update(annotations)


def _split(entries: list[dict[str, str]]) -> Outputs:
    wire: list[dict[str, Any]] = []
    destinations: dict[str, Destination] = {}
    for number, entry in enumerate(entries):
        kind = entry.pop("type")
        if kind == "docker" and "dest" not in entry:
            kind = "image"
        if kind in ("local", "tar", "oci", "docker"):
            entry["id"] = f"output-{number}"
            destinations[entry["id"]] = _destination(kind, entry)
        elif kind in _IMAGES and "dest" in entry:
            raise Failure(f"output of type {kind} has no dest")
        wire.append({"Type": kind, "Attrs": entry})
    if sum(one.path == "-" for one in destinations.values()) > 1:
        raise Failure("multiple outputs configured to write to stdout")
    return Outputs(wire, destinations)


def _destination(kind: str, entry: dict[str, str]) -> Destination:
    from sampan.cli.build.destinations import ArchiveFile, Directory, StandardOutput

    place = entry.pop("dest", "")
    as_tar = entry.pop("tar", "true").lower() not in ("false", "0")
    if kind == "local" or (kind != "tar" and not as_tar):
        if place in ("", "-"):
            raise Failure(f"dest is required for {kind} exporter")
        if os.path.exists(place) and not os.path.isdir(place):
            raise Failure(f"destination {place} is no directory")
        return Directory(place)
    if place in ("", "-"):
        if sys.stdout.isatty():
            raise Failure(f"dest file is required for {kind} exporter. refusing to write to console")
        return StandardOutput("-")
    if os.path.isdir(place):
        raise Failure(f"destination file {place} is a directory")
    return ArchiveFile(place)
