"""Mount points that the runtime makes in a build step's writable layer, which must not stay in the image."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sampan.engine.containers.base import Parts
from sampan.engine.model import ContainerRecord
from sampan.linux.paths import RESOLVE_NO_SYMLINKS, open_in_root


@dataclass(frozen=True, slots=True)
class MadePlaces:
    """Paths (relative, deepest first) that were not there before the step."""

    missing: tuple[str, ...]

    @classmethod
    def look(cls, parts: Parts, record: ContainerRecord, places: Iterable[str]) -> MadePlaces:
        """Blocking: which of the places, and of the directories above them, the root does not have yet."""
        root = parts.launcher.open_root(parts.snapshots.assembly(record.id, record.layers))
        try:
            wanted = {part for place in places for part in _chain(place)}
            missing = [path for path in wanted if not _exists(root, path)]
        finally:
            os.close(root)
        return cls(tuple(sorted(missing, key=lambda path: -path.count("/"))))

    def remove(self, upper: Path) -> None:
        """Blocking: take them out of the layer again, if they are still empty. Nothing runs in it any more."""
        top = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path in self.missing:
                _remove_empty(top, path)
        finally:
            os.close(top)


def _chain(place: str) -> list[str]:
    """The path and every directory above it, without the root itself."""
    parts = posixpath.normpath(place).strip("/").split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1) if parts != ["."]]


def _exists(root: int, path: str) -> bool:
    try:
        os.close(open_in_root(root, path, os.O_PATH))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # something is there, be it a link that leads nowhere good
    return True


def _remove_empty(top: int, path: str) -> None:
    directory, name = posixpath.split(path)
    try:
        parent = open_in_root(
            top, directory or ".", os.O_RDONLY | os.O_DIRECTORY, resolve=RESOLVE_NO_SYMLINKS
        )
    except OSError:
        return  # the step put something else there: it stays
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(name, dir_fd=parent)
        elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
            os.unlink(name, dir_fd=parent)
    except OSError:
        return  # not there, or not empty: the step's own
    finally:
        os.close(parent)
