"""A volume's tree, entry by entry in the order of archive and manifest, while containers may change it.

Everything is reached by descriptors: no symbolic link is followed, no device opened.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from sampan.engine.volume_backup.format import DEPTH_MAX, Entry, Kind, bounded_time, piece_mark, text_of
from sampan.errors import Invalid
from sampan.linux.paths import RESOLVE_NO_SYMLINKS, open_in_root, open_regular
from sampan.linux.process import KERNELS_OWN, filesystem_type

CHUNK: Final = 4 << 20
"""Bytes read at a time: each piece goes through two threads, which have to wait for a processor on a busy host."""
SMALL: Final = 128 << 10
"""Bytes of a file that is read at once."""
PIECES_MAX: Final = 1 << 16
"""Pieces of a sparse file; of one with more the smallest holes are filled."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH_PIECE: Final = 4000
"""Bytes of a path that are looked up at once: PATH_MAX is 4096."""
_KEPT: Final = ("user.", "trusted.", "security.capability", "system.posix_acl_")
"""Other attributes are the host's (SELinux's labels, signatures of IMA), which a restore has no say in."""

Pieces = tuple[tuple[int, int], ...]


class Found(msgspec.Struct, frozen=True):
    """`descriptor`: a directory's own, open until the walk goes on behind it; else -1. The top has the path b""."""

    path: bytes
    parent: int
    name: bytes
    status: os.stat_result
    descriptor: int = -1


def walk(root: int, vanished: Callable[[bytes], object] = lambda _path: None) -> Iterator[Found]:
    """The directory `root` (its descriptor stays the caller's) and all below it.

    `vanished` is told what was removed between the look into its directory and the look at it. Raises OSError,
    `Invalid` (nested too deeply).
    """
    # Opened now: Btrfs lists only what was in a directory when it was opened.
    top = os.open(".", _DIRECTORY, dir_fd=root)
    stack: list[tuple[int, bytes, Iterator[bytes]]] = [(top, b"", iter(()))]
    try:
        stack[0] = (top, b"", _names(top))
        yield Found(b"", top, b".", os.fstat(top), top)
        while stack:
            parent, above, names = stack[-1]
            name = next(names, None)
            if name is None:
                os.close(stack.pop()[0])
                continue
            path = above + b"/" + name if above else name
            try:
                found = _look(parent, name, path)
            except FileNotFoundError:
                vanished(path)
                continue
            if found.descriptor >= 0:
                stack.append((found.descriptor, path, iter(())))
                if len(stack) > DEPTH_MAX:
                    raise Invalid(f"directories are nested more than {DEPTH_MAX} deep")
                stack[-1] = (found.descriptor, path, _names(found.descriptor))
            yield found
    finally:
        for descriptor, _, _ in stack:
            os.close(descriptor)


def _names(directory: int) -> Iterator[bytes]:
    """Sorted. What procfs and its like show is no content, should somebody have mounted one here."""
    if filesystem_type(directory) in KERNELS_OWN:
        return iter(())
    return iter(sorted(os.fsencode(name) for name in os.listdir(directory)))


def _look(parent: int, name: bytes, path: bytes) -> Found:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        return Found(path, parent, name, status)
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        # It became something else meanwhile.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from error
    return Found(path, parent, name, os.fstat(descriptor), descriptor)


def open_below(root: int, path: bytes, flags: int) -> int:
    """Open a path of the tree `root` that may be longer than the kernel takes at once; "" is the top.

    Symbolic links are refused. Raises OSError.
    """
    here, rest = root, path
    try:
        while len(rest) > _PATH_PIECE:
            cut = rest.rfind(b"/", 0, _PATH_PIECE)
            if cut <= 0:
                break  # the kernel will say that a name is too long
            directory = os.O_PATH | os.O_DIRECTORY
            found = open_in_root(here, os.fsdecode(rest[:cut]), directory, resolve=RESOLVE_NO_SYMLINKS)
            if here != root:
                os.close(here)
            here, rest = found, rest[cut + 1 :]
        return open_in_root(here, os.fsdecode(rest) or ".", flags, resolve=RESOLVE_NO_SYMLINKS)
    finally:
        if here != root:
            os.close(here)


def kind_of(status: os.stat_result) -> Kind | None:
    """None for a socket."""
    return _KINDS.get(stat.S_IFMT(status.st_mode))


_KINDS: Final[dict[int, Kind]] = {
    stat.S_IFDIR: "dir",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


def open_file(found: Found) -> int:
    """Of a regular file. Raises `FileNotFoundError` also when it has become something else."""
    try:
        return open_regular(found.parent, found.name)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), found.name) from error


def read_target(found: Found) -> bytes:
    """Of a symbolic link. Raises `FileNotFoundError` also when it has become something else."""
    try:
        return os.readlink(found.name, dir_fd=found.parent)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), found.name) from error


def read_xattrs(descriptor: int | str) -> dict[bytes, bytes]:
    """The attributes that travel, by name in order; `descriptor` may be a path."""
    try:
        names = os.listxattr(descriptor)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return {}
    found: dict[bytes, bytes] = {}
    for name in sorted(names):
        if not name.startswith(_KEPT):
            continue
        try:
            found[os.fsencode(name)] = os.getxattr(descriptor, name)
        except OSError as error:
            if error.errno != errno.ENODATA:  # removed meanwhile
                raise
    return found


def node_xattrs(found: Found) -> dict[bytes, bytes]:
    """Of a device or a fifo, without opening it."""
    descriptor = os.open(found.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=found.parent)
    try:
        return read_xattrs(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def make_entry(
    path: bytes,
    kind: Kind,
    status: os.stat_result,
    *,
    size: int = 0,
    sha256: str = "",
    sparse: bool = False,
    target: bytes = b"",
    xattrs: dict[bytes, bytes] | None = None,
) -> Entry:
    device = None
    if kind in ("char", "block"):
        device = os.major(status.st_rdev), os.minor(status.st_rdev)
    return Entry(
        text_of(path),
        kind,
        0 if kind == "symlink" else stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        bounded_time(status.st_mtime_ns),
        size,
        sha256,
        sparse,
        text_of(target),
        device,
        {text_of(name): value for name, value in (xattrs or {}).items()},
    )


def data_pieces(descriptor: int, status: os.stat_result) -> Pieces | None:
    """(offset, length) of the parts of a file that are not holes; None when it has no holes (lseek(2), SEEK_DATA)."""
    size = status.st_size
    if status.st_blocks * 512 >= size:
        return None
    pieces: list[tuple[int, int]] = []
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None  # the file system can't tell
            if error.errno != errno.ENXIO:
                raise
            break  # nothing but a hole is left
        try:
            end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # it was made shorter meanwhile
        if start >= size:
            break
        if pieces and pieces[-1][0] + pieces[-1][1] == start:
            pieces[-1] = (pieces[-1][0], end - pieces[-1][0])
        else:
            pieces.append((start, end - start))
        position = end
    if pieces == [(0, size)]:
        return None
    return _fewer(pieces)


def _fewer(pieces: list[tuple[int, int]]) -> Pieces:
    gap = 4096
    while len(pieces) > PIECES_MAX:
        gap *= 2
        joined = pieces[:1]
        for start, length in pieces[1:]:
            before, had = joined[-1]
            if start - before - had < gap:
                joined[-1] = (before, start + length - before)
            else:
                joined.append((start, length))
        pieces = joined
    return tuple(pieces)


class Contents:
    """Reads files' contents, hashing them: SHA-256 of the bytes, with marks between the pieces of a sparse file."""

    def __init__(self) -> None:
        self.short = False
        """The last file was shorter than it had said: zeros stand for the rest."""

    def digest(
        self,
        descriptor: int,
        size: int,
        pieces: Pieces | None,
        take: Callable[[bytes], object] = lambda _piece: None,
    ) -> str:
        """Hexadecimal; `take` gets the bytes as they are read."""
        hashed = hashlib.sha256()
        self.short = False
        for start, length in ((0, size),) if pieces is None else pieces:
            if pieces is not None:
                hashed.update(piece_mark(start, length))
            position, end = start, start + length
            while position < end:
                wanted = min(CHUNK, end - position)
                piece = os.pread(descriptor, wanted, position)
                if not piece:
                    self.short = True
                    piece = bytes(wanted)
                take(piece)
                hashed.update(piece)
                position += len(piece)
        return hashed.hexdigest()

    def whole(self, descriptor: int, size: int) -> tuple[bytes, str]:
        """A file of at most `SMALL` bytes without holes: its bytes and their digest."""
        data = os.pread(descriptor, size, 0) if size else b""
        while len(data) < size and (piece := os.pread(descriptor, size - len(data), len(data))):
            data += piece
        self.short = len(data) < size
        if self.short:
            data = data.ljust(size, b"\0")
        return data, hashlib.sha256(data).hexdigest()
