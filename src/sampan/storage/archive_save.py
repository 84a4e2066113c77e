"""`save`: images as one tar that is a docker-archive (manifest.json) and an OCI image layout (index.json) at once.

Layers are stored as plain tars, named by their diff-ids, as `docker save` has them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import msgspec

from sampan.oci import media
from sampan.oci.digest import Digest, digest_of, hex_of
from sampan.oci.manifest import Descriptor, Index, Manifest, encode_manifest
from sampan.oci.reference import Reference
from sampan.storage.content import BLOCK
from sampan.storage.images import Image, ImageStore
from sampan.storage.layer_blobs import write_tar
from sampan.storage.tar_header import pack_header

_BLOCK = 512


class Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class _Archive:
    """Regular files and directories with fixed owner, mode and time, so that equal images give equal bytes."""

    def __init__(self, out: Sink) -> None:
        self._out = out
        self._written: set[str] = set()

    def add(self, name: str, data: bytes) -> None:
        if name not in self._written:
            self._header(name, len(data))
            self._out.write(data)
            self._pad(len(data))

    def add_file(self, name: str, file: BinaryIO, size: int) -> None:
        self._header(name, size)
        while block := file.read(BLOCK):
            self._out.write(block)
        self._pad(size)

    def has(self, name: str) -> bool:
        return name in self._written

    def directory(self, name: str) -> None:
        self._out.write(pack_header(name.encode(), b"5", mode=0o755, uid=0, gid=0, mtime=0))

    def finish(self) -> None:
        self._out.write(bytes(2 * _BLOCK))

    def _header(self, name: str, size: int) -> None:
        self._written.add(name)
        self._out.write(pack_header(name.encode(), b"0", mode=0o644, uid=0, gid=0, mtime=0, size=size))

    def _pad(self, size: int) -> None:
        self._out.write(bytes(-size % _BLOCK))


def save_archive(
    images: ImageStore, chosen: Sequence[tuple[Image, Reference | None]], out: Sink, scratch: Path
) -> None:
    """Write the images to `out`, each under the name beside it (None: without a name).

    `scratch` is where layers wait, one at a time, until their size is known.
    """
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    archive = _Archive(out)
    archive.directory("blobs/")
    archive.directory("blobs/sha256/")
    names: dict[Digest, list[Reference]] = {}
    unique: dict[Digest, Image] = {}
    for image, name in chosen:
        unique[image.id] = image
        names.setdefault(image.id, []).extend([name] if name is not None else [])
    entries: list[dict[str, object]] = []
    manifests: list[Descriptor] = []
    for image in unique.values():
        with images.hold(image.diff_ids):
            layers = [_add_layer(images, archive, diff_id, scratch) for diff_id in image.diff_ids]
        archive.add(_blob(image.id), image.config_raw)
        manifest = encode_manifest(
            Manifest(Descriptor(media.OCI_CONFIG, image.id, len(image.config_raw)), tuple(layers))
        )
        archive.add(_blob(digest_of(manifest)), manifest)
        manifests += _described(manifest, names[image.id])
        entries.append(
            {
                "Config": _blob(image.id),
                "RepoTags": [name.familiar for name in names[image.id]] or None,
                "Layers": [_blob(layer.digest) for layer in layers],
            }
        )
    archive.add("index.json", encode_manifest(Index(tuple(manifests))))
    archive.add("manifest.json", msgspec.json.encode(entries))
    archive.add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    archive.finish()


def _described(manifest: bytes, names: Sequence[Reference]) -> list[Descriptor]:
    plain = Descriptor(media.OCI_MANIFEST, digest_of(manifest), len(manifest))
    if not names:
        return [plain]
    return [
        msgspec.structs.replace(
            plain,
            annotations={
                "io.containerd.image.name": str(name),
                "org.opencontainers.image.ref.name": name.tag or "latest",
            },
        )
        for name in names
    ]


def _add_layer(images: ImageStore, archive: _Archive, diff_id: Digest, scratch: Path) -> Descriptor:
    with tempfile.TemporaryFile(dir=scratch) as spool:
        write_tar(images, diff_id, spool)
        size = spool.tell()
        if not archive.has(_blob(diff_id)):
            spool.seek(0)
            archive.add_file(_blob(diff_id), cast(BinaryIO, spool), size)
    return Descriptor(media.OCI_LAYER, diff_id, size)


def _blob(digest: Digest) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def clear_scratch(scratch: Path) -> None:
    """What an engine that was killed left; called once at start."""
    shutil.rmtree(scratch, ignore_errors=True)
