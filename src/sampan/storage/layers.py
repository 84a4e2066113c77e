"""The layer store: `layers/<diff-id hex>/` holding `layer.erofs` or `fs/`, and `layer.json`.

A layer is named by its diff-id alone, so layers convert in parallel and are shared by every image
that has them. It appears under its name by one rename, after its data is on disk.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Protocol

import msgspec

from sampan.errors import Internal, Invalid, NotFound, Unavailable, Unsupported
from sampan.linux.durability import sync_all, sync_directory
from sampan.linux.placement import spread_children
from sampan.oci.digest import Digest, hex_of
from sampan.oci.rootfs import LayerMount
from sampan.storage.layer_ingest import Content, DirectorySink, ErofsSink, LayerLimits, LayerSink, Pipeline
from sampan.storage.layer_settling import Settling, boot_id, replace_file
from sampan.storage.removal import remove_tree
from sampan.storage.tar_writer import Sink, write_tree

_IMAGE: Final = "layer.erofs"
_TREE: Final = "fs"
_RECORD: Final = "layer.json"
_WORTH_A_THREAD: Final = 256 << 10  # bytes
_NAME: Final = re.compile(r"[0-9a-f]{64}")
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Layer(msgspec.Struct, frozen=True):
    """A complete layer. `size` is the bytes of its regular files' content; `entries` the names in it."""

    diff_id: Digest
    size: int
    entries: int = 0


class _Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """`layer.json`. `origin`: "tar" came as a stream, "upper" and "tree" were directories here.

    `boot`: while the layer may not be on disk, the host's boot in which it was made.
    """

    size: int
    entries: int
    origin: Literal["tar", "upper", "tree"]
    boot: str = ""


class LayerIngest(Protocol):
    """A layer that is being written; a context manager that aborts what was not committed."""

    def write(self, data: bytes) -> None:
        """The next bytes of the (compressed or plain) tar stream. Raises `Invalid` as soon as it is found bad."""

    def commit(self) -> Layer:
        """End of the stream: verify and publish. Raises `Invalid`, and then nothing is visible."""

    def abort(self) -> None:
        """Forget everything; does nothing after a commit."""

    def __enter__(self) -> LayerIngest: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LayerStore:
    """Thread-safe: everything that is visible is complete and never changes until it is removed."""

    def __init__(
        self,
        root: Path,
        *,
        prefer: Literal["erofs", "dir"] = "erofs",
        limits: LayerLimits | None = None,
    ) -> None:
        """`root` is the `layers` directory itself, made when missing.

        `prefer`: what a layer that comes as a tar becomes; "dir" where EROFS can't be mounted.
        """
        self._root = root
        self._prefer = prefer
        self._limits = limits or LayerLimits()
        self._settling = Settling(root)
        self.lost: tuple[Digest, ...] = ()
        """Layers that `sweep` found to have been cut off by a crash of the host, and has removed."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        spread_children(root)

    def has(self, diff_id: Digest) -> bool:
        return self._path(diff_id).is_dir()

    def get(self, diff_id: Digest) -> Layer:
        """Raises `NotFound`."""
        record = self._record(diff_id)
        return Layer(diff_id, record.size, record.entries)

    def digests(self) -> Iterator[Digest]:
        for entry in sorted(os.listdir(self._root)):
            if _NAME.fullmatch(entry):
                yield Digest("sha256:" + entry)

    def mount_of(self, diff_id: Digest) -> LayerMount:
        """How to mount it. Raises `NotFound`."""
        path = self._path(diff_id)
        if (path / _IMAGE).is_file():
            return LayerMount("erofs", str(path / _IMAGE))
        if (path / _TREE).is_dir():
            return LayerMount("dir", str(path / _TREE))
        raise NotFound(f"No such layer: {diff_id}")

    def size(self, diff_id: Digest) -> int:
        """Bytes of file data. Raises `NotFound`."""
        return self._record(diff_id).size

    def ingest(self, media_type: str, diff_id: Digest | None = None) -> LayerIngest:
        """A tar stream pushed in: gzip, zstd or plain, told by its first bytes (media types are often wrong).

        With a `diff_id` that is here already the stream is ignored. Raises `Invalid` for a media type of
        something that can't be a layer.
        """
        if "foreign" in media_type or media_type.endswith("+encrypted"):
            raise Invalid(f"media type {media_type} is not supported for layers")
        if diff_id is not None and self.has(diff_id):
            return _PresentLayer(self.get(diff_id))
        return _NewLayer(self, self._limits, self._prefer, diff_id)

    def adopt(self, upper: Path) -> Layer:
        """An overlay's upper directory becomes the layer: moved, not copied (it is on the same file system).

        Its whiteouts and opaque marks stay as they are; overlayfs's other attributes are taken off. Nobody
        may write to it any more. It is brought to disk in the background (`layer_settling`).
        Raises `Unsupported` when it needs the layers below to be complete.
        """
        return self._adopt(upper, "upper")

    def adopt_tree(self, tree: Path) -> Layer:
        """A plain directory (no overlay marks in it) becomes the layer: moved, not copied."""
        return self._adopt(tree, "tree")

    def _adopt(self, source: Path, origin: Literal["upper", "tree"]) -> Layer:
        overlay = origin == "upper"
        fd = os.open(source, _DIRECTORY)
        try:
            with _HashSink() as hasher:
                stats = write_tree(fd, hasher, overlay=overlay, strip=overlay)
                diff_id = hasher.digest()
        finally:
            os.close(fd)
        layer = Layer(diff_id, stats.size, stats.entries)
        if self.has(diff_id):
            remove_tree(source)
            return layer
        staging = self._staging()
        try:
            _move(source, staging / _TREE)
            self._publish_soon(staging, diff_id, _Record(stats.size, stats.entries, origin))
        except BaseException:
            remove_tree(staging)
            raise
        return layer

    def reproducible(self, diff_id: Digest) -> bool:
        """True when `tar` can give the stream of this diff-id; else only its blob has it. Raises `NotFound`."""
        return self._record(diff_id).origin != "tar"

    def tar(self, diff_id: Digest, out: Sink) -> None:
        """The tar stream again, byte for byte, checked while it is written.

        Possible for adopted layers. A layer that came as a tar was written by another's tar writer: its
        stream is in its compressed blob only, and this raises `Unsupported`. Raises `Internal` when the
        layer was changed since.
        """
        record = self._record(diff_id)
        if record.origin == "tar":
            raise Unsupported(
                f"layer {diff_id} came as a tar stream that can't be made again",
                hint="use its compressed blob",
            )
        fd = os.open(self._path(diff_id) / _TREE, _DIRECTORY)
        try:
            with _HashSink(out) as hasher:
                write_tree(fd, hasher, overlay=record.origin == "upper")
                found = hasher.digest()
        finally:
            os.close(fd)
        if found != diff_id:
            raise Internal(f"layer {diff_id} was changed on disk")

    def remove(self, diff_id: Digest) -> None:
        """Idempotent; the name is gone before the content is removed."""
        doomed = self.put_aside(diff_id)
        if doomed is not None:
            remove_tree(doomed)

    def put_aside(self, diff_id: Digest) -> Path | None:
        """The first half of `remove`: the layer is gone, its content at the path returned is to be removed.

        None when there was no such layer. What nobody removes goes with the next `sweep`.
        """
        doomed = self._root / f"remove-{secrets.token_hex(8)}"
        try:
            os.rename(self._path(diff_id), doomed)
        except FileNotFoundError:
            return None
        return doomed

    def sweep(self) -> None:
        """Remove what an interrupted ingest, adopt or remove left, and layers that a crash of the host cut off.

        Only at start: it would take work under way too.
        """
        boot, lost = boot_id(), []
        for entry in os.listdir(self._root):
            if not _NAME.fullmatch(entry):
                remove_tree(self._root / entry)
                continue
            record = self._record_or_none(Digest("sha256:" + entry))
            if record is None or record.boot not in ("", boot):
                lost.append(Digest("sha256:" + entry))
                self.remove(lost[-1])
            elif record.boot:
                self._settle(Digest("sha256:" + entry), record)
        self.lost = tuple(lost)

    def settle(self) -> None:
        """Wait until every layer is on disk."""
        self._settling.wait()

    def _settle(self, diff_id: Digest, record: _Record) -> None:
        data = msgspec.json.encode(msgspec.structs.replace(record, boot=""))
        self._settling.add(lambda: replace_file(self._path(diff_id) / _RECORD, data))

    def _path(self, diff_id: Digest) -> Path:
        return self._root / hex_of(diff_id)

    def _record(self, diff_id: Digest) -> _Record:
        try:
            return msgspec.json.decode((self._path(diff_id) / _RECORD).read_bytes(), type=_Record)
        except FileNotFoundError:
            raise NotFound(f"No such layer: {diff_id}") from None
        except msgspec.DecodeError as error:
            raise Internal(f"layer {diff_id}: {_RECORD} is damaged: {error}") from error

    def _record_or_none(self, diff_id: Digest) -> _Record | None:
        """None: it is damaged, as a crash of the host may leave it."""
        try:
            return self._record(diff_id)
        except (Internal, NotFound):
            return None

    def _staging(self) -> Path:
        path = self._root / f"ingest-{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        return path

    def _publish_soon(self, staging: Path, diff_id: Digest, record: _Record) -> None:
        """As `_publish`, without waiting for the disk where a later start can tell whether it got there."""
        record = msgspec.structs.replace(record, boot=boot_id())
        (staging / _RECORD).write_bytes(msgspec.json.encode(record))
        if not record.boot:
            sync_all(staging)
        if self._rename(staging, diff_id):
            self._settle(diff_id, record)

    def _publish(self, staging: Path, diff_id: Digest, record: _Record) -> None:
        """Give the complete layer in `staging` its name; somebody else may have been quicker."""
        with open(staging / _RECORD, "wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        sync_directory(staging)
        if self._rename(staging, diff_id):
            sync_directory(self._root)

    def _rename(self, staging: Path, diff_id: Digest) -> bool:
        try:
            os.rename(staging, self._path(diff_id))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            remove_tree(staging)
            return False
        return True


class _PresentLayer:
    """An ingest of a layer that is here already."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def write(self, data: bytes) -> None:
        """Ignored."""

    def commit(self) -> Layer:
        return self._layer

    def abort(self) -> None:
        """Nothing to forget."""

    def __enter__(self) -> LayerIngest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class _NewLayer:
    def __init__(
        self, store: LayerStore, limits: LayerLimits, kind: Literal["erofs", "dir"], diff_id: Digest | None
    ) -> None:
        self._store = store
        self._expected = diff_id
        self._staging = store._staging()
        self._over = False
        self._fd = -1
        try:
            self._pipeline = Pipeline(self._sink(kind, limits), limits)
        except BaseException:
            self._clean()
            raise

    def _sink(self, kind: Literal["erofs", "dir"], limits: LayerLimits) -> LayerSink:
        if kind == "erofs":
            self._fd = os.open(
                self._staging / _IMAGE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
            return ErofsSink(self._fd, limits.tar)
        tree = self._staging / _TREE
        tree.mkdir(mode=0o755)
        os.chmod(tree, 0o755)
        self._fd = os.open(tree, _DIRECTORY)
        return DirectorySink(self._fd, limits.tar, lambda: sync_all(tree))

    def write(self, data: bytes) -> None:
        if self._over:
            raise Internal("the layer's ingest is over")
        self._pipeline.write(data)

    def commit(self) -> Layer:
        if self._over:
            raise Internal("the layer's ingest is over")
        try:
            diff_id = self._pipeline.digest()
            if self._expected is not None and diff_id != self._expected:
                raise Invalid(
                    f"wrong diff id calculated on extraction {diff_id!r}, expected {self._expected!r}"
                )
            content: Content = self._pipeline.finish()
            record = _Record(content.size, content.entries, "tar")
            self._store._publish(self._staging, diff_id, record)
        except OSError as error:
            raise Unavailable(f"storing the layer: {error.strerror or error}") from error
        finally:
            self.abort()
        return Layer(diff_id, content.size, content.entries)

    def abort(self) -> None:
        if not self._over:
            self._over = True
            self._pipeline.cancel()
            self._clean()

    def _clean(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        remove_tree(self._staging)  # a published layer is not there any more

    def __enter__(self) -> LayerIngest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class _HashSink:
    """Hashes what passes, on to another sink when there is one. A context manager.

    Large pieces are hashed by a thread of its own, so that the next one is read meanwhile.
    """

    def __init__(self, out: Sink | None = None) -> None:
        self._hash = hashlib.sha256()
        self._out = out
        self._pool: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def write(self, data: bytes) -> None:
        self._settle()
        if len(data) >= _WORTH_A_THREAD:
            self._pool = self._pool or ThreadPoolExecutor(1, "layer digest")
            self._pending = self._pool.submit(self._hash.update, data)
        else:
            self._hash.update(data)
        if self._out is not None:
            self._out.write(data)

    def digest(self) -> Digest:
        self._settle()
        return Digest("sha256:" + self._hash.hexdigest())

    def _settle(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def __enter__(self) -> _HashSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def _move(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise Invalid(f"{source} is not on the file system of the layers") from error
        raise
