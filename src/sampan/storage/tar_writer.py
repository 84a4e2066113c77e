"""A tree as a deterministic tar: sorted, numeric owners, pax records only where the header can't hold a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


def write_tree(
    root_fd: int,
    out: Sink,
    *,
    path: str = "",
    prefix: str = "",
    overlay: bool = False,
    exclude: Callable[[str], bool] | None = None,
    owner: tuple[int, int] | None = None,
    end: bool = True,
) -> None:
    """Write the tree at `path` inside the root `root_fd` to `out` as a tar.

    prefix: the name of the tree's top in the archive; "" leaves the top itself out and names its entries without a prefix.
            A file at `path` needs a prefix (its name in the archive).
    overlay: char devices 0:0 and opaque directories are written as OCI whiteouts (`.wh.`).
    exclude: called with each entry's name in the archive; True leaves it (and what is below) out.
    owner: every entry gets this uid and gid.
    end: write the two zero blocks.
    """
    raise NotImplementedError
