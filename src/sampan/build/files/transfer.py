"""A file's content from one descriptor to another, and the proof that it is what was hashed.

The kernel moves the data of large files (reflink, copy_file_range, sendfile: 4 GB/s from the page cache, where
hashing does one); what it can't do between two file systems is tried once. Small ones take one read and one write.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading

from sampan.build.errors import BuildCancelled
from sampan.build.files.scan import Entry
from sampan.build.files.tree import Selection, Tree

_FICLONE = 0x40049409
"""ioctl of linux/fs.h: share the source's blocks."""
_CHUNK = 16 << 20
_SMALL = 64 << 10
_IMPOSSIBLE = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.ENOTTY)


class Transfer:
    def __init__(self, cancelled: threading.Event) -> None:
        self._cancelled = cancelled
        self._reflinks = True
        self._ranges = True

    def copy(self, source: int, target: int) -> None:
        """All that is left behind `source`."""
        if self._reflinks and os.fstat(source).st_size > _SMALL:
            try:
                fcntl.ioctl(target, _FICLONE, source)
            except OSError as error:
                if error.errno not in _IMPOSSIBLE:
                    raise
                self._reflinks = False
            else:
                return
        while self._some(source, target):
            if self._cancelled.is_set():
                raise BuildCancelled

    def _some(self, source: int, target: int) -> int:
        if self._ranges:
            try:
                return os.copy_file_range(source, target, _CHUNK)
            except OSError as error:
                if error.errno not in _IMPOSSIBLE:
                    raise
                self._ranges = False
        return os.sendfile(target, source, None, _CHUNK)

    def copy_entry(self, tree: Tree, selection: Selection, entry: Entry, source: int, target: int) -> None:
        """`target` is open for reading too. Raises `SourceChanged` when what was copied is not what was hashed."""
        known = tree.checksums.find(entry) if tree.is_context else None
        if entry.size <= _SMALL:
            data = os.read(source, entry.size + 1)
            if len(data) != entry.size or (
                hashlib.sha256(data).digest() != known
                if known is not None
                else tree.is_context and not entry.is_still(os.fstat(source))
            ):
                raise tree.changed(selection, entry)
            if data:
                os.write(target, data)
            return
        self.copy(source, target)
        if not tree.is_context:
            return
        # Another name or mode of the file changes its ctime too: then, too, the content decides.
        sure = entry.is_still(os.fstat(source)) and (
            not tree.checksums.lasts or tree.checksums.is_settled(entry)
        )
        if not sure and (known is None or self._hash(target) != known):
            raise tree.changed(selection, entry)

    def _hash(self, fd: int) -> bytes:
        digest, place = hashlib.sha256(), 0
        while data := os.pread(fd, _CHUNK, place):
            digest.update(data)
            place += len(data)
            if self._cancelled.is_set():
                raise BuildCancelled
        return digest.digest()
