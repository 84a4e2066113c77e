"""Backups in registries: an OCI artifact whose layers are the archive and whose configuration is its manifest.

An incremental backup's artifact has its base's layers too where that is in the same registry, so that it can be
restored by itself; they are not sent again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from sampan.engine.images import Images
from sampan.engine.volume_backup.base import Base
from sampan.engine.volume_backup.format import (
    ARTIFACT_TYPE,
    BASE_NOTE,
    CONFIG_TYPE,
    CREATED_NOTE,
    ID_NOTE,
    LAYER_TYPE,
    PART_NOTE,
    VOLUME_NOTE,
    Head,
    Summary,
)
from sampan.engine.volume_backup.manifests import MANIFEST_BYTES, read_manifest
from sampan.errors import Invalid
from sampan.oci.digest import Digest, digest_of
from sampan.oci.manifest import Descriptor, Manifest, encode_manifest, parse_manifest
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials
from sampan.registry.progress import Progress, Transfer

if TYPE_CHECKING:
    from sampan.registry.client import RegistryClient
    from sampan.storage.content import BlobWriter

LAYER_SIZE: Final = 512 << 20
"""Compressed bytes after which the archive goes on in another layer: registries and proxies have limits.
A file that would make it twice as large is in several."""
PARTS_MAX: Final = 1000
_READ: Final = 1 << 20

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A backup in a registry. `parts`: of each backup of the chain, the oldest first, its layers.

    `id`: what its manifest says that it is, "" when it says nothing.
    """

    reference: Reference
    config: Descriptor
    parts: tuple[tuple[Descriptor, ...], ...]
    id: str = ""

    def check(self, found: str) -> None:
        """`found`: the id of what its layers or its configuration hold. Raises `Invalid` for another one."""
        if self.id and found != self.id:
            raise Invalid(
                f"{self.reference.familiar} holds the backup {found[:12]}, not {self.id[:12]} as it says",
                hint="layers or the configuration were exchanged in the registry",
            )


class LayerTarget:
    """The archive as blobs of the content store; what was begun and not committed is dropped at the end."""

    def __init__(self, images: Images) -> None:
        self._content = images.store.content
        self._writer: BlobWriter | None = None
        self.layers: list[Descriptor] = []

    def write(self, data: bytes, /) -> None:
        if self._writer is None:
            self._writer = self._content.writer()
        self._writer.write(data)

    @property
    def full(self) -> bool:
        return self._writer is not None and self._writer.size >= LAYER_SIZE

    @property
    def overfull(self) -> bool:
        return self._writer is not None and self._writer.size >= 2 * LAYER_SIZE

    def cut(self) -> None:
        if self._writer is not None:
            size = self._writer.size
            self.layers.append(Descriptor(LAYER_TYPE, self._writer.commit(), size))
            self._writer = None

    def close(self) -> None:
        if self._writer is not None:
            self._writer.abort()


class Registry:
    """One registry, as one user; the calls block."""

    def __init__(self, images: Images, reference: Reference, credentials: Credentials) -> None:
        self.reference = reference.with_default_tag()
        self._images = images
        self._credentials = credentials

    @contextlib.contextmanager
    def _client(self) -> Iterator[RegistryClient]:
        client = self._images.client(self.reference.domain, self._credentials)
        try:
            yield client
        finally:
            client.close()

    def look(self, cancelled: threading.Event) -> Artifact:
        """What the reference names. Raises `NotFound`, `Invalid` (no backup), what registries cause."""
        with self._client() as client:
            found = client.resolve(self.reference, cancelled.is_set)
        manifest = parse_manifest(found.raw, found.descriptor.media_type)
        if not isinstance(manifest, Manifest) or manifest.artifact_type != ARTIFACT_TYPE:
            raise Invalid(f"{self.reference.familiar} is no backup of a volume")
        parts: list[list[Descriptor]] = []
        for layer in manifest.layers:
            part = (layer.annotations or {}).get(PART_NOTE, "")
            if layer.media_type != LAYER_TYPE:
                raise Invalid(f"{self.reference.familiar} has a layer that no backup has: {layer.media_type}")
            if part == str(len(parts)) and len(parts) < PARTS_MAX:
                parts.append([])
            elif not parts or part != str(len(parts) - 1):
                raise Invalid(f"{self.reference.familiar} has layers that are not in order")
            parts[-1].append(layer)
        if not parts:
            raise Invalid(f"{self.reference.familiar} has no layers")
        told = (manifest.annotations or {}).get(ID_NOTE, "")
        return Artifact(self.reference, manifest.config, tuple(tuple(part) for part in parts), told)

    def manifest(self, artifact: Artifact, cancelled: threading.Event) -> bytes:
        """Compressed."""
        from sampan.registry.pull import fetch_small

        with self._client() as client:
            return fetch_small(client, self.reference, artifact.config, MANIFEST_BYTES, cancelled)

    def base(self, artifact: Artifact, cancelled: threading.Event) -> Base:
        """Raises `Invalid` also when it is another backup's."""
        base = read_manifest([self.manifest(artifact, cancelled)])
        artifact.check(base.id)
        return base

    def blobs(
        self, layers: Sequence[Descriptor], report: Report, cancelled: threading.Event
    ) -> Iterator[Iterator[bytes]]:
        """The layers' bytes, each brought here, checked, and removed when it has been read."""
        from sampan.registry.pull import pull_blob

        store = self._images.store
        for layer in layers:
            short = layer.digest[7:19]
            bar = Transfer(report, "Downloading", short, layer.size)
            try:
                with store.hold((layer.digest,)), self._client() as client:
                    pull_blob(client, self.reference, store, layer, cancelled, bar.at)
                    report(Progress("Download complete", short))
                    yield self._read(layer.digest)
            finally:
                store.drop_blobs((layer.digest,))

    def _read(self, digest: Digest) -> Iterator[bytes]:
        with self._images.store.content.open(digest) as file:
            while data := file.read(_READ):
                yield data

    def push(
        self,
        layers: Sequence[Descriptor],
        config: IO[bytes],
        head: Head,
        summary: Summary,
        before: Artifact | None,
        report: Report,
        cancelled: threading.Event,
    ) -> Digest:
        """Bring a backup there whose layers are in the content store; its manifest comes last. Its digest."""
        from sampan.registry.push import push_blobs, push_small

        with self._client() as client:
            older = self._older(client, before, cancelled)
            for layer in layers:
                report(Progress("Preparing", layer.digest[7:19]))
            made = [(_giving(layer), None, layer) for layer in layers]
            push_blobs(client, self.reference, made, self._images.store, report=report, cancelled=cancelled)
            config.seek(0)
            raw = config.read()
            push_small(client, self.reference, CONFIG_TYPE, raw, cancelled)
            notes = {
                CREATED_NOTE: head.created,
                VOLUME_NOTE: head.volume,
                ID_NOTE: summary.id,
                **({BASE_NOTE: head.base} if head.base else {}),
            }
            number = len(before.parts) if older and before is not None else 0
            own = tuple(replace_notes(layer, {PART_NOTE: str(number)}) for layer in layers)
            manifest = Manifest(
                Descriptor(CONFIG_TYPE, digest_of(raw), len(raw)),
                (*older, *own),
                artifact_type=ARTIFACT_TYPE,
                annotations=notes,
            )
            encoded = encode_manifest(manifest)
            return client.push_manifest(
                self.reference, self.reference.tag or "latest", manifest.media_type, encoded
            )

    def _older(
        self, client: RegistryClient, before: Artifact | None, cancelled: threading.Event
    ) -> tuple[Descriptor, ...]:
        """The base's layers, in this repository too. Of another registry's none: they would travel twice."""
        if before is None or before.reference.domain != self.reference.domain:
            return ()
        layers = tuple(layer for part in before.parts for layer in part)
        if before.reference.path != self.reference.path:
            for layer in layers:
                if client.has_blob(self.reference, layer.digest):
                    continue
                source = _Remote(before.reference, layer)
                client.push_blob(
                    self.reference,
                    layer,
                    source,
                    mount_from=before.reference.path,
                    cancelled=cancelled.is_set,
                )
        return layers


class _Remote:
    """Where a registry does not mount a blob from its other repository, it can't be sent: nobody has it here."""

    def __init__(self, reference: Reference, layer: Descriptor) -> None:
        self._reference = reference
        self._layer = layer

    def read(self, offset: int, length: int, /) -> Iterator[bytes]:
        raise Invalid(
            f"the registry does not mount {self._layer.digest} from {self._reference.path}",
            hint="push the backup into the repository of its base",
        )


def _giving(layer: Descriptor) -> Callable[[], Descriptor]:
    return lambda: layer


def replace_notes(layer: Descriptor, notes: dict[str, str]) -> Descriptor:
    return Descriptor(layer.media_type, layer.digest, layer.size, annotations=notes)
