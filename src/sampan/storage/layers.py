"""The layer store: `layers/<diff-id hex>/` holding `layer.erofs` or `fs/`, and `layer.json`.

A layer is named by its diff-id alone, so layers convert in parallel and are shared by every image
that has them. It appears under its name by one rename, after its data is on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from sampan.oci.digest import Digest
from sampan.oci.rootfs import LayerMount


class Layer(msgspec.Struct, frozen=True):
    """A complete layer. `size` is the bytes of its regular files' content."""

    diff_id: Digest
    size: int
    entries: int = 0


class LayerIngest:
    """A layer that is being written; a context manager that aborts what was not committed."""

    def write(self, data: bytes) -> None:
        """Take the next bytes of the (compressed or plain) tar stream. Raises `Invalid` early for a bad stream."""
        raise NotImplementedError

    def commit(self) -> Layer:
        """End of the stream: verify and publish. Raises `Invalid` (nothing is visible then)."""
        raise NotImplementedError

    def abort(self) -> None:
        """Forget everything; does nothing after a commit."""
        raise NotImplementedError


class LayerStore:
    def __init__(self, root: Path, *, prefer: Literal["erofs", "dir"] = "erofs") -> None:
        """`root` is the `layers` directory itself (made when missing)."""
        raise NotImplementedError

    def has(self, diff_id: Digest) -> bool:
        raise NotImplementedError

    def get(self, diff_id: Digest) -> Layer:
        """Raises `NotFound`."""
        raise NotImplementedError

    def digests(self) -> Iterator[Digest]:
        raise NotImplementedError

    def mount_of(self, diff_id: Digest) -> LayerMount:
        """How to mount it. Raises `NotFound`."""
        raise NotImplementedError

    def size(self, diff_id: Digest) -> int:
        """Bytes of file data. Raises `NotFound`."""
        raise NotImplementedError

    def ingest(self, media_type: str, diff_id: Digest | None = None) -> LayerIngest:
        """A tar stream pushed in; gzip, zstd or plain, told by its first bytes."""
        raise NotImplementedError

    def adopt(self, upper: Path) -> Layer:
        """An overlay upper directory becomes the layer: moved, not copied (same file system)."""
        raise NotImplementedError

    def adopt_tree(self, tree: Path) -> Layer:
        """A plain directory (no overlay marks in it) becomes the layer: moved, not copied."""
        raise NotImplementedError

    def reproducible(self, diff_id: Digest) -> bool:
        """True when `tar` can give the layer's tar stream again; else only its blob has it."""
        raise NotImplementedError

    def tar(self, diff_id: Digest, out: BinaryIO) -> None:
        """The tar stream again. Raises `Unsupported` unless `reproducible(diff_id)`."""
        raise NotImplementedError

    def remove(self, diff_id: Digest) -> None:
        """Idempotent."""
        raise NotImplementedError

    def sweep(self) -> None:
        """Remove what an interrupted ingest, adopt or remove left; call it once at start."""
        raise NotImplementedError
