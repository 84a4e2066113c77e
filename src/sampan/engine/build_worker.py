"""The builder's worker on the engine's own layers, snapshots, images and runtime. Blocking; used by build threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sampan.build.worker import EMPTY_LAYER, BaseImage, RunRequest, TransferReport
from sampan.engine.cache_mounts import CacheMounts
from sampan.engine.cache_transfer import RegistryCache
from sampan.engine.containers.build_steps import BuildSteps, HostTrust
from sampan.engine.images import Images, platform_of
from sampan.engine.model import new_id
from sampan.errors import NotFound
from sampan.oci.digest import Digest
from sampan.oci.image import ImageConfig
from sampan.oci.reference import Reference, parse_reference
from sampan.oci.rootfs import RootAssembly
from sampan.registry.config import Credentials
from sampan.runtime.launcher_client import LauncherClient
from sampan.storage.image_model import Image
from sampan.storage.layers import Layer
from sampan.storage.snapshots import SnapshotStore


class EngineWorker:
    """Implements `sampan.build.worker.Worker` for one build, with that build's credentials."""

    def __init__(
        self,
        images: Images,
        snapshots: SnapshotStore,
        launcher: LauncherClient,
        steps: BuildSteps,
        caches: CacheMounts,
        touched: Callable[[str], None],
        loop: asyncio.AbstractEventLoop,
        credentials: Mapping[str, Credentials],
        trust: HostTrust | None,
        lazy: RegistryCache,
    ) -> None:
        """`touched` is told the names of cache mounts. `trust`: the host's CA bundle for RUN, if asked for.

        `lazy` fetches layers that were imported and turn out to be needed.
        """
        self._images = images
        self._snapshots = snapshots
        self._launcher = launcher
        self._steps = steps
        self._caches = caches
        self._touched = touched
        self._loop = loop
        self._credentials = credentials
        self._trust = trust
        self._lazy = lazy

    def resolve_image(
        self,
        reference: str,
        *,
        pull: bool,
        platform: str | None,
        report: TransferReport,
        cancelled: threading.Event,
    ) -> BaseImage:
        known = self._images.store.find(reference)
        if known is not None and not pull and _serves(known, platform):
            return _base(known)
        name = parse_reference(reference).with_default_tag()
        credentials = self._credentials.get(name.domain, Credentials())
        pulled = self._images.pull_now(name, platform_of(platform or ""), credentials, report, cancelled)
        return _base(pulled)

    def has_layer(self, diff_id: Digest) -> bool:
        return self._images.store.layers.has(diff_id)

    def has_image(self, image_id: Digest) -> bool:
        return self._images.store.has(image_id)

    def layers_of(self, image_id: Digest) -> tuple[Digest, ...]:
        return self._images.store.get(image_id).diff_ids

    def create_snapshot(self, diff_ids: Sequence[Digest]) -> str:
        self._lazy.ensure(diff_ids)
        snapshot_id = new_id()
        self._snapshots.create(snapshot_id, diff_ids)
        return snapshot_id

    def open_root(self, diff_ids: Sequence[Digest], snapshot_id: str | None) -> int:
        self._lazy.ensure(diff_ids)
        if snapshot_id is not None:
            return self._launcher.open_root(self._snapshots.assembly(snapshot_id))
        layers = self._images.store.layers
        if diff_ids:
            return self._launcher.open_root(RootAssembly(tuple(layers.mount_of(one) for one in diff_ids)))
        empty = self._caches.empty_directory()
        return os.open(empty, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def run(
        self, request: RunRequest, output: Callable[[int, bytes], None], cancelled: threading.Event
    ) -> int:
        return self._steps.run(request, output, cancelled, self._loop, self._trust)

    def adopt_snapshot(self, snapshot_id: str) -> Layer:
        layer = self._snapshots.adopt(snapshot_id)
        return layer if layer.entries else Layer(EMPTY_LAYER, 0)

    def remove_snapshot(self, snapshot_id: str) -> None:
        self._snapshots.remove(snapshot_id)

    def cache_directory(self, cache_id: str) -> str:
        return str(self._caches.directory(cache_id, self._touched))

    def create_image(self, config: ImageConfig, parent: Digest | None) -> Digest:
        self._lazy.ensure(config.rootfs.diff_ids)
        return self._images.store.create(config).id

    def tag(self, image_id: Digest, reference: Reference) -> None:
        self._images.store.tag(image_id, reference)


def host_trust() -> HostTrust:
    """The host's CA bundle: what SSL_CERT_FILE says, else where distributions keep it. Raises `NotFound`."""
    candidates = (
        os.environ.get("SSL_CERT_FILE", ""),
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/cert.pem",
    )
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return HostTrust(Path(candidate).resolve())
    raise NotFound(
        "this host has no bundle of CA certificates", hint="install ca-certificates, or set SSL_CERT_FILE"
    )


def _serves(image: Image, platform: str | None) -> bool:
    if platform is None:
        return True
    wanted = platform_of(platform)
    return (image.config.os, image.config.architecture) == (wanted.os, wanted.architecture)


def _base(image: Image) -> BaseImage:
    return BaseImage(image.id, image.config, image.diff_ids)
