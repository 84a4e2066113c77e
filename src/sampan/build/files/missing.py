"""What may be meant by a source that is not there, or why it is not: a hint for people, never more."""

from __future__ import annotations

import difflib
import os
import posixpath

from sampan.linux.paths import open_in_root
from sampan.oci.ignore import IgnoreRules

OUTSIDE = (
    "nothing outside of the build context can be copied: build in a directory above, "
    "or give another with --build-context NAME=DIRECTORY and COPY --from=NAME"
)
_COMPARED = 5000
"""Names of a directory that are looked at."""


def hint_for(fd: int, path: str, rules: IgnoreRules) -> str:
    """About `path` in the tree at `fd`; "" when nothing comes to mind."""
    if pattern := rules.deciding(path):
        return f"the ignore file leaves it out by {pattern!r}; build --list-context shows what there is"
    close = _similar(fd, path, rules)
    return f"Did you mean {close}?" if close else ""


def _similar(fd: int, path: str, rules: IgnoreRules) -> str:
    parts = path.split("/")
    for index, name in enumerate(parts):
        above = "/".join(parts[:index])
        if name in (names := _names(fd, above)):
            continue
        wanted = [each for each in names[:_COMPARED] if not rules.excludes(posixpath.join(above, each))]
        folded = {each.casefold(): each for each in wanted}
        close = difflib.get_close_matches(name.casefold(), sorted(folded), n=1)
        return posixpath.join(above, folded[close[0]], *parts[index + 1 :]) if close else ""
    return ""


def _names(fd: int, directory: str) -> list[str]:
    try:
        found = open_in_root(fd, directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.listdir(found)
    finally:
        os.close(found)
