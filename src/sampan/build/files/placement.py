"""Where each source of a COPY lands: Docker's destination rules. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from sampan.errors import Invalid


@dataclass(frozen=True, slots=True)
class Source:
    """`name`: what it is called inside a directory. `path`: how it was written (for `--parents`)."""

    name: str
    is_dir: bool


def place(
    sources: Sequence[Source], destination: str, *, exists_as_dir: bool, exists_as_other: bool
) -> list[str]:
    """For each source the absolute path that it becomes.

    A directory's own contents go into the destination; a file goes into a destination that is a directory
    (it ends in a slash, or exists as one), else it becomes the destination. So of several files for a destination
    that is none the last one is left, as in BuildKit. Raises `Invalid` with Docker's words.
    """
    says_directory = destination.endswith("/")
    base = destination.rstrip("/") or "/"
    into, taken = says_directory or exists_as_dir, exists_as_other
    places = []
    for source in sources:
        if taken and (says_directory or source.is_dir):
            raise Invalid(f"cannot copy to non-directory: {base}")
        places.append(posixpath.join(base, source.name) if into and not source.is_dir else base)
        into, taken = into or source.is_dir, taken or not (into or source.is_dir)
    return places
