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
    sources: Sequence[Source], destination: str, *, exists_as_dir: bool, exists_as_other: bool, keyword: str
) -> list[str]:
    """For each source the absolute path that it becomes.

    A directory's own contents go into the destination; a file goes into a destination that is a directory
    (it ends in a slash, or exists as one), else it becomes the destination. Raises `Invalid` with Docker's
    words.
    """
    says_directory = destination.endswith("/")
    if len(sources) > 1 and not (says_directory or exists_as_dir):
        raise Invalid(
            f"When using {keyword} with more than one source file, "
            "the destination must be a directory and end with a /"
        )
    if exists_as_other and (says_directory or any(source.is_dir for source in sources)):
        raise Invalid(f"cannot copy to non-directory: {destination.rstrip('/')}")
    base = destination.rstrip("/") or "/"
    into = says_directory or exists_as_dir
    return [base if source.is_dir or not into else posixpath.join(base, source.name) for source in sources]
