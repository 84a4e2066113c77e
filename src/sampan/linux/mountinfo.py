"""What is mounted where in a mount namespace (proc(5), /proc/pid/mountinfo)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")


def mount_points(text: str) -> list[str]:
    """The mount points in a mountinfo file, in the order in which they were mounted. Pure."""
    found = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) > 4:
            found.append(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4]))
    return found


@dataclass(frozen=True, slots=True)
class Mount:
    """`place`: the mount point. `shared`: in a peer group, `slave`: of one (mount_namespaces(7))."""

    place: str
    shared: bool
    slave: bool


def mount_of(path: str) -> Mount:
    """The mount that an absolute path without symbolic links in it is on, in our mount namespace."""
    text = Path("/proc/self/mountinfo").read_text(encoding="latin-1")
    return mount_in(text, path.encode("utf-8", "surrogateescape").decode("latin-1"))


def mount_in(text: str, path: str) -> Mount:
    """As `mount_of`, in this mount table. Pure."""
    best = Mount("/", False, False)
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) < 7:
            continue
        place = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
        if len(place) >= len(best.place) and f"{path}/".startswith(f"{place.rstrip('/')}/"):
            tags = fields[6 : fields.index("-")]
            best = Mount(
                place,
                any(tag.startswith("shared:") for tag in tags),
                any(tag.startswith("master:") for tag in tags),
            )
    return best


def mounted_below(path: str) -> list[str]:
    """Mount points at and below the absolute path `path` (without symbolic links in it), the last mounted first.

    A place with several mounts on each other is there several times.
    """
    # One byte is one character here: names are bytes, and escapes are of bytes.
    text = Path("/proc/self/mountinfo").read_text(encoding="latin-1")
    wanted = path.encode("utf-8", "surrogateescape").decode("latin-1")
    below = f"{wanted.rstrip('/')}/"
    found = [point for point in mount_points(text) if point == wanted or point.startswith(below)]
    return [point.encode("latin-1").decode("utf-8", "surrogateescape") for point in reversed(found)]
