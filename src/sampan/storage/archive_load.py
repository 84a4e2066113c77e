"""`load`: images from an archive, of `docker save` (docker-archive) or an OCI image layout in a tar (oci-archive).

The archive is unpacked into a scratch directory first: its index may come last, and what it names may be
links. Everything in it is hostile: paths are resolved inside the directory, sizes and digests are checked.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from sampan.errors import Invalid, NotFound
from sampan.linux.paths import open_in_root
from sampan.oci import media
from sampan.oci.digest import Digest, digest_of, hex_of
from sampan.oci.image import parse_image_config
from sampan.oci.manifest import MAX_MANIFEST_SIZE, Descriptor, Index, Manifest, parse_manifest
from sampan.oci.reference import Reference, parse_reference
from sampan.storage.content import BLOCK
from sampan.storage.extract import ExtractOptions, extract_tar
from sampan.storage.images import Image, ImageStore
from sampan.storage.layer_blobs import ingest_tar

T = TypeVar("T")
MAX_IMAGES = 1000
_CONTENT = ExtractOptions(owner=(-1, -1), mtime=False, xattrs=False, devices=False)


class _Entry(msgspec.Struct, rename="pascal"):
    """One image of manifest.json (docker-archive)."""

    config: str
    layers: tuple[str, ...] = ()
    repo_tags: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """An image of either form: files below the scratch directory, and its names."""

    config: str
    layers: tuple[str, ...]
    names: tuple[Reference, ...]
    manifest: bytes = b""
    media_type: str = ""
    blobs: tuple[Descriptor, ...] = ()


def load_archive(
    images: ImageStore, archive: BinaryIO, scratch: Path
) -> Iterator[tuple[Image, tuple[Reference, ...]]]:
    """Load every image; each is given out, with its names, when it is complete.

    `scratch` is a directory on the same disk as the store. Raises `Invalid` for a damaged or foreign archive; images
    before the damaged one stay.
    """
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory = tempfile.mkdtemp(dir=scratch, prefix="load-")
    try:
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            extract_tar(_blocks(archive), root, _CONTENT)
            for found in _contents(root):
                with images.no_collection():
                    image = _load(images, root, found)
                yield image, found.names
        finally:
            os.close(root)
    finally:
        shutil.rmtree(directory)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _contents(root: int) -> list[_Found]:
    """docker-archive's index wins where both are there: it has the names as people know them."""
    if _exists(root, "manifest.json"):
        entries = _decode(_read(root, "manifest.json"), tuple[_Entry, ...], "manifest.json")
        found = [_docker_image(entry) for entry in entries]
    elif _exists(root, "index.json"):
        found = _oci_images(root)
    else:
        raise Invalid(
            "the archive holds no image: neither manifest.json nor index.json is in it",
            hint="a root file system (docker export) is taken by `sampan import`",
        )
    if len(found) > MAX_IMAGES:
        raise Invalid(f"the archive names {len(found)} images, more than {MAX_IMAGES}")
    return found


def _docker_image(entry: _Entry) -> _Found:
    names = tuple(parse_reference(tag).with_default_tag() for tag in entry.repo_tags or ())
    return _Found(entry.config, entry.layers, names)


def _oci_images(root: int) -> list[_Found]:
    index = parse_manifest(_read(root, "index.json"), media.OCI_INDEX)
    if not isinstance(index, Index):
        raise Invalid("index.json of the archive is not an index")
    found: list[_Found] = []
    for descriptor in index.manifests:
        raw = _read(root, _blob_path(descriptor.digest))
        if digest_of(raw) != descriptor.digest:
            raise Invalid(
                f"manifest {descriptor.digest} of the archive has other content than its digest says"
            )
        manifest = parse_manifest(raw, descriptor.media_type)
        if isinstance(manifest, Manifest):
            found.append(
                _Found(
                    _blob_path(manifest.config.digest),
                    tuple(_blob_path(layer.digest) for layer in manifest.layers),
                    _oci_names(descriptor.annotations or {}),
                    raw,
                    descriptor.media_type,
                    manifest.layers,
                )
            )
    return found


def _oci_names(annotations: dict[str, str]) -> tuple[Reference, ...]:
    """containerd writes the whole name; the specification's own key often has a tag alone, which names nothing."""
    text = annotations.get("io.containerd.image.name") or annotations.get(
        "org.opencontainers.image.ref.name", ""
    )
    if not text or ("/" not in text and ":" not in text):
        return ()
    try:
        return (parse_reference(text).with_default_tag(),)
    except Invalid:
        return ()


def _blob_path(digest: Digest) -> str:
    return f"blobs/sha256/{hex_of(digest)}"


def _load(images: ImageStore, root: int, found: _Found) -> Image:
    config_raw = _read(root, found.config)
    config = parse_image_config(config_raw)
    diff_ids = config.rootfs.diff_ids
    if len(found.layers) != len(diff_ids):
        raise Invalid(
            f"the archive has {len(found.layers)} layers for an image whose configuration names {len(diff_ids)}"
        )
    compressed = _keep_blobs(images, root, found)
    for diff_id, path in zip(diff_ids, found.layers, strict=True):
        if images.layers.has(diff_id):
            continue
        with _open(root, path) as file:
            if compressed:
                _ingest_plain(images, file, diff_id)
            else:
                ingest_tar(images, _blocks(file), diff_id)
    manifest = (
        Descriptor(found.media_type, digest_of(found.manifest), len(found.manifest)) if compressed else None
    )
    return images.register(
        config_raw,
        manifest_raw=found.manifest if compressed else b"",
        manifest_descriptor=manifest,
        blobs=found.blobs if compressed else (),
        names=found.names,
    )


def _keep_blobs(images: ImageStore, root: int, found: _Found) -> bool:
    """Take compressed layers of an OCI layout into the content store as they are; whether that was done.

    So a later push gives the image the digest that it has in the archive.
    """
    if not found.blobs or any(
        not blob.media_type.endswith(("+gzip", "+zstd", ".gzip")) for blob in found.blobs
    ):
        return False
    for blob, path in zip(found.blobs, found.layers, strict=True):
        if images.content.has(blob.digest):
            continue
        with _open(root, path) as file, images.content.ingest(blob.digest, blob.size) as ingest:
            ingest.restart()
            for block in _blocks(file):
                ingest.write(block)
            ingest.commit()
    return True


def _ingest_plain(images: ImageStore, file: BinaryIO, diff_id: Digest) -> None:
    with images.layers.ingest(media.OCI_LAYER, diff_id) as ingest:
        for block in _blocks(file):
            ingest.write(block)
        ingest.commit()


# Files of the archive


def _open(root: int, path: str) -> BinaryIO:
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotFound):
        raise Invalid(f"{path} is missing from the archive") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Invalid(f"{path} of the archive is not a file")
    return open(fd, "rb")


def _exists(root: int, path: str) -> bool:
    return path in os.listdir(root)


def _read(root: int, path: str) -> bytes:
    with _open(root, path) as file:
        data = file.read(MAX_MANIFEST_SIZE + 1)
    if len(data) > MAX_MANIFEST_SIZE:
        raise Invalid(f"{path} of the archive is larger than {MAX_MANIFEST_SIZE} bytes")
    return data


def _decode(raw: bytes, kind: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError as error:
        raise Invalid(f"{name} of the archive is malformed: {error}") from error
