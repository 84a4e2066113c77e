"""Looks through a root file system for what package managers say is in it.

The root is an image's, hostile: nothing is followed out of it, and everything is bounded.
"""

from __future__ import annotations

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
)
from sampan.build.errors import BuildCancelled
from sampan.errors import Invalid
from sampan.linux.paths import open_in_root

MAX_FILE = 64 << 20
"""Bytes of a package manager's file that are read; the largest Debian hosts have about 10 MiB of dpkg status."""
MAX_MANIFEST = 1 << 20
"""Bytes of a package.json or METADATA."""
MAX_PACKAGES = 200_000
MAX_DIRECTORIES = 1_000_000


def scan(root_fd: int, cancelled: threading.Event) -> tuple[list[Package], Distribution]:
    """All packages found, sorted, and the distribution. Raises `Invalid` for absurdly many, `BuildCancelled`."""
    system = distribution(_text(root_fd, "etc/os-release", MAX_MANIFEST))
    if system == Distribution():
        system = distribution(_text(root_fd, "usr/lib/os-release", MAX_MANIFEST))
    found: set[Package] = set()
    for package in _every(root_fd, system, cancelled):
        found.add(package)
        if len(found) > MAX_PACKAGES:
            raise Invalid(f"the image has more than {MAX_PACKAGES} packages")
    return sorted(found), system


def _every(root_fd: int, system: Distribution, cancelled: threading.Event) -> Iterator[Package]:
    status = "var/lib/dpkg/status"
    yield from dpkg_packages(_text(root_fd, status, MAX_FILE), system.id, f"/{status}")
    for database in ("lib/apk/db/installed", "usr/lib/apk/db/installed"):
        yield from apk_packages(_text(root_fd, database, MAX_FILE), system.id, f"/{database}")
    directories = os.fwalk(".", dir_fd=root_fd, follow_symlinks=False)
    for number, (path, below, files, fd) in enumerate(directories):
        if cancelled.is_set():
            raise BuildCancelled
        if number > MAX_DIRECTORIES:
            raise Invalid(f"the image has more than {MAX_DIRECTORIES} directories")
        below.sort()
        place = path.removeprefix(".")
        if place.endswith(".dist-info") and "METADATA" in files:
            package = python_package(_text(fd, "METADATA", MAX_MANIFEST), f"{place}/METADATA")
        elif "package.json" in files and "/node_modules/" in place:
            package = npm_package(_text(fd, "package.json", MAX_MANIFEST), f"{place}/package.json")
        else:
            package = None
        if package is not None:
            yield package
        if place == "/var/lib/dpkg/status.d":
            for name in sorted(files):
                yield from dpkg_packages(_text(fd, name, MAX_MANIFEST), system.id, f"{place}/{name}")


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
