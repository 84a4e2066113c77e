"""Looks through a root file system for what package managers say is in it.

The root is an image's, hostile: nothing is followed out of it, and everything is bounded.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator

from sampan.build.attest.packages import (
    Distribution,
    Package,
    apk_packages,
    distribution,
    dpkg_packages,
    npm_package,
    python_package,
    shown_path,
)
from sampan.build.errors import BuildCancelled
from sampan.errors import Invalid
from sampan.linux.paths import RESOLVE_NO_SYMLINKS, open_in_root

MAX_FILE = 32 << 20
"""Bytes of a package manager's file that are read; the largest Debian hosts have about 10 MiB of dpkg status."""
MAX_MANIFEST = 1 << 20
"""Bytes of a package.json or METADATA."""
MAX_PACKAGES = 200_000
MAX_DIRECTORIES = 1_000_000
MAX_TOLD = 32 << 20
"""Characters that all packages together have: several times as many go into a document."""
_MAX_PATH = 4096
"""Bytes of a path that open(2) takes; what lies deeper no package manager has put there."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def scan(root_fd: int, cancelled: threading.Event) -> tuple[list[Package], Distribution]:
    """All packages found, sorted, and the distribution. Raises `Invalid` for absurdly many, `BuildCancelled`."""
    system = distribution(_text(root_fd, "etc/os-release", MAX_MANIFEST))
    if system == Distribution():
        system = distribution(_text(root_fd, "usr/lib/os-release", MAX_MANIFEST))
    found: set[Package] = set()
    told = 0
    for package in _every(root_fd, system, cancelled):
        found.add(package)
        if len(found) > MAX_PACKAGES:
            raise Invalid(f"the image has more than {MAX_PACKAGES} packages")
        told += len(package.name) + len(package.version) + len(package.license) + len(package.found_in)
        if told > MAX_TOLD:
            raise Invalid(f"the image's packages have names of more than {MAX_TOLD} characters")
    return sorted(found), system


def _every(root_fd: int, system: Distribution, cancelled: threading.Event) -> Iterator[Package]:
    status = "var/lib/dpkg/status"
    yield from dpkg_packages(_text(root_fd, status, MAX_FILE), system.id, f"/{status}")
    for database in ("lib/apk/db/installed", "usr/lib/apk/db/installed"):
        yield from apk_packages(_text(root_fd, database, MAX_FILE), system.id, f"/{database}")
    for place, fd, names in _directories(root_fd):
        if cancelled.is_set():
            raise BuildCancelled
        shown = shown_path(place)
        if place.endswith(".dist-info") and "METADATA" in names:
            package = python_package(_text(fd, "METADATA", MAX_MANIFEST), f"{shown}/METADATA")
        elif "package.json" in names and "/node_modules/" in place:
            package = npm_package(_text(fd, "package.json", MAX_MANIFEST), f"{shown}/package.json")
        else:
            package = None
        if package is not None:
            yield package
        if place == "/var/lib/dpkg/status.d":
            for name in sorted(names):
                if cancelled.is_set():
                    raise BuildCancelled
                text = _text(fd, name, MAX_MANIFEST)
                yield from dpkg_packages(text, system.id, f"{shown}/{shown_path(name)}")


def _directories(root_fd: int) -> Iterator[tuple[str, int, set[str]]]:
    """The path of each, its descriptor while it is looked at, and the names in it that are no directories.

    Without recursion, and with one descriptor: how deep an image is nested is its own business.
    """
    pending, count = [""], 0
    while pending:
        place = pending.pop()
        try:
            fd = open_in_root(root_fd, place or ".", _DIRECTORY, resolve=RESOLVE_NO_SYMLINKS)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                continue
            raise
        try:
            with os.scandir(fd) as found:
                entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
            below = sorted((name for name, is_dir in entries if is_dir), reverse=True)
            count += len(below)
            if count > MAX_DIRECTORIES:
                raise Invalid(f"the image has more than {MAX_DIRECTORIES} directories")
            pending += [f"{place}/{name}" for name in below if len(place) + len(name) < _MAX_PATH]
            yield place, fd, {name for name, is_dir in entries if not is_dir}
        finally:
            os.close(fd)


def _text(directory: int, path: str, limit: int) -> str:
    """The start of a regular file, "" when there is none: an image without it is no error."""
    try:
        fd = open_in_root(directory, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        return file.read(limit).decode("utf-8", "replace")
