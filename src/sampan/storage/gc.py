"""What nobody refers to any more: a pure function of what there is and of who refers to what."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sampan.oci.digest import Digest


@dataclass(frozen=True, slots=True)
class Have:
    """Everything on disk. `blob_of` maps a layer to its compressed blob, where one is kept."""

    layers: frozenset[Digest]
    blobs: frozenset[Digest]
    blob_of: dict[Digest, Digest]


@dataclass(frozen=True, slots=True)
class Garbage:
    """`mappings`: layers whose note of a blob goes, too."""

    layers: frozenset[Digest]
    blobs: frozenset[Digest]
    mappings: frozenset[Digest]


def find_garbage(have: Have, layer_roots: Iterable[Digest], blob_roots: Iterable[Digest]) -> Garbage:
    """A layer lives while an image, a container, the build cache or work in progress refers to it.

    A blob lives as long as the layer it is the compressed form of, or while it is held itself.
    """
    live = frozenset(layer_roots)
    dead_layers = have.layers - live
    mappings = frozenset(have.blob_of) - live
    live_blobs = {blob for layer, blob in have.blob_of.items() if layer in live} | frozenset(blob_roots)
    return Garbage(dead_layers, have.blobs - live_blobs, mappings)
