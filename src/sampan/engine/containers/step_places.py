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
from sampan.storage.overlay_marks import OPAQUE_XATTR


@dataclass(frozen=True, slots=True)
class _Look:
    """What of a directory would show that a step has changed it."""

    mode: int
    uid: int
    gid: int
    xattrs: tuple[tuple[str, bytes], ...]

    @classmethod
    def at(cls, descriptor: int) -> _Look:
        info = os.fstat(descriptor)
        path = f"/proc/self/fd/{descriptor}"
        names = [name for name in os.listxattr(path) if not name.startswith("trusted.overlay.")]
        return cls(
            info.st_mode, info.st_uid, info.st_gid, tuple((name, os.getxattr(path, name)) for name in names)
        )


@dataclass(frozen=True, slots=True)
class MadePlaces:
    """`missing`: paths (relative, deepest first) that were not there before the step. `above`: the directories above
    them that were: making something in them brings these into the layer, too."""

    missing: tuple[str, ...]
    above: tuple[tuple[str, _Look], ...] = ()

    @classmethod
    def look(cls, parts: Parts, record: ContainerRecord, places: Iterable[str]) -> MadePlaces:
        """Blocking: which of the places, and of the directories above them, the root does not have yet."""
        root = parts.launcher.open_root(parts.snapshots.assembly(record.id, record.layers))
        try:
            wanted = {part for place in places for part in _chain(place)}
            missing = [path for path in wanted if not _exists(root, path)]
            parents = {part for path in missing for part in _chain(path)} - set(missing)
            above = [(path, look) for path in parents if (look := _look(root, path)) is not None]
        finally:
            os.close(root)
        return cls(
            tuple(sorted(missing, key=_deepest_first)),
            tuple(sorted(above, key=lambda item: _deepest_first(item[0]))),
        )

    def remove(self, upper: Path) -> None:
        """Blocking: take them out of the layer again, if they are still empty. Nothing runs in it any more."""
        top = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path in self.missing:
                _remove_empty(top, path)
            for path, look in self.above:
                if _look(top, path) == look and not _is_opaque(top, path):
                    _remove_empty(top, path)
        finally:
            os.close(top)


def _deepest_first(path: str) -> int:
    return -path.count("/")


def _look(root: int, path: str) -> _Look | None:
    """None for what is no directory, or lies behind a link: that one is another path's."""
    try:
        descriptor = open_in_root(root, path, os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_NO_SYMLINKS)
    except OSError:
        return None
    try:
        return _Look.at(descriptor)
    finally:
        os.close(descriptor)


def _is_opaque(top: int, path: str) -> bool:
    descriptor = open_in_root(top, path, os.O_PATH | os.O_DIRECTORY, resolve=RESOLVE_NO_SYMLINKS)
    try:
        return OPAQUE_XATTR.decode() in os.listxattr(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


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
