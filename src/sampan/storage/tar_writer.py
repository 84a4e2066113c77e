"""A tree as a deterministic tar: sorted, numeric owners, times in whole seconds, pax records only where needed.

The same tree gives the same bytes always, so that a directory layer's tar stream need not be kept. Times are
cut to seconds and owners' names left out, as Docker's and BuildKit's layers have them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec

from sampan.errors import Invalid, Unsupported
from sampan.linux.paths import open_in_root, open_regular
from sampan.linux.process import KERNELS_OWN, filesystem_type
from sampan.storage import overlay_marks as marks
from sampan.storage import tar_format as tf
from sampan.storage.tar_header import pack_header

DEPTH_MAX: Final = 512  # directories inside each other; each costs a descriptor
_CHUNK: Final = 1 << 20
_GATHER: Final = 256 << 10
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_XATTRS: Final = (b"user.", b"trusted.", b"security.capability", b"system.posix_acl_")


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class TreeStats(msgspec.Struct, frozen=True):
    """What was written: `size` is the bytes of regular files' content, hard links counted once."""

    entries: int
    size: int


def write_tree(
    root_fd: int,
    out: Sink,
    *,
    path: str = "",
    prefix: str = "",
    overlay: bool = False,
    strip: bool = False,
    exclude: Callable[[str], bool] | None = None,
    owner: tuple[int, int] | None = None,
    owners: Callable[[int, int], tuple[int, int]] | None = None,
    end: bool = True,
) -> TreeStats:
    """Write the tree at `path` inside the root `root_fd` to `out` as a tar.

    prefix: the name of the tree's top in the archive; "" leaves the top itself out and names its entries without
            a prefix. What is at `path` may be no directory: then it is the only member, and needs a prefix.
    overlay: it is an overlay's upper directory: devices 0:0 and opaque directories become OCI whiteouts (`.wh.`).
    strip: take overlayfs's other attributes off the tree on the way.
    exclude: called with each entry's name in the archive; True leaves it (and what is below) out.
    owner: every entry gets this uid and gid. owners: what uid and gid become in the archive.
    end: write the two zero blocks.

    Sockets are left out, as in every tar. Raises OSError, `Invalid` (too deep), `Unsupported` (an upper
    directory made with redirects or without data).
    """
    writer = _TreeWriter(out, overlay=overlay, strip=strip, exclude=exclude, owner=owner, owners=owners)
    top = open_in_root(root_fd, path or ".", os.O_PATH | os.O_NOFOLLOW)
    try:
        if stat.S_ISDIR(os.fstat(top).st_mode):
            directory = os.open(".", _DIRECTORY, dir_fd=top)
            writer.tree(directory, os.fsencode(prefix))
        else:
            if not prefix:
                raise Invalid("a file needs a name in the archive")
            _, _, name = path.rstrip("/").rpartition("/")
            parent = open_in_root(root_fd, path.rstrip("/")[: -len(name)] or ".", _DIRECTORY & ~os.O_NOFOLLOW)
            try:
                writer.entry(parent, os.fsencode(name), os.fsencode(prefix))
            finally:
                os.close(parent)
    finally:
        os.close(top)
    writer.finish(end=end)
    return TreeStats(writer.entries, writer.size)


class _TreeWriter:
    def __init__(
        self,
        out: Sink,
        *,
        overlay: bool,
        strip: bool,
        exclude: Callable[[str], bool] | None,
        owner: tuple[int, int] | None,
        owners: Callable[[int, int], tuple[int, int]] | None = None,
    ) -> None:
        self._out = out
        self._overlay = overlay
        self._strip = strip
        self._exclude = exclude
        self._owner = owner
        self._owners = owners
        self._pieces: list[bytes] = []
        self._pending = 0
        self._links: dict[tuple[int, int], bytes] = {}
        self._kernels_own: dict[int, bool] = {}
        self.entries = 0
        self.size = 0

    def tree(self, directory: int, prefix: bytes) -> None:
        """The directory (its descriptor is closed here) under the name `prefix`; see `write_tree`."""
        stack: list[tuple[int, bytes, Iterator[bytes]]] = [(directory, prefix, iter(()))]
        try:
            stack[0] = (directory, prefix, self._enter(directory, prefix))
            while stack:
                parent, above, names = stack[-1]
                name = next(names, None)
                if name is None:
                    os.close(stack.pop()[0])
                    continue
                full = above + b"/" + name if above else name
                child = self._present_entry(parent, name, full)
                if child is not None:
                    stack.append((child, full, iter(())))
                    if len(stack) > DEPTH_MAX:
                        raise Invalid(f"directories are nested more than {DEPTH_MAX} deep")
                    stack[-1] = (child, full, self._enter(child, full))
        finally:
            for fd, _, _ in stack:
                os.close(fd)

    def _present_entry(self, parent: int, name: bytes, full: bytes) -> int | None:
        """Like `entry`; what vanished since the directory was read (the container runs) is left out."""
        try:
            return self.entry(parent, name, full)
        except FileNotFoundError:
            for key in [key for key, first in self._links.items() if first is full]:
                del self._links[key]  # its content was never written
            return None

    def _enter(self, fd: int, name: bytes) -> Iterator[bytes]:
        """Write a directory's own member(s); its entries, sorted."""
        status = os.fstat(fd)
        opaque, xattrs = self._xattrs(fd)
        if status.st_dev not in self._kernels_own:
            self._kernels_own[status.st_dev] = filesystem_type(fd) in KERNELS_OWN
        if name:
            self._member(name + b"/", tf.DIRECTORY, status, xattrs=xattrs)
        if opaque:
            self._whiteout(name, marks.OPAQUE)
        # What procfs and its like show is no content, and some of it has no end (/proc/kcore).
        return iter(
            () if self._kernels_own[status.st_dev] else sorted(os.fsencode(entry) for entry in os.listdir(fd))
        )

    def entry(self, parent: int, name: bytes, full: bytes) -> int | None:
        """Write one entry; a directory is only opened, and its descriptor returned."""
        if self._exclude is not None and self._exclude(os.fsdecode(full)):
            return None
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            return os.open(name, _DIRECTORY, dir_fd=parent)
        if kind == stat.S_IFCHR and not status.st_rdev and self._overlay:
            above, _, _ = full.rpartition(b"/")
            self._whiteout(above, marks.PREFIX + name)
            return None
        if kind == stat.S_IFSOCK:
            return None
        if status.st_nlink > 1:
            first = self._links.setdefault((status.st_dev, status.st_ino), full)
            if first is not full:
                self._member(full, tf.HARD_LINK, status, link=first)
                return None
        if kind == stat.S_IFREG:
            self._file(parent, name, full)
        elif kind == stat.S_IFLNK:
            self._member(full, tf.SYMLINK, status, link=os.readlink(name, dir_fd=parent))
        elif kind == stat.S_IFIFO:
            self._member(full, tf.FIFO, status)
        else:
            device = (os.major(status.st_rdev), os.minor(status.st_rdev))
            self._member(
                full, tf.CHAR_DEVICE if kind == stat.S_IFCHR else tf.BLOCK_DEVICE, status, device=device
            )
        return None

    def _open(self, parent: int, name: bytes) -> int:
        """A tree that is stripped is ours alone: nobody puts something else there between the look and the opening."""
        if self._strip:
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        return open_regular(parent, name)

    def _file(self, parent: int, name: bytes, full: bytes) -> None:
        try:
            fd = self._open(parent, name)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise Invalid(f"{os.fsdecode(full)!r} changed while it was read") from error
        try:
            status = os.fstat(fd)
            _, xattrs = self._xattrs(fd)
            self._member(full, tf.REGULAR, status, size=status.st_size, xattrs=xattrs)
            self.size += status.st_size
            left = status.st_size
            while left:
                piece = os.read(fd, min(left, _CHUNK))
                if not piece:  # it became shorter meanwhile; the header has promised its size
                    piece = bytes(min(left, _CHUNK))
                self._put(piece)
                left -= len(piece)
            if status.st_size % tf.BLOCK:
                self._put(bytes(-status.st_size % tf.BLOCK))
        finally:
            os.close(fd)

    def _xattrs(self, fd: int) -> tuple[bool, dict[bytes, bytes] | None]:
        """(opaque directory, the attributes that travel)."""
        try:
            names = os.listxattr(fd)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            names = []
        if not names:
            return False, None
        opaque = False
        found: dict[bytes, bytes] = {}
        for text in names:
            name = os.fsencode(text)
            if marks.is_overlay_xattr(name):
                if self._overlay and name in marks.INCOMPLETE:
                    raise Unsupported(f"the upper directory has {text}: it can't become a layer by itself")
                if name == marks.OPAQUE_XATTR and self._overlay:
                    opaque = os.getxattr(fd, text) == marks.OPAQUE_VALUE
                elif self._strip:
                    os.removexattr(fd, text)
            elif name.startswith(_KEPT_XATTRS):
                found[name] = os.getxattr(fd, text)
        return opaque, found or None

    def _whiteout(self, directory: bytes, name: bytes) -> None:
        full = directory + b"/" + name if directory else name
        self.entries += 1
        self._put(pack_header(full, tf.REGULAR, mode=0o600, uid=0, gid=0, mtime=0))

    def _member(
        self,
        name: bytes,
        kind: bytes,
        status: os.stat_result,
        *,
        size: int = 0,
        link: bytes = b"",
        device: tuple[int, int] = (0, 0),
        xattrs: dict[bytes, bytes] | None = None,
    ) -> None:
        uid, gid = self._owner or (status.st_uid, status.st_gid)
        if self._owners is not None:
            uid, gid = self._owners(uid, gid)
        self.entries += 1
        self._put(
            pack_header(
                name,
                kind,
                mode=stat.S_IMODE(status.st_mode),
                uid=uid,
                gid=gid,
                mtime=status.st_mtime_ns // 1_000_000_000,
                size=size,
                link=link,
                device=device,
                xattrs=xattrs,
            )
        )

    def _put(self, piece: bytes) -> None:
        if len(piece) >= _GATHER:
            if self._pending:
                self._flush()
            self._out.write(piece)
            return
        self._pieces.append(piece)
        self._pending += len(piece)
        if self._pending >= _GATHER:
            self._flush()

    def _flush(self) -> None:
        self._out.write(b"".join(self._pieces))
        self._pieces.clear()
        self._pending = 0

    def finish(self, *, end: bool) -> None:
        if end:
            self._put(tf.ZERO_BLOCK * 2)
        if self._pending:
            self._flush()
