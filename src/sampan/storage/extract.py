"""A hostile tar unpacked safely below a directory descriptor.

Used for build contexts, `ADD` of an archive, `cp` into a container, and layers where EROFS can't be mounted.
Parents are resolved inside the root by the kernel, as after a chroot; the last part of a name is never
followed. The same errors as Docker's for what climbs out.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Container, Iterable, Iterator
from typing import BinaryIO, Final

import msgspec

from sampan.errors import Conflict, Invalid, SampanError, Unavailable
from sampan.linux.paths import mkdirs_in_root, open_in_root
from sampan.storage import overlay_marks as marks
from sampan.storage import tar_format as tf
from sampan.storage.decompress import CHUNK, decompressed
from sampan.storage.layer_tree import LayerTree, clean, display
from sampan.storage.removal import remove_entry
from sampan.storage.tar_format import Member, TarLimits
from sampan.storage.tar_reader import TarReader

CALLER: Final = (-1, -1)  # an `owner` that leaves entries to whom they were created by
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_IGNORED_XATTR_ERRORS: Final = frozenset({errno.ENOTSUP, errno.EPERM, errno.EINVAL, errno.ENODATA})
_NODES: Final = {tf.CHAR_DEVICE: stat.S_IFCHR, tf.BLOCK_DEVICE: stat.S_IFBLK, tf.FIFO: stat.S_IFIFO}
_LATEST: Final = (1 << 63) // 1_000_000_000 - 1
_KNOWN: Final = frozenset({tf.REGULAR, tf.DIRECTORY, tf.SYMLINK, tf.HARD_LINK, *_NODES})
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE})


class ExtractOptions(msgspec.Struct, frozen=True):
    """What to take over from the archive.

    owner: None keeps the archive's numeric owners; (uid, gid) gives everything to one; `CALLER` changes none.
    keep_set_id: False clears the set-user-id and set-group-id bits.
    settle: directories that something comes into and that the archive does not list get its newest time, not that of
            the unpacking: equal archives give equal trees.
    """

    owner: tuple[int, int] | None = None
    owners: Callable[[int, int], tuple[int, int]] | None = None
    mtime: bool = True
    xattrs: bool = True
    devices: bool = True  # device nodes and fifos; False: `Invalid` when one comes
    whiteouts: bool = False  # `.wh.` entries become overlayfs marks
    no_overwrite_dir_non_dir: bool = (
        False  # Docker's rule for `cp`: a directory and a file don't replace each other
    )
    keep_set_id: bool = True
    settle: bool = False
    max_bytes: int = 1 << 40  # of the plain stream, and of the files' sizes
    max_entries: int = 4_000_000


class Extracted(msgspec.Struct, frozen=True):
    entries: int
    size: int  # bytes of regular files' content
    newest: int = 0  # the latest time of an entry, seconds since 1970


_DEFAULTS: Final = ExtractOptions()


def extract_tar(
    stream: BinaryIO | Iterable[bytes],
    root_fd: int,
    options: ExtractOptions = _DEFAULTS,
    *,
    directory: str = "",
    look: Callable[[], object] | None = None,
) -> Extracted:
    """Unpack a plain or compressed (gzip, zstd, bzip2, xz) tar into `directory` inside the root `root_fd`.

    `directory` must exist; symbolic links in it and in the archive are resolved inside the root. What was
    unpacked before an error stays. `look` is called now and then, and may raise: what takes little room compressed
    can be much. Raises `Invalid` (the archive), `Conflict` (no_overwrite_dir_non_dir), `Unavailable` (the disk),
    OSError (`directory`).
    """
    chunks = iter(lambda: stream.read(CHUNK), b"") if hasattr(stream, "read") else stream
    plain = decompressed(chunks, options.max_bytes)
    if look is not None:
        plain = _watched(plain, look)
    extraction = _Extraction(root_fd, directory, options)
    try:
        return extraction.run(TarReader(plain, TarLimits(members=options.max_entries)))
    finally:
        extraction.close()


def _watched(pieces: Iterator[bytes], look: Callable[[], object]) -> Iterator[bytes]:
    for piece in pieces:
        look()
        yield piece


class _Extraction:
    def __init__(self, root_fd: int, directory: str, options: ExtractOptions) -> None:
        self._root = root_fd
        self._base = directory.strip("/")
        self._options = options
        self._base_fd = open_in_root(root_fd, directory or ".", _DIRECTORY & ~os.O_NOFOLLOW)
        self._parent: tuple[bytes, int] = (b"", self._base_fd)
        self._directories: dict[bytes, tuple[int, int]] = {}  # times, set when all is there
        self._unlisted: dict[bytes, None] = {}
        self._inside: dict[bytes, set[bytes]] = {}
        self._whiteouts: set[bytes] = set()
        # A layer is refused for what makes its EROFS form impossible, so that both forms accept the same layers.
        self._tree = LayerTree(max_nodes=options.max_entries) if options.whiteouts else None
        self._entries = 0
        self._size = 0
        self._newest = 0

    def close(self) -> None:
        if self._parent[1] != self._base_fd:
            os.close(self._parent[1])
        os.close(self._base_fd)

    def run(self, reader: TarReader) -> Extracted:
        for member in reader:
            try:
                if self._tree is not None:
                    self._tree.add(member)
                self._newest = max(self._newest, member.mtime)
                self._extract(member, reader)
            except SampanError:
                raise
            except OSError as error:
                raise _translated(member.name, error) from error
        self._finish_directories()
        return Extracted(self._entries, self._size, min(self._newest, _LATEST))

    def _extract(self, member: Member, reader: TarReader) -> None:
        if member.type == tf.GNU_VOLUME:
            return  # the archive's label is no file
        parts = clean(member.name)
        if not parts:
            if member.type != tf.DIRECTORY:
                raise Invalid(f"tar entry {display(member.name)!r}: the root can only be a directory")
            if not self._base and self._options.whiteouts:
                self._attributes(self._base_fd, member)  # a layer's own root; elsewhere `.` changes nothing
                self._directories[b""] = (member.mtime, member.mtime_nsec)
            return
        name = parts[-1]
        parent = self._open_parent(b"/".join(parts[:-1]), member)
        if self._options.whiteouts and name.startswith(marks.PREFIX):
            self._whiteout(parent, b"/".join(parts), name)
            return
        if member.type not in _KNOWN:
            raise Invalid(f"tar entry {display(member.name)!r}: unhandled tar header type {member.type[0]}")
        self._entries += 1
        opaque = self._clear_way(parent, b"/".join(parts), name, member)
        if member.type == tf.DIRECTORY:
            self._make_directory(parent, b"/".join(parts), name, member, opaque=opaque)
        elif member.type == tf.REGULAR:
            self._make_file(parent, name, member, reader)
        elif member.type == tf.SYMLINK:
            os.symlink(member.link, name, dir_fd=parent)
            self._link_attributes(parent, name, member)
        elif member.type == tf.HARD_LINK:
            self._make_hard_link(parent, name, member)
        else:
            self._make_node(parent, name, member)

    def _open_parent(self, path: bytes, member: Member) -> int:
        """The descriptor of the directory `path` (clean), made where missing; the last one is kept open."""
        if not path:
            return self._base_fd
        if self._parent[0] == path:
            return self._parent[1]
        full = os.path.join(self._base, os.fsdecode(path))
        if self._options.settle:
            self._note_unlisted(path)
        try:
            fd = open_in_root(self._root, full, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            uid, gid = self._options.owner or self._mapped(0, 0)
            if self._whiteouts:
                self._revive(path)
            made = mkdirs_in_root(self._root, full, 0o755, max(uid, 0), max(gid, 0))
            fd = os.open(".", _DIRECTORY, dir_fd=made)
            os.close(made)
        except NotADirectoryError:
            if not self._revive(path):
                raise Invalid(f"tar entry {display(member.name)!r}: a parent is not a directory") from None
            return self._open_parent(path, member)
        self._forget_parent()
        self._parent = (path, fd)
        return fd

    def _note_unlisted(self, path: bytes) -> None:
        """The directory, or what will have to be made of it and the one that this is made in."""
        while path and path not in self._unlisted:
            self._unlisted[path] = None
            try:
                os.close(open_in_root(self._root, os.path.join(self._base, os.fsdecode(path)), os.O_PATH))
            except OSError:
                path = path.rpartition(b"/")[0]
            else:
                return

    def _revive(self, path: bytes) -> bool:
        """A whiteout of this layer stands where a directory of this layer goes: it becomes an opaque directory."""
        parts = path.split(b"/")
        for count in range(1, len(parts) + 1):
            above = b"/".join(parts[:count])
            if above in self._whiteouts:
                self._whiteouts.discard(above)
                parent = open_in_root(
                    self._root,
                    os.path.join(self._base, os.fsdecode(b"/".join(parts[: count - 1]))) or ".",
                    _DIRECTORY,
                )
                try:
                    os.unlink(parts[count - 1], dir_fd=parent)
                    os.mkdir(parts[count - 1], 0o755, dir_fd=parent)
                    self._mark_opaque(parent, parts[count - 1])
                finally:
                    os.close(parent)
                return True
        return False

    def _forget_parent(self) -> None:
        """A directory or symlink was replaced: the open parent may be another one now."""
        if self._parent[1] != self._base_fd:
            os.close(self._parent[1])
        self._parent = (b"", self._base_fd)

    def _clear_way(self, parent: int, full: bytes, name: bytes, member: Member) -> bool:
        """Remove what the member replaces; True when that was a whiteout of this archive."""
        try:
            old = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return False
        was, becomes = stat.S_ISDIR(old), member.type == tf.DIRECTORY
        if self._options.no_overwrite_dir_non_dir and was != becomes:
            kinds = ("directory", "non-directory") if was else ("non-directory", "directory")
            raise Conflict(
                f'cannot overwrite {kinds[0]} "{display(full)}" with {kinds[1]} "{self._base or "/"}"'
            )
        if was and becomes:
            return False
        if member.type == tf.HARD_LINK and self._same_file(parent, name, member):
            return False
        remove_entry(parent, name)
        if (was or stat.S_ISLNK(old)) and self._parent[1] != parent:
            self._forget_parent()
        if was:
            self._forget_times(full)
        if full in self._whiteouts:
            self._whiteouts.discard(full)
            return True
        return False

    def _keep_times(self, full: bytes, times: tuple[int, int]) -> None:
        """For the end, when all is there. What lies in a directory is known by it, so that it can be forgotten."""
        self._directories[full] = times
        path = full
        while path:
            above = path.rpartition(b"/")[0]
            known = self._inside.setdefault(above, set())
            if path in known:
                return
            known.add(path)
            path = above

    def _forget_times(self, full: bytes) -> None:
        """Of a directory that is removed, and of all in it."""
        self._inside.get(full.rpartition(b"/")[0], set()).discard(full)
        pending = [full]
        while pending:
            path = pending.pop()
            self._directories.pop(path, None)
            pending += self._inside.pop(path, ())

    def _make_directory(self, parent: int, full: bytes, name: bytes, member: Member, *, opaque: bool) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            pass
        if opaque:
            self._mark_opaque(parent, name)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            self._attributes(fd, member)
        finally:
            os.close(fd)
        self._keep_times(full, (member.mtime, member.mtime_nsec))

    def _make_file(self, parent: int, name: bytes, member: Member, reader: TarReader) -> None:
        self._size += member.size
        if self._size > self._options.max_bytes:
            raise Invalid(f"the archive's files are larger than {self._options.max_bytes} bytes")
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            if member.sparse is None:
                left = member.stored
                while left:
                    piece = reader.take()
                    left -= len(piece)
                    _write(fd, piece)
            else:
                _write_sparse(fd, member, reader)
            self._attributes(fd, member)
            if self._options.mtime:
                os.utime(fd, ns=_times(member.mtime, member.mtime_nsec))
        finally:
            os.close(fd)

    def _make_hard_link(self, parent: int, name: bytes, member: Member) -> None:
        target_parent, target = self._link_target(member)
        try:
            mode = os.stat(target, dir_fd=target_parent, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                raise Invalid(f"{_link_text(member)}: its target is a directory")
            try:
                os.link(target, name, src_dir_fd=target_parent, dst_dir_fd=parent, follow_symlinks=False)
            except FileExistsError:
                if not self._same_file(parent, name, member):
                    raise
        except FileNotFoundError:
            raise Invalid(f"{_link_text(member)}: its target does not exist") from None
        finally:
            os.close(target_parent)

    def _same_file(self, parent: int, name: bytes, member: Member) -> bool:
        try:
            target_parent, target = self._link_target(member)
        except Invalid:
            return False
        try:
            there = os.stat(target, dir_fd=target_parent, follow_symlinks=False)
            here = os.stat(name, dir_fd=parent, follow_symlinks=False)
            return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
        except FileNotFoundError:
            return False
        finally:
            os.close(target_parent)

    def _link_target(self, member: Member) -> tuple[int, bytes]:
        """(descriptor of the target's directory, its name); link targets are relative to `directory`."""
        parts = clean(member.link, member.name)
        if not parts:
            raise Invalid(f"{_link_text(member)}: its target is a directory")
        path = os.path.join(self._base, *(os.fsdecode(part) for part in parts[:-1]))
        try:
            return open_in_root(self._root, path or ".", os.O_RDONLY | os.O_DIRECTORY), parts[-1]
        except (FileNotFoundError, NotADirectoryError):
            raise Invalid(f"{_link_text(member)}: its target does not exist") from None

    def _make_node(self, parent: int, name: bytes, member: Member) -> None:
        if not self._options.devices:
            raise Invalid(f"tar entry {display(member.name)!r}: device nodes and fifos are not accepted here")
        kind = _NODES[member.type]
        device = 0 if kind == stat.S_IFIFO else os.makedev(member.major, member.minor)
        os.mknod(name, kind | 0o600, device, dir_fd=parent)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            path = f"/proc/self/fd/{fd}"
            if self._options.owner != CALLER:
                os.chown(path, *self._owner_of(member))
            os.chmod(path, member.mode)
            if self._options.mtime:
                os.utime(path, ns=_times(member.mtime, member.mtime_nsec))
        finally:
            os.close(fd)

    def _owner_of(self, member: Member) -> tuple[int, int]:
        return self._options.owner or self._mapped(member.uid, member.gid)

    def _mapped(self, uid: int, gid: int) -> tuple[int, int]:
        return self._options.owners(uid, gid) if self._options.owners is not None else (uid, gid)

    def _link_attributes(self, parent: int, name: bytes, member: Member) -> None:
        if self._options.owner != CALLER:
            uid, gid = self._owner_of(member)
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        if self._options.mtime:
            times = _times(member.mtime, member.mtime_nsec)
            os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    def _attributes(self, fd: int, member: Member) -> None:
        """Owner first: changing it clears the set-id bits and the capabilities."""
        if self._options.owner != CALLER:
            os.fchown(fd, *self._owner_of(member))
        os.fchmod(fd, member.mode if self._options.keep_set_id else member.mode & 0o1777)
        if not self._options.xattrs:
            return
        if self._options.whiteouts and member.type == tf.DIRECTORY:
            _drop_xattrs(fd, member.xattrs or {})
        for name, value in (member.xattrs or {}).items():
            if marks.is_overlay_xattr(name):
                continue
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno not in _IGNORED_XATTR_ERRORS:
                    raise

    def _whiteout(self, parent: int, full: bytes, name: bytes) -> None:
        above = full[: -len(name)]
        if name == marks.OPAQUE:
            self._mark_opaque(parent, b".")
            return
        try:
            hidden = marks.hidden_name(name)
        except ValueError:
            raise Invalid(f"tar entry {display(full)!r}: a whiteout of nothing") from None
        if hidden is None:
            return
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:  # what this layer has itself stays, without what is below it
            if stat.S_ISDIR(os.stat(hidden, dir_fd=parent, follow_symlinks=False).st_mode):
                self._mark_opaque(parent, hidden)
            return
        self._entries += 1
        self._whiteouts.add(above + hidden)

    def _mark_opaque(self, parent: int, name: bytes) -> None:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            os.setxattr(fd, marks.OPAQUE_XATTR, marks.OPAQUE_VALUE)
        finally:
            os.close(fd)

    def _finish_directories(self) -> None:
        """Directories' times come last: what is put into them changes them."""
        if not self._options.mtime:
            return
        unlisted = dict.fromkeys(self._unlisted, (self._newest, 0))
        for path, (seconds, nanoseconds) in {**unlisted, **self._directories}.items():
            full = os.path.join(self._base, os.fsdecode(path)) or "."
            try:
                fd = open_in_root(self._root, full, _DIRECTORY)
            except OSError:
                continue  # somebody in the container has moved it
            try:
                os.utime(fd, ns=_times(seconds, nanoseconds))
            finally:
                os.close(fd)


def _drop_xattrs(fd: int, kept: Container[bytes]) -> None:
    """A layer's directory that comes again has what its last entry says (image-spec, layer.md, "Changeset")."""
    for text in os.listxattr(fd):
        name = os.fsencode(text)
        if name.startswith((b"user.", b"trusted.")) and name not in kept and not marks.is_overlay_xattr(name):
            os.removexattr(fd, text)


def _write_sparse(fd: int, member: Member, reader: TarReader) -> None:
    piece = memoryview(b"")
    for offset, length in member.sparse or ():
        os.lseek(fd, offset, os.SEEK_SET)
        while length:
            piece = piece or reader.take()
            taken = min(length, len(piece))
            _write(fd, piece[:taken])
            piece, length = piece[taken:], length - taken
    os.ftruncate(fd, member.size)


def _write(fd: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(fd, piece) :]


def _times(seconds: int, nanoseconds: int) -> tuple[int, int]:
    """(atime, mtime) in nanoseconds, inside what the kernel's interface can carry."""
    value = max(min(seconds, _LATEST), -(1 << 62) // 1_000_000_000) * 1_000_000_000
    return value + nanoseconds, value + nanoseconds


def _link_text(member: Member) -> str:
    return f"hard link {display(member.name)!r} to {display(member.link)!r}"


def _translated(name: bytes, error: OSError) -> SampanError:
    """What the archive caused is its fault (a name too long, a loop); a full disk is not."""
    text = f"unpacking {display(name)!r}: {error.strerror or error}"
    return Unavailable(text) if error.errno in _NO_SPACE else Invalid(text)
