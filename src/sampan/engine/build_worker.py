"""The builder's worker on the engine's own layers, snapshots, images and runtime. Blocking; used by build threads."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from sampan.build.worker import EMPTY_LAYER, BaseImage, CacheWish, RunRequest, TransferReport
from sampan.engine.cache_leases import CacheLeases
from sampan.engine.cache_mounts import CacheMounts
from sampan.engine.cache_transfer import BuildCaches
from sampan.engine.cache_use import BuildUse
from sampan.engine.containers.build_steps import BuildSteps, StepTerminal
from sampan.engine.host_ca.step import HostTrust
from sampan.engine.images import Images, platform_of
from sampan.engine.model import new_id
from sampan.errors import NotFound, SampanError
from sampan.linux import binfmt
from sampan.oci.digest import Digest, digest_of
from sampan.oci.image import ImageConfig, encode_image_config
from sampan.oci.reference import Reference, parse_reference
from sampan.oci.rootfs import RootAssembly
from sampan.registry.choice import choose_image
from sampan.registry.config import Credentials
from sampan.registry.platforms import serves
from sampan.runtime.launcher_client import LauncherClient
from sampan.storage.image_model import Image
from sampan.storage.layers import Layer
from sampan.storage.packing import platform_of_image
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
        leases: CacheLeases,
        use: BuildUse,
        loop: asyncio.AbstractEventLoop,
        credentials: Mapping[str, Credentials],
        trust: HostTrust | None,
        lazy: BuildCaches,
        *,
        keep_images: bool = True,
    ) -> None:
        """`use` is told which layers and mounts are needed.

        `trust`: the host's CA bundle for RUN, if asked for. `lazy` fetches layers that were imported and turn out to be
        needed. `keep_images`: False for a build whose result is no image of the store.
        """
        self._images = images
        self._snapshots = snapshots
        self._launcher = launcher
        self._steps = steps
        self._caches = caches
        self._leases = leases
        self._use = use
        self._loop = loop
        self._credentials = credentials
        self._trust = trust
        self._lazy = lazy
        self._keep_images = keep_images
        self._made: dict[Digest, Image] = {}
        """This build's results, as somebody may remove them from the store already, and those that it doesn't get."""

    def resolve_image(
        self,
        reference: str,
        *,
        pull: bool,
        platform: str | None,
        report: TransferReport,
        cancelled: threading.Event,
    ) -> BaseImage:
        known = self._local(reference, platform)
        if known is not None and not pull and self._held(known):
            return self._base(reference, known)
        name = parse_reference(reference).with_default_tag()
        credentials = self._credentials.get(name.domain, Credentials())
        wanted, host = platform_of(platform or ""), platform_of("")
        foreign = not serves(wanted, host)
        here = self._images.store.find(reference)
        try:
            pulled = self._images.pull_now(name, wanted, credentials, report, cancelled, beside=foreign)
        except SampanError as error:
            if here is None or pull or cancelled.is_set():
                raise
            raise NotFound(
                f"image with reference {reference} was found but does not match the specified platform: "
                f"wanted {wanted}, actual: {platform_of_image(here)}",
                hint=f"it could not be pulled for {wanted}: {error.message}",
            ) from error
        if not self._held(pulled):
            raise NotFound(f"the image {reference} was removed while it was being pulled")
        return self._base(reference, pulled)

    def _base(self, reference: str, image: Image) -> BaseImage:
        index = self._images.store.index_of(reference)
        origin = image.manifest_descriptor.digest if image.manifest_descriptor is not None else None
        if index is not None and image.id in index[1].images():
            origin = index[0]
        return BaseImage(image.id, image.config, image.diff_ids, origin)

    def _held(self, image: Image) -> bool:
        """Its layers stay, also when the image is removed from here on. False when it was removed already."""
        self._use.hold(image.diff_ids)
        return all(self._images.store.layers.has(diff_id) for diff_id in image.diff_ids)

    def _local(self, reference: str, platform: str | None) -> Image | None:
        """The image here that serves the platform; by itself a name means the host's."""
        try:
            found = self._images.store.variants(reference)
        except NotFound:
            return None
        return found[0] if platform is None else choose_image(found, platform_of(platform))

    def known_config(self, reference: str, platform: str | None) -> ImageConfig | None:
        known = self._local(reference, platform)
        return known.config if known is not None else None

    def has_layer(self, diff_id: Digest) -> bool:
        self._use.hold((diff_id,))
        return self._images.store.layers.has(diff_id)

    def has_image(self, image_id: Digest) -> bool:
        if not self._keep_images and image_id in self._made:
            return True
        try:
            self._made[image_id] = self._images.store.get(image_id)
        except NotFound:
            return False
        return True

    def layers_of(self, image_id: Digest) -> tuple[Digest, ...]:
        return self.built(image_id).diff_ids

    def built(self, image_id: Digest) -> Image:
        """An image of the store, or one that this build has made and kept out of it. Raises `NotFound`."""
        made = self._made.get(image_id)
        return made if made is not None else self._images.store.get(image_id)

    def create_snapshot(self, diff_ids: Sequence[Digest]) -> str:
        self._ensure(diff_ids)
        snapshot_id = new_id()
        self._snapshots.create(snapshot_id, diff_ids, volatile=True)
        return snapshot_id

    def open_root(self, diff_ids: Sequence[Digest], snapshot_id: str | None) -> int:
        self._ensure(diff_ids)
        if snapshot_id is not None:
            return self._launcher.open_root(self._snapshots.assembly(snapshot_id))
        layers = self._images.store.layers
        if diff_ids:
            return self._launcher.open_root(RootAssembly(tuple(layers.mount_of(one) for one in diff_ids)))
        empty = self._caches.empty_directory()
        return os.open(empty, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def attend(self, request: RunRequest, terminal: StepTerminal) -> int:
        """Run a step with a client at it, to its end; its exit status."""
        return self._steps.attend(request, terminal, self._loop, self._trust)

    def run(
        self, request: RunRequest, output: Callable[[int, bytes], None], cancelled: threading.Event
    ) -> int:
        host = binfmt.host_architecture()
        if request.architecture not in ("", host):
            binfmt.require_architecture(request.architecture, host, binfmt.handlers())
        try:
            return self._steps.run(request, output, cancelled, self._loop, self._trust)
        except SampanError as error:
            if error.message.endswith("exec format error"):
                own = request.architecture or host
                error.hint = (
                    f"it is no script with a #! line, and no program for the image's platform, linux/{own}"
                )
            raise

    def _ensure(self, diff_ids: Sequence[Digest]) -> None:
        self._use.hold(diff_ids)
        missing = [diff_id for diff_id in diff_ids if not self._images.store.layers.has(diff_id)]
        if not missing:
            return
        try:
            self._lazy.ensure(missing)
        finally:
            for diff_id in missing:
                self._use.loosen(diff_id)  # its entry may name another layer by now

    def adopt_snapshot(self, snapshot_id: str, *, latest: int | None = None) -> Layer:
        with self._images.store.no_collection():
            layer = self._snapshots.adopt(snapshot_id, latest=latest)
            self._use.hold((layer.diff_id,))
        self._use.loosen(layer.diff_id)
        return layer if layer.entries else Layer(EMPTY_LAYER, 0)

    def remove_snapshot(self, snapshot_id: str) -> None:
        self._snapshots.remove(snapshot_id)

    def open_cache(self, wish: CacheWish, cancelled: threading.Event) -> AbstractContextManager[int]:
        return self._leases.lease(wish, self._use.touch, cancelled, self._lazy.fill_mount)

    def create_image(self, config: ImageConfig, parent: Digest | None) -> Digest:
        self._ensure(config.rootfs.diff_ids)
        if self._keep_images:
            image = self._images.store.create(config)
            self._made[image.id] = image
            return image.id
        raw = encode_image_config(config)
        image_id = digest_of(raw)
        self._made[image_id] = Image(image_id, config, raw, b"", None, 0, (), ())
        return image_id

    def tag(self, image_id: Digest, reference: Reference) -> None:
        try:
            self._images.store.tag(image_id, reference)
        except NotFound:  # somebody has removed what had no name yet
            made = self._made.get(image_id)
            if made is None:
                raise
            self._images.store.create(made.config, names=(reference,))
