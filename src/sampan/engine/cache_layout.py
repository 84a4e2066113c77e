"""A build cache in a directory of the client's: an OCI image layout (image-spec image-layout.md), as BuildKit has it.

The client's session reads and writes it. Each question is a stream of its own, and begins with a line of JSON:

    {"ask": "index"}                               the answer is index.json as it is
    {"ask": "blob", "digest": D}                   the blob's bytes
    {"ask": "has", "digest": D, "size": N}         "1" when the blob is there, with so many bytes
    {"ask": "store", "digest": D, "size": N}       the blob's bytes follow; the answer ends when it is there
    {"ask": "name", "manifest": descriptor}        it has the cache's tag from here on

What comes from there is a stranger's: it is bounded, and believed when it has the digest that it should have.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import msgspec

from sampan.build.cache_options import CacheDirectory
from sampan.build.errors import BuildCancelled
from sampan.build.session import ClientSession, Duplex
from sampan.build.solver.remote_format import RemoteCache
from sampan.engine.cache_places import Artifact, Blob, read_cache
from sampan.errors import Invalid, NotFound, SampanError
from sampan.oci.digest import Digest, digest_of
from sampan.oci.manifest import MAX_MANIFEST_SIZE, Descriptor, Index, parse_manifest
from sampan.registry.feeding import LayerFeeder
from sampan.registry.pull import LAYER_TYPES
from sampan.storage.content import BLOCK
from sampan.storage.images import ImageStore

REF_NAME = "org.opencontainers.image.ref.name"
_PARALLEL = 4


class LayoutCache:
    """Implements `CachePlace`."""

    def __init__(
        self,
        images: ImageStore,
        directory: CacheDirectory,
        client: ClientSession,
        cancelled: threading.Event,
    ) -> None:
        self.name = f"local:{directory.path}"
        self._images = images
        self._directory = directory
        self._client = client
        self._cancelled = cancelled

    def load(self) -> RemoteCache:
        return read_cache(self)

    def fetch(self, diff_id: Digest, blob: Descriptor) -> None:
        if blob.media_type not in LAYER_TYPES:
            raise Invalid(f"layers of media type {blob.media_type} are not supported")
        images = self._images
        with images.hold((diff_id, blob.digest)):
            with images.content.ingest(blob.digest, blob.size, cancelled=self._cancelled.is_set) as ingest:
                feeder = LayerFeeder(images.layers.ingest(blob.media_type, diff_id))
                try:
                    if ingest.complete:
                        _feed(feeder, ingest.existing())
                    else:
                        ingest.restart()
                        for piece in self._pieces(blob):
                            ingest.write(piece)
                            feeder.write(piece)
                        ingest.commit()
                    feeder.commit()
                finally:
                    feeder.abort()
            images.remember_blob(diff_id, blob)

    def bring(self, blob: Descriptor) -> None:
        content = self._images.content
        with content.ingest(blob.digest, blob.size, cancelled=self._cancelled.is_set) as ingest:
            if not ingest.complete:
                ingest.restart()
                for piece in self._pieces(blob):
                    ingest.write(piece)
                ingest.commit()

    def upload(self, blobs: Sequence[Blob]) -> Sequence[Descriptor]:
        failed = threading.Event()

        def bring(blob: Blob) -> Descriptor:
            if failed.is_set() or self._cancelled.is_set():
                raise BuildCancelled
            try:
                if blob.known is not None and self._has(blob.known):
                    return blob.known
                descriptor = blob.make()
                self._store(descriptor, self._stored(descriptor.digest))
            except BaseException:
                failed.set()
                raise
            return descriptor

        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="cache") as pool:
            futures = [pool.submit(bring, blob) for blob in blobs]
        failures = [error for future in futures if (error := future.exception())]
        # One that was only told to stop is not the reason.
        for error in sorted(failures, key=lambda one: isinstance(one, BuildCancelled)):
            raise error
        return [future.result() for future in futures]

    def finish(self, artifact: Artifact) -> None:
        """index.json is changed last, and at once: whoever reads it sees the cache as it was, or the new one."""
        self._store(artifact.config, (artifact.config_raw,))
        self._store(artifact.manifest, (artifact.manifest_raw,))
        manifest = msgspec.to_builtins(artifact.manifest)
        with closing(self._ask(ask="name", manifest=manifest)) as stream:
            _read_all(stream, 0)

    # CacheReader

    def manifest(self, wanted: Descriptor | None) -> tuple[bytes, str]:
        if wanted is None:
            wanted = self._named()
        return self.small(wanted, MAX_MANIFEST_SIZE), wanted.media_type

    def small(self, wanted: Descriptor, limit: int) -> bytes:
        """`wanted` may be of an unknown size (0): a digest that somebody gave."""
        if wanted.size > limit:
            raise Invalid(f"{wanted.digest} has {wanted.size} bytes, more than {limit}")
        with closing(self._ask(ask="blob", digest=wanted.digest)) as stream:
            raw = _read_all(stream, limit)
        if digest_of(raw) != wanted.digest:
            raise Invalid(f"{wanted.digest} has other bytes than its name says")
        return raw

    def _named(self) -> Descriptor:
        """The manifest that is asked for."""
        directory = self._directory
        if directory.digest is not None:
            return Descriptor("", directory.digest, 0)
        with closing(self._ask(ask="index")) as stream:
            index = parse_manifest(_read_all(stream, MAX_MANIFEST_SIZE))
        if not isinstance(index, Index):
            raise Invalid("index.json is no image index")
        for entry in index.manifests:
            if (entry.annotations or {}).get(REF_NAME) == directory.tag:
                return entry
        raise NotFound(
            f"index.json has no tag {directory.tag}", hint="tag=TAG names another, digest=DIGEST any manifest"
        )

    # Questions

    def _ask(self, **question: object) -> Duplex:
        """A question that is complete."""
        stream = self._begin(question)
        stream.end()
        return stream

    def _begin(self, question: object) -> Duplex:
        stream = self._client.cache(self._directory.id)
        try:
            stream.write(msgspec.json.encode(question) + b"\n")
        except SampanError:
            stream.close()
            raise
        return stream

    def _pieces(self, blob: Descriptor) -> Iterator[bytes]:
        with closing(self._ask(ask="blob", digest=blob.digest)) as stream:
            while piece := stream.read(BLOCK):
                if self._cancelled.is_set():
                    raise BuildCancelled
                yield piece

    def _has(self, blob: Descriptor) -> bool:
        with closing(self._ask(ask="has", digest=blob.digest, size=blob.size)) as stream:
            return bool(_read_all(stream, 1))

    def _store(self, blob: Descriptor, pieces: Iterable[bytes]) -> None:
        if self._has(blob):
            return
        with closing(self._begin({"ask": "store", "digest": blob.digest, "size": blob.size})) as stream:
            for piece in pieces:
                if self._cancelled.is_set():
                    raise BuildCancelled
                stream.write(piece)
            stream.end()
            _read_all(stream, 0)

    def _stored(self, digest: Digest) -> Iterator[bytes]:
        with self._images.content.open(digest) as file:
            while piece := file.read(BLOCK):
                yield piece


def _feed(feeder: LayerFeeder, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        feeder.write(piece)


def _read_all(stream: Duplex, limit: int) -> bytes:
    found = bytearray()
    while piece := stream.read():
        found += piece
        if len(found) > limit:
            raise Invalid(f"the build's client sent more than {limit} bytes")
    return bytes(found)
