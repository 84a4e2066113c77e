"""Writing a backup: a tree, or what of it the backup before does not have, as a tar in zstd with its manifest.

The archive ends with the manifest in a frame of its own and a footer that says where, so that a reader who can seek
has it without the rest. In a registry the archive is several layers, each a tar by itself; only a file that is larger
than a layer may be goes on in the next one, in a frame of its own.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast

import msgspec

from sampan.engine.volume_backup.base import Base
from sampan.engine.volume_backup.format import (
    ARCHIVE_LIMITS,
    BASE,
    CHANGED_NAME,
    CHANGED_SHOWN,
    DATA,
    ENTRIES_MAX,
    HEAD_MAX,
    HEAD_NAME,
    MANIFEST_MAX,
    MANIFEST_NAME,
    SIZE_MAX,
    SUMMARY_NAME,
    Entry,
    Footer,
    Head,
    Summary,
    bounded_time,
    bytes_of,
    encode_footer,
    encode_line,
    text_of,
)
from sampan.engine.volume_backup.frames import Frames
from sampan.engine.volume_backup.walk import (
    SMALL,
    Contents,
    Found,
    Pieces,
    data_pieces,
    kind_of,
    make_entry,
    node_xattrs,
    open_file,
    read_target,
    read_xattrs,
    walk,
)
from sampan.errors import Invalid
from sampan.storage import tar_format as tf
from sampan.storage.tar_header import pack_header
from sampan.storage.tar_sparse import encode_map, sparse_records

_SPOOLED: Final = 16 << 20
_COPIED: Final = 1 << 20
_TYPES: Final = {"fifo": tf.FIFO, "char": tf.CHAR_DEVICE, "block": tf.BLOCK_DEVICE}

Progress = Callable[[int], object]


class Target(Protocol):
    """Where the compressed archive goes."""

    def write(self, data: bytes, /) -> object: ...

    @property
    def full(self) -> bool:
        """The archive should go on in another layer."""

    @property
    def overfull(self) -> bool:
        """It should, be it in the middle of a file."""

    def cut(self) -> None:
        """It does: what was written since the last cut is one."""


def spool(directory: Path) -> BinaryIO:
    """A file without a name, on disk when it is large."""
    return cast(BinaryIO, tempfile.SpooledTemporaryFile(max_size=_SPOOLED, dir=str(directory)))


def write_backup(
    root: int,
    target: Target,
    head: Head,
    *,
    base: Base | None = None,
    directory: Path,
    progress: Progress = lambda _size: None,
    changed: Callable[[], list[bytes]] = list,
    manifest: BinaryIO | None = None,
) -> Summary:
    """Write the tree below the directory `root`. `head.base` is `base.id`.

    progress: bytes of files that are done. changed: called when all is read, paths that changed meanwhile. directory:
    where temporary files go. manifest: gets the compressed manifest. Raises OSError, `Invalid`, what `target` raises.
    """
    with spool(directory) as lines, Frames(target.write) as frames:
        writer = _Writer(target, frames, lines, base, progress)
        encoded = msgspec.json.encode(head)
        if len(encoded) > HEAD_MAX:
            raise Invalid(
                f"the labels of volume {head.volume} are more than the {HEAD_MAX} bytes that a backup can have"
            )
        writer.member(HEAD_NAME, encoded)
        writer.tree(root)
        return writer.finish(head, changed(), manifest)


class _Writer:
    def __init__(
        self, target: Target, frames: Frames, lines: BinaryIO, base: Base | None, progress: Progress
    ) -> None:
        self._target = target
        self._frames = frames
        self._lines = lines
        self._lines_size = 0
        self._hash = hashlib.sha256()
        self._base = base
        self._progress = progress
        self._contents = Contents()
        self._links: dict[tuple[int, int], bytes] = {}
        self._changed: dict[bytes, None] = {}
        self._entries = self._files = self._size = self._stored = self._stored_files = self._sockets = 0

    def member(self, name: bytes, data: bytes) -> None:
        header = pack_header(name, tf.REGULAR, mode=0o644, uid=0, gid=0, mtime=0, size=len(data))
        self._frames.write(header + data + bytes(-len(data) % tf.BLOCK))

    def tree(self, root: int) -> None:
        for found in walk(root, self._note_changed):
            try:
                self._entry(found)
            except FileNotFoundError:
                self._note_changed(found.path)
            if self._target.full:
                self._cut_layer()

    def _note_changed(self, path: bytes) -> None:
        self._changed[path] = None

    def _cut_layer(self) -> None:
        self._frames.write(tf.ZERO_BLOCK * 2)
        self._frames.cut()
        self._target.cut()

    def _entry(self, found: Found) -> None:
        kind, status = kind_of(found.status), found.status
        if kind is None:
            self._sockets += 1
            return
        if kind == "dir":
            xattrs = read_xattrs(found.descriptor)
            self._put(make_entry(found.path, kind, status, xattrs=xattrs), tf.DIRECTORY, xattrs=xattrs)
            return
        if status.st_nlink > 1:
            first = self._links.get((status.st_dev, status.st_ino))
            if first is not None:
                entry = make_entry(found.path, "hardlink", status, target=first)
                self._put(entry, tf.HARD_LINK, link=DATA + b"/" + first)
                return
        if kind == "file":
            self._file(found)
        elif kind == "symlink":
            target = read_target(found)
            self._put(make_entry(found.path, kind, status, target=target), tf.SYMLINK, link=target)
        else:
            xattrs = node_xattrs(found)
            self._put(make_entry(found.path, kind, status, xattrs=xattrs), _TYPES[kind], xattrs=xattrs)
        if status.st_nlink > 1:
            self._links[status.st_dev, status.st_ino] = found.path

    def _file(self, found: Found) -> None:
        descriptor = open_file(found)
        try:
            status = os.fstat(descriptor)
            if self._size + status.st_size > SIZE_MAX:
                raise _beyond(found.path, f"with it the files are larger than the {SIZE_MAX} bytes")
            pieces = data_pieces(descriptor, status)
            xattrs = read_xattrs(descriptor)
            if not self._unchanged(found.path, descriptor, status, pieces, xattrs):
                self._stored_file(found.path, descriptor, status, pieces, xattrs)
            after = os.fstat(descriptor)
            if self._contents.short or _moment(status) != _moment(after):
                self._note_changed(found.path)
        finally:
            os.close(descriptor)
        self._files += 1
        self._size += status.st_size
        self._progress(self._size)

    def _unchanged(
        self,
        path: bytes,
        descriptor: int,
        status: os.stat_result,
        pieces: Pieces | None,
        xattrs: dict[bytes, bytes],
    ) -> bool:
        """Refer to the base's file of the same content, if there is one."""
        size, sparse = status.st_size, pieces is not None
        if self._base is None or not size or not self._base.may_have(size):
            return False
        sha256 = self._contents.digest(descriptor, size, pieces)
        known = self._base.find(path, sha256, size, sparse=sparse)
        if known is None or self._contents.short:
            return False
        entry = make_entry(path, "file", status, size=size, sha256=sha256, sparse=sparse, xattrs=xattrs)
        self._put(entry, tf.HARD_LINK, link=BASE + b"/" + known, xattrs=xattrs)
        return True

    def _stored_file(
        self,
        path: bytes,
        descriptor: int,
        status: os.stat_result,
        pieces: Pieces | None,
        xattrs: dict[bytes, bytes],
    ) -> None:
        size = status.st_size
        if pieces is None and size <= SMALL:
            self._small_file(path, descriptor, status, xattrs)
            return
        # The header comes first and needs no checksum; the manifest's line follows the content.
        stored = size
        if pieces is None:
            self._frames.write(_header(path, tf.REGULAR, status, size=size, xattrs=xattrs))
        else:
            # GNU tar makes the file as long as its last piece, so a hole at the end needs an empty one behind it.
            last = pieces[-1][0] + pieces[-1][1] if pieces else 0
            encoded = encode_map(pieces if last == size else (*pieces, (size, 0)))
            stored = len(encoded) + sum(length for _, length in pieces)
            name = DATA + b"/" + path
            self._frames.write(
                _header(
                    path,
                    tf.REGULAR,
                    status,
                    size=stored,
                    xattrs=xattrs,
                    shown=b"GNUSparseFile.0/" + path.rpartition(b"/")[2][:80],
                    more=sparse_records(name, size),
                )
            )
            self._frames.write(encoded)
        before = self._size
        done, data = 0, size if pieces is None else sum(length for _, length in pieces)

        def take(piece: bytes) -> None:
            nonlocal done
            self._frames.write(piece)
            done += len(piece)
            self._progress(before + done)
            if self._target.overfull and done < data:
                self._frames.cut()
                self._target.cut()

        sha256 = self._contents.digest(descriptor, size, pieces, take)
        self._frames.write(bytes(-stored % tf.BLOCK))
        self._stored_line(path, status, sha256, sparse=pieces is not None, xattrs=xattrs)

    def _small_file(
        self, path: bytes, descriptor: int, status: os.stat_result, xattrs: dict[bytes, bytes]
    ) -> None:
        size = status.st_size
        data, sha256 = self._contents.whole(descriptor, size)
        header = _header(path, tf.REGULAR, status, size=size, xattrs=xattrs)
        self._frames.write(b"".join((header, data, bytes(-size % tf.BLOCK))))
        self._stored_line(path, status, sha256, sparse=False, xattrs=xattrs)

    def _stored_line(
        self,
        path: bytes,
        status: os.stat_result,
        sha256: str,
        *,
        sparse: bool,
        xattrs: dict[bytes, bytes],
    ) -> None:
        size = status.st_size
        self._stored += size
        self._stored_files += 1
        self._line(make_entry(path, "file", status, size=size, sha256=sha256, sparse=sparse, xattrs=xattrs))

    def _put(
        self, entry: Entry, kind: bytes, *, link: bytes = b"", xattrs: dict[bytes, bytes] | None = None
    ) -> None:
        """A member without content of its own, and its line."""
        name = DATA + b"/" + bytes_of(entry.path)
        if kind == tf.DIRECTORY and entry.path:
            name += b"/"
        seconds, nanoseconds = divmod(entry.mtime, 1_000_000_000)
        self._frames.write(
            pack_header(
                name,
                kind,
                mode=entry.mode or (0o777 if kind == tf.SYMLINK else 0),
                uid=entry.uid,
                gid=entry.gid,
                mtime=seconds,
                nanoseconds=nanoseconds,
                link=link,
                device=entry.device or (0, 0),
                xattrs=xattrs,
            )
        )
        self._line(entry)

    def _line(self, entry: Entry) -> None:
        line = encode_line(entry)
        self._hash.update(line)
        self._lines.write(line)
        self._lines_size += len(line)
        self._entries += 1
        if self._entries > ENTRIES_MAX or self._lines_size > MANIFEST_MAX:
            raise _beyond(bytes_of(entry.path), f"the volume has more than the {ENTRIES_MAX} entries")
        if entry.xattrs:
            _check_xattrs(entry)

    def finish(self, head: Head, changed: list[bytes], manifest: BinaryIO | None) -> Summary:
        for path in changed:
            self._note_changed(path)
        frames, size = self._frames, self._lines_size
        backup_id = self._hash.hexdigest()
        frames.write(pack_header(MANIFEST_NAME, tf.REGULAR, mode=0o644, uid=0, gid=0, mtime=0, size=size))
        frames.cut()
        start = frames.offset
        self._lines.seek(0)
        with Frames(lambda data: self._both(data, manifest)) as compressed:
            while data := self._lines.read(_COPIED):
                compressed.write(data)
            compressed.cut()
        length = frames.offset - start
        frames.write(bytes(-size % tf.BLOCK))
        summary = Summary(
            backup_id,
            self._entries,
            self._files,
            self._size,
            self._stored,
            self._stored_files,
            self._sockets,
            len(self._changed),
            tuple(text_of(path)[:CHANGED_NAME] for path in list(self._changed)[:CHANGED_SHOWN]),
        )
        self.member(SUMMARY_NAME, msgspec.json.encode(summary))
        frames.write(tf.ZERO_BLOCK * 2)
        frames.raw(encode_footer(Footer(backup_id, head.base, start, length)))
        self._target.cut()
        return summary

    def _both(self, data: bytes, manifest: BinaryIO | None) -> None:
        self._frames.raw(data)
        if manifest is not None:
            manifest.write(data)


def _check_xattrs(entry: Entry) -> None:
    size = sum(len(bytes_of(name)) + len(value) for name, value in entry.xattrs.items())
    if size > ARCHIVE_LIMITS.xattr_bytes or len(entry.xattrs) > ARCHIVE_LIMITS.xattrs:
        raise _beyond(
            bytes_of(entry.path), f"its attributes are larger than the {ARCHIVE_LIMITS.xattr_bytes} bytes"
        )


def _beyond(path: bytes, what: str) -> Invalid:
    """Better no backup than one that no restore takes."""
    return Invalid(f"{text_of(path[:200])!r}: {what} that a backup can have")


def _moment(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _header(
    path: bytes,
    kind: bytes,
    status: os.stat_result,
    *,
    size: int,
    xattrs: dict[bytes, bytes],
    shown: bytes = b"",
    more: dict[bytes, bytes] | None = None,
) -> bytes:
    seconds, nanoseconds = divmod(bounded_time(status.st_mtime_ns), 1_000_000_000)
    return pack_header(
        shown or DATA + b"/" + path,
        kind,
        mode=status.st_mode & 0o7777,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=seconds,
        nanoseconds=nanoseconds,
        size=size,
        xattrs=xattrs,
        more=more or {},
    )
