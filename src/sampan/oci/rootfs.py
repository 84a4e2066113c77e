"""What a container's root file system is assembled from: read-only layers and a writable one."""

from __future__ import annotations

from typing import Literal

import msgspec


class LayerMount(msgspec.Struct, frozen=True):
    """One read-only layer as it lies on disk: an EROFS image file, or a directory tree."""

    kind: Literal["erofs", "dir"]
    path: str


class RootAssembly(msgspec.Struct, frozen=True):
    """An overlay mount in the making.

    `layers` are ordered from the lowest (the base) to the topmost. `upper` and `work` are absolute
    directories on one file system; both None make a read-only root. `volatile`: nothing of it has to survive a crash
    of the host: neither fsync(2) in it nor its unmounting waits for the disk.
    """

    layers: tuple[LayerMount, ...]
    upper: str | None = None
    work: str | None = None
    volatile: bool = False

    def readable(self) -> RootAssembly:
        """The same files to be read only. A second mount with the same `work` breaks the first one: copying up fails
        in a container that runs in it (overlayfs.rst, "Sharing and copying layers")."""
        if self.upper is None:
            return self
        return RootAssembly((*self.layers, LayerMount("dir", self.upper)))
