"""`build --list-context`: what the context sends, and which line of the ignore file left the rest out."""

from __future__ import annotations

import os
import stat
from dataclasses import asdict, dataclass, field

from sampan.cli.build_context import ignore_file, relative_dockerfile
from sampan.cli.failure import Failure
from sampan.oci.ignore import IgnoreRules, PatternLines, read_ignore_file


@dataclass(frozen=True)
class Sent:
    path: str
    size: int
    """Bytes of content; 0 for what is no regular file, and for further names of a file already sent."""


@dataclass(frozen=True)
class LeftOut:
    """`path` ends with "/" for a directory of which nothing is sent: what is below it is not listed."""

    path: str
    file: str
    line: int
    pattern: str


@dataclass
class Listing:
    sent: list[Sent] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(item.size for item in self.sent)

    def as_json(self) -> dict[str, object]:
        return {
            "sent": [{**asdict(item), "path": _as_unicode(item.path)} for item in self.sent],
            "leftOut": [{**asdict(item), "path": _as_unicode(item.path)} for item in self.left_out],
            "files": len(self.sent),
            "total": self.total,
        }


def _as_unicode(path: str) -> str:
    """JSON has no bytes: what is not UTF-8 in a name becomes the replacement character."""
    return os.fsencode(path).decode("utf-8", "replace")


def list_context(place: str, dockerfile: str) -> Listing:
    """The listing of the directory `place`. Raises `Failure` for what is no directory, `Invalid` for a bad pattern."""
    if not os.path.isdir(place):
        raise Failure(f"--list-context needs a directory, not {place!r}")
    root = os.path.realpath(place)
    name = "" if dockerfile == "-" else relative_dockerfile(root, dockerfile)
    ignore_name, text = ignore_file(root, name)
    # A Dockerfile outside of the context is not sent as one of its files.
    keep = (".dockerignore", name) if name and not name.startswith("../") else (".dockerignore",)
    rules = read_ignore_file(text, ignore_name, keep=keep if text else ())
    return _listing(root, rules, PatternLines(text), ignore_name)


def _listing(root: str, rules: IgnoreRules, lines: PatternLines, ignore_name: str) -> Listing:
    """In the order of the stream that `TreeWriter.tree` makes, and with its decisions."""
    listing = Listing()
    seen: set[tuple[int, int]] = set()
    waiting = sorted(os.listdir(root), reverse=True)
    while waiting:
        path = waiting.pop()
        full = os.path.join(root, path)
        status = os.lstat(full)
        is_directory = stat.S_ISDIR(status.st_mode)
        pruned = False
        if rules.excludes(path):
            pruned = is_directory and rules.prunes(path)
            if pruned or not is_directory:
                number, line = lines.deciding(path) or (0, "")
                shown = f"{path}/" if is_directory else path
                listing.left_out.append(LeftOut(shown, ignore_name, number, line))
        elif not is_directory and not stat.S_ISSOCK(status.st_mode):
            key = (status.st_dev, status.st_ino)
            counts = stat.S_ISREG(status.st_mode) and key not in seen
            seen.add(key)
            listing.sent.append(Sent(path, status.st_size if counts else 0))
        if is_directory and not pruned:
            waiting += [f"{path}/{item}" for item in sorted(os.listdir(full), reverse=True)]
    return listing
