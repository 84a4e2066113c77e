"""A build cache on a registry."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from sampan.build.solver import remote_format
from sampan.build.solver.remote_format import RemoteCache
from sampan.engine.cache_places import INLINE_HINT, NO_CACHE, Artifact, Blob, read_cache
from sampan.engine.images import Images
from sampan.errors import NotFound, SampanError
from sampan.oci.digest import Digest
from sampan.oci.manifest import Descriptor
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials
from sampan.registry.progress import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.registry.client import RegistryClient


class RegistryCache:
    """Implements `CachePlace`."""

    def __init__(
        self, images: Images, reference: Reference, credentials: Credentials, cancelled: threading.Event
    ) -> None:
        self.name = reference.familiar
        self._images = images
        self._reference = reference
        self._credentials = credentials
        self._cancelled = cancelled

    def load(self) -> RemoteCache:
        """Of an image that is here, with its layers, or what the registry has."""
        image = self._images.store.find(str(self._reference))
        if image is not None and image.config.inline_cache is not None:
            return remote_format.decode_inline(image.config.inline_cache, image.diff_ids)
        try:
            with self._client() as client:
                return read_cache(_Reader(client, self._reference, self._cancelled))
        except SampanError:
            if image is None or self._cancelled.is_set():
                raise
            raise NotFound(
                NO_CACHE, hint=INLINE_HINT
            ) from None  # who names an image that is here needs to know that

    def fetch(self, diff_id: Digest, blob: Descriptor) -> None:
        from sampan.registry.pull import pull_layer

        with self._client() as client:
            pull_layer(client, self._reference, self._images.store, diff_id, blob, _silent, self._cancelled)

    def bring(self, blob: Descriptor) -> None:
        from sampan.registry.pull import pull_blob

        with self._client() as client:
            pull_blob(client, self._reference, self._images.store, blob, self._cancelled)

    def upload(self, blobs: Sequence[Blob]) -> Sequence[Descriptor]:
        from sampan.registry.push import push_blobs

        with self._client() as client:
            made = [(one.make, one.diff_id, one.known) for one in blobs]
            return push_blobs(client, self._reference, made, self._images.store, cancelled=self._cancelled)

    def finish(self, artifact: Artifact) -> None:
        """The manifest goes last: until then, and if this is interrupted, the registry has the cache it had before."""
        from sampan.registry.push import push_small

        with self._client() as client:
            config = artifact.config
            push_small(client, self._reference, config.media_type, artifact.config_raw, self._cancelled)
            tag = self._reference.tag or "latest"
            client.push_manifest(self._reference, tag, artifact.manifest.media_type, artifact.manifest_raw)

    @contextlib.contextmanager
    def _client(self) -> Iterator[RegistryClient]:
        client = self._images.client(self._reference.domain, self._credentials)
        try:
            yield client
        finally:
            client.close()


class _Reader:
    def __init__(self, client: RegistryClient, reference: Reference, cancelled: threading.Event) -> None:
        self._client = client
        self._reference = reference
        self._cancelled = cancelled

    def manifest(self, wanted: Descriptor | None) -> tuple[bytes, str]:
        if wanted is None:
            found = self._client.resolve(self._reference, self._cancelled.is_set)
        else:
            found = self._client.fetch_manifest(self._reference, wanted.digest, self._cancelled.is_set)
        return found.raw, found.descriptor.media_type

    def small(self, wanted: Descriptor, limit: int) -> bytes:
        from sampan.registry.pull import fetch_small

        return fetch_small(self._client, self._reference, wanted, limit, self._cancelled)


def _silent(_progress: Progress) -> None:
    """Layers of a cache come without a word: nobody asked for them by name."""
