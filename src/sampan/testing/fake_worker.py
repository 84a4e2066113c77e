"""A builder's worker over plain directories: no mounts, no containers, no database.

Every layer is kept as the complete tree that results from it, so that a root is one directory. A "command"
is a small script that `run_script` understands, or whatever a test's own runner makes of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sampan.build.worker import EMPTY_LAYER, BaseImage, CacheWish, RunRequest, TransferReport
from sampan.errors import NotFound
from sampan.oci.digest import Digest, digest_of
from sampan.oci.image import ContainerDefaults, ImageConfig, RootFS, encode_image_config
from sampan.oci.reference import Reference
from sampan.storage.layers import Layer

Output = Callable[[int, bytes], None]
Runner = Callable[[Path, RunRequest, Output], int]


def run_script(root: Path, request: RunRequest, output: Output) -> int:
    """Commands separated by `;`: `true`, `exit N`, `echo TEXT`, `write PATH TEXT`, `mkdir PATH`, `rm PATH`,
    `env NAME` (prints its value). Unknown ones give 127.
    """
    for command in request.args[-1].split(";"):
        word, _, rest = command.strip().partition(" ")
        path = root / rest.partition(" ")[0].lstrip("/")
        if word == "exit":
            return int(rest)
        if word == "echo":
            output(1, rest.encode() + b"\n")
        elif word == "env":
            values = [item for item in request.env if item.startswith(rest + "=")]
            output(1, (values[0] if values else "").encode() + b"\n")
        elif word == "write":
            path.write_text(rest.partition(" ")[2])
        elif word == "mkdir":
            path.mkdir(parents=True, exist_ok=True)
        elif word == "rm":
            path.unlink()
        elif word not in ("true", ""):
            output(2, f"/bin/sh: {word}: not found\n".encode())
            return 127
    return 0


class FakeWorker:
    """Implements `sampan.build.worker.Worker` below the directory `root`.

    What was asked for is counted in `runs`, `snapshots_made`, `roots_opened`, `images_made`.
    """

    def __init__(self, root: Path, runner: Runner = run_script) -> None:
        self._root = root
        self._runner = runner
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._tops: dict[tuple[Digest, ...], Path] = {}
        self._layers: dict[Digest, int] = {EMPTY_LAYER: 0}
        self._snapshots: dict[str, tuple[Digest, ...]] = {}
        self._bases: dict[str, BaseImage] = {}
        self.images: dict[Digest, ImageConfig] = {}
        self.tags: dict[str, Digest] = {}
        self.runs: list[RunRequest] = []
        self.caches: list[CacheWish] = []
        self.snapshots_made = 0
        self.roots_opened = 0
        self.images_made = 0
        empty = self._fresh("scratch")
        empty.mkdir(parents=True)
        self._tops[()] = empty

    def add_image(
        self, name: str, files: dict[str, str] | None = None, defaults: ContainerDefaults | None = None
    ) -> BaseImage:
        """A base image whose only layer has `files` (path -> content; a trailing slash makes a directory)."""
        snapshot = self.create_snapshot(())
        top = self._snapshot_path(snapshot)
        for path, content in (files or {}).items():
            target = top / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                target.mkdir(exist_ok=True)
            else:
                target.write_text(content)
        layer = self.adopt_snapshot(snapshot)
        diff_ids = () if layer.diff_id == EMPTY_LAYER else (layer.diff_id,)
        config = ImageConfig("amd64", "linux", RootFS(diff_ids), config=defaults or ContainerDefaults())
        base = BaseImage(digest_of(encode_image_config(config)), config, diff_ids)
        self._bases[name] = base
        return base

    def tree(self, image_id: Digest) -> Path:
        """The whole file system of an image that was built."""
        return self.top(self.images[image_id].rootfs.diff_ids)

    @property
    def open_snapshots(self) -> list[str]:
        return list(self._snapshots)

    def forget_layer(self, diff_id: Digest) -> None:
        """As if the layer had been removed."""
        del self._layers[diff_id]

    def resolve_image(
        self,
        reference: str,
        *,
        pull: bool,
        platform: str | None,
        report: TransferReport,
        cancelled: threading.Event,
    ) -> BaseImage:
        if reference not in self._bases:
            raise NotFound(
                f"pull access denied for {reference}, repository does not exist or may require 'docker login'"
            )
        return self._bases[reference]

    def known_config(self, reference: str, platform: str | None) -> ImageConfig | None:
        known = self._bases.get(reference)
        return known.config if known else None

    def has_layer(self, diff_id: Digest) -> bool:
        return diff_id in self._layers

    def layers_of(self, image_id: Digest) -> tuple[Digest, ...]:
        return self.images[image_id].rootfs.diff_ids

    def has_image(self, image_id: Digest) -> bool:
        return image_id in self.images

    def create_snapshot(self, diff_ids: Sequence[Digest]) -> str:
        name = f"snapshot{next(self._numbers):06d}"
        # cp keeps owners, times and hard links, shutil.copytree does not.
        subprocess.run(["cp", "-a", self.top(tuple(diff_ids)), self._snapshot_path(name)], check=True)
        self._snapshots[name] = tuple(diff_ids)
        self.snapshots_made += 1
        return name

    def open_root(self, diff_ids: Sequence[Digest], snapshot_id: str | None) -> int:
        self.roots_opened += 1
        path = self.top(tuple(diff_ids)) if snapshot_id is None else self._snapshot_path(snapshot_id)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def run(self, request: RunRequest, output: Output, cancelled: threading.Event) -> int:
        self.runs.append(request)
        return self._runner(self._snapshot_path(request.snapshot_id), request, output)

    def adopt_snapshot(self, snapshot_id: str, *, latest: int | None = None) -> Layer:
        below = self._snapshots.pop(snapshot_id)
        path = self._snapshot_path(snapshot_id)
        described = _description(path)
        if described == _description(self.top(below)):
            shutil.rmtree(path)
            return Layer(diff_id=EMPTY_LAYER, size=0)
        diff_id = digest_of(repr((below, described)).encode("utf-8", "surrogateescape"))
        with self._lock:
            self._layers[diff_id] = len(described)
            self._tops.setdefault((*below, diff_id), path)
        return Layer(diff_id=diff_id, size=len(described))

    def remove_snapshot(self, snapshot_id: str) -> None:
        if self._snapshots.pop(snapshot_id, None) is not None:
            shutil.rmtree(self._snapshot_path(snapshot_id))

    @contextlib.contextmanager
    def open_cache(self, wish: CacheWish, cancelled: threading.Event) -> Iterator[int]:
        self.caches.append(wish)
        path = self._root / "caches" / hashlib.sha256(wish.id.encode()).hexdigest()
        path.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def create_image(self, config: ImageConfig, parent: Digest | None) -> Digest:
        image_id = digest_of(encode_image_config(config))
        self.images[image_id] = config
        self.images_made += 1
        return image_id

    def tag(self, image_id: Digest, reference: Reference) -> None:
        self.tags[reference.familiar] = image_id

    def top(self, diff_ids: tuple[Digest, ...]) -> Path:
        """A layer that was made on nothing (`COPY --link`) may come to lie on others."""
        with self._lock:
            if diff_ids in self._tops:
                return self._tops[diff_ids]
        below, linked = self.top(diff_ids[:-1]), self._tops[diff_ids[-1:]]
        merged = self._fresh("merged")
        subprocess.run(["cp", "-a", below, merged], check=True)
        _make_room(linked, merged)
        subprocess.run(["cp", "-aT", linked, merged], check=True)
        with self._lock:
            return self._tops.setdefault(diff_ids, merged)

    def _fresh(self, kind: str) -> Path:
        return self._root / f"{kind}{next(self._numbers):06d}"

    def _snapshot_path(self, name: str) -> Path:
        return self._root / name


class FakeTable:
    """A cache table in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.rows.get(key)

    def put(self, key: str, body: bytes) -> None:
        self.rows[key] = body

    def delete(self, key: str) -> None:
        self.rows.pop(key, None)

    def items(self, prefix: str = "") -> list[tuple[str, bytes]]:
        return sorted(row for row in self.rows.items() if row[0].startswith(prefix))


def _make_room(upper: Path, lower: Path) -> None:
    """Take away from `lower` what `upper` replaces with something of another kind: cp refuses that."""
    for path in sorted(upper.rglob("*")):
        below = lower / path.relative_to(upper)
        is_dir = path.is_dir() and not path.is_symlink()
        if below.is_dir() and not below.is_symlink() and not is_dir:
            shutil.rmtree(below)
        elif is_dir and (below.is_symlink() or below.is_file()):
            below.unlink()


def _description(top: Path) -> list[tuple[str, int, int, int, str]]:
    """Everything that makes two trees different, times left out."""
    rows = []
    for path in sorted(top.rglob("*")):
        info = path.lstat()
        content = ""
        if stat.S_ISREG(info.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        rows.append((str(path.relative_to(top)), info.st_mode, info.st_uid, info.st_gid, content))
    return rows
