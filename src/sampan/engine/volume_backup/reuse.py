"""Files that an incremental backup has from the one before it: moved out of that one's tree, or copied."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Final

from sampan.engine.copy_tree import copy_content
from sampan.engine.volume_backup.format import Entry, bytes_of, text_of
from sampan.engine.volume_backup.walk import open_below
from sampan.errors import Invalid

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Bases:
    """The backup before, as it lies in the directory `root` (the descriptor is the caller's).

    files: its files' entries by path, which were checked. ours: the tree was unpacked for this alone, so that its
    files may become the new tree's.
    """

    def __init__(self, backup_id: str, root: int, files: dict[bytes, Entry], *, ours: bool) -> None:
        self.id = backup_id
        self.root = root
        self.ours = ours
        self.used: set[int] = set()
        self._files = files

    def entry(self, path: bytes) -> Entry:
        """Raises `Invalid` when it has no such file."""
        found = self._files.get(path)
        if found is None:
            raise Invalid(f"the backup needs {text_of(path[:200])!r} of its base, which has no such file")
        return found


def link_or_copy(
    bases: Bases, entry: Entry, parent: int, name: bytes, room: Callable[[int], object] = lambda _size: None
) -> int:
    """Make the file `name` of the directory `parent` with the content of the base's file.

    Its descriptor, without any attribute of the base's. `room` is told how many bytes are about to be copied, and may
    raise: an increment can name one large file as often as it likes. Raises OSError, `Invalid`.
    """
    path = bytes_of(entry.path)
    source = open_below(bases.root, path, os.O_PATH | os.O_NOFOLLOW)
    try:
        status = os.fstat(source)
        if not stat.S_ISREG(status.st_mode):
            raise Invalid(f"the base's file {entry.path[:200]!r} is none")
        read = os.open(f"/proc/self/fd/{source}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(source)
    try:
        if not bases.ours or status.st_ino in bases.used:
            return _copied(read, parent, name, room)
        bases.used.add(status.st_ino)
        above, _, last = path.rpartition(b"/")
        directory = open_below(bases.root, above, os.O_PATH | os.O_DIRECTORY)
        try:
            os.link(last, name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(directory)
        for attribute in os.listxattr(read):
            if not attribute.startswith("security.selinux"):
                os.removexattr(read, attribute)
        return os.dup(read)
    finally:
        os.close(read)


def _copied(read: int, parent: int, name: bytes, room: Callable[[int], object]) -> int:
    write = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
    try:
        copy_content(read, write, room)
    except BaseException:
        os.close(write)
        raise
    return write
