"""The image service: pull, push, tag, remove, save, load, import; the only writer of images."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from sampan import __version__
from sampan.engine.events import EventBus
from sampan.engine.filters import check_filters, label_matches, parse_time
from sampan.engine.model import now
from sampan.engine.settings import Settings
from sampan.engine.system import architecture
from sampan.engine.threads import (
    Report,
    ReportedWork,
    blocking_chunks,
    in_own_thread,
    streamed,
    upload_file,
)
from sampan.errors import Invalid, NotFound
from sampan.oci.digest import Digest
from sampan.oci.image import ContainerDefaults, History, ImageConfig, RootFS
from sampan.oci.manifest import Platform
from sampan.oci.reference import Reference, parse_reference
from sampan.registry.choice import choose_image
from sampan.registry.config import Credentials, RegistryConfig
from sampan.registry.platforms import parse_platform
from sampan.registry.progress import Progress
from sampan.storage.archive import load_archive, save_archive
from sampan.storage.image_model import DiskUsage, HistoryItem, Image, Removal, Use
from sampan.storage.images import ImageStore
from sampan.storage.layer_blobs import ingest_tar
from sampan.storage.layers import Layer

if TYPE_CHECKING:
    from sampan.registry.client import RegistryClient

Filters = Mapping[str, Sequence[str]]
_LIST_FILTERS = ("dangling", "label", "label!", "before", "since", "reference", "until")
_PRUNE_FILTERS = ("dangling", "label", "label!", "until")


class Images:
    """`uses` tells the containers that use an image; set by the composition root."""

    def __init__(self, store: ImageStore, settings: Settings, events: EventBus) -> None:
        self.store = store
        self._settings = settings
        self._events = events
        self.uses: Callable[[Digest], Sequence[Use]] = lambda _image_id: ()
        self.unknown: Callable[[], Sequence[str]] = lambda: ()
        """Containers (ids) of which nobody knows all images that they use."""
        self.layer_roots: Callable[[Collection[str]], Iterable[Digest]] = lambda _without: ()
        self.config = RegistryConfig(
            insecure_registries=settings.insecure_registries,
            mirrors=settings.registry_mirrors,
            certs_dir=settings.registry_certs,
            user_agent=f"sampan/{__version__}",
            proxies=settings.proxies,
        )

    # Looking

    def get(self, name: str, platform: Platform | None = None) -> Image:
        """Blocking; of a name that has several platforms' images, that one's. Raises `NotFound` in Docker's words."""
        if platform is None:
            return self.store.get(name)
        found = self.store.variants(name)
        chosen = choose_image(found, platform)
        if chosen is None:
            raise NotFound(
                f"image with reference {name} was found but does not provide the specified platform ({platform})"
            )
        return chosen

    def containers_of(self, image_id: Digest) -> int:
        return len(self.uses(image_id))

    async def list(self, filters: Filters, *, everything: bool = False) -> builtins.list[Image]:
        """Newest first. Raises `Invalid` for an unknown filter, `NotFound` for an unknown image in one."""
        check_filters(filters, _LIST_FILTERS)
        return await asyncio.to_thread(self._list, filters)

    def _list(self, filters: Filters) -> builtins.list[Image]:
        bounds = [(self.store.get(name), True) for name in filters.get("before", ())]
        bounds += [(self.store.get(name), False) for name in filters.get("since", ())]
        until = [parse_time(text) / 1e9 for text in filters.get("until", ())]
        found = [
            _narrowed(image, filters.get("reference", ()))
            for image in self.store.list()
            if (image.tags or image.digests or not image.part_of)
            and _matches(image, filters)
            and all((image.created < other.created) == before for other, before in bounds)
            and all(image.id != other.id for other, _ in bounds)
            and all(image.created <= moment for moment in until)
        ]
        return sorted(found, key=lambda image: image.created, reverse=True)

    async def disk_usage(self) -> DiskUsage:
        return await asyncio.to_thread(self.store.disk_usage)

    def history(self, name: str, platform: Platform | None = None) -> builtins.list[HistoryItem]:
        """Newest first. Raises `NotFound`."""
        return self.store.history(name if platform is None else self.get(name, platform).id)

    # Names

    async def tag(self, name: str, repository: str, tag: str) -> None:
        reference = parse_reference(f"{repository}:{tag}" if tag else repository).with_default_tag()
        if reference.digest is not None:
            raise Invalid("refusing to create a tag with a digest reference")
        image = await asyncio.to_thread(self.store.get, name)
        index = self.store.index_of(name)
        await asyncio.to_thread(self.store.tag, image.id, reference, index[0] if index else None)
        self._announce("tag", image.id, reference.familiar)

    def announce_tags(self, names: Iterable[Reference]) -> None:
        """Events for names that somebody else, a build, has given."""
        for name in names:
            image = self.store.find(str(name.with_default_tag()))
            if image is not None:
                self._announce("tag", image.id, name.with_default_tag().familiar)

    async def remove(self, name: str, *, force: bool) -> Removal:
        removal = await asyncio.to_thread(self.store.remove, name, force=force, uses=self.uses)
        self._announce_removal(removal)
        return removal

    async def prune(
        self, filters: Filters, *, dry_run: bool = False, without: Collection[str] = ()
    ) -> Removal:
        """Remove dangling images, or with dangling=false all that no container uses.

        `dry_run`: nothing is removed, the answer is what would be, if there were no containers `without` (ids).
        """
        check_filters(filters, _PRUNE_FILTERS)
        everything = any(value.lower() in ("false", "0") for value in filters.get("dangling", ()))
        until = min((parse_time(text) / 1e9 for text in filters.get("until", ())), default=None)
        store = self._trial(without) if dry_run else self.store
        unknown = [Use(container_id, running=False) for container_id in self.unknown()]
        removal = await asyncio.to_thread(
            store.prune,
            dangling=not everything,
            until=until,
            matches=lambda labels: label_matches(labels, filters),
            uses=lambda image: [
                one for one in (*self.uses(image), *unknown) if one.container_id not in without
            ],
        )
        if dry_run:
            return removal
        self._announce_removal(removal)
        self._events.publish("image", "prune", "", {"reclaimed": str(removal.freed)})
        return removal

    def _trial(self, without: Collection[str]) -> ImageStore:
        from sampan.storage.image_trial import ImageTrial

        return ImageTrial(self.store, lambda: self.layer_roots(without))

    # Registries. Their modules are imported when one is needed: an engine that pulls nothing is smaller by 4 MB.

    def client(self, domain: str, credentials: Credentials) -> RegistryClient:
        from sampan.registry.client import RegistryClient

        return RegistryClient(domain, self.config, credentials)

    def pull(self, reference: Reference, platform: str, credentials: Credentials) -> AsyncIterator[Progress]:
        """Without a tag or digest: every tag of the repository.

        Giving the iteration up cancels the pull; what has arrived is kept for the next.
        """
        wanted = platform_of(platform)

        def work(report: Report[Progress], cancelled: threading.Event) -> Sequence[Reference]:
            from sampan.registry.pull import pull_all

            if reference.tag is not None or reference.digest is not None:
                self.pull_now(reference, wanted, credentials, report, cancelled)
                return [reference]
            with self._client(reference, credentials) as client:
                return pull_all(
                    client,
                    reference,
                    self.store,
                    platform=wanted,
                    report=report,
                    cancelled=cancelled,
                    parallel=self._settings.max_concurrent_downloads,
                )

        return self._announced("pull", work)

    def pull_now(
        self,
        reference: Reference,
        platform: Platform,
        credentials: Credentials,
        report: Callable[[Progress], None],
        cancelled: threading.Event,
        *,
        beside: bool = False,
    ) -> Image:
        """One image (tag "latest" if none) in this thread, for the builder.

        `beside`: no tag is given or moved for it.
        """
        from sampan.registry.pull import pull

        with self._client(reference, credentials) as client:
            return pull(
                client,
                reference,
                self.store,
                platform=platform,
                report=report,
                cancelled=cancelled,
                parallel=self._settings.max_concurrent_downloads,
                beside=beside,
            )

    @contextlib.contextmanager
    def _client(self, reference: Reference, credentials: Credentials) -> Iterator[RegistryClient]:
        client = self.client(reference.domain, credentials)
        try:
            yield client
        finally:
            client.close()

    def push(
        self, reference: Reference, credentials: Credentials, platform: Platform | None = None
    ) -> AsyncIterator[Progress]:
        """Without a tag: every tag of the repository that is here. `platform`: only that one's image of several."""

        def work(report: Report[Progress], cancelled: threading.Event) -> Sequence[Reference]:
            report(Progress(f"The push refers to repository [{reference.name}]"))
            from sampan.registry.push import push_name

            chosen = self._pushed(reference)
            with self._client(reference, credentials) as client:
                for name, image in chosen:
                    push_name(
                        client,
                        name,
                        image if platform is None else self.get(str(name), platform),
                        self.store,
                        whole=platform is None,
                        report=report,
                        cancelled=cancelled,
                        parallel=self._settings.max_concurrent_uploads,
                    )
            return [name for name, _ in chosen]

        return self._announced("push", work)

    def _pushed(self, reference: Reference) -> builtins.list[tuple[Reference, Image]]:
        """Raises `NotFound` in Docker's words."""
        here = [
            (tag, image) for image in self.store.list() for tag in image.tags if tag.name == reference.name
        ]
        chosen = [one for one in here if reference.tag in (None, one[0].tag)]
        if not here:
            raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
        if not chosen:
            raise NotFound(f"tag does not exist: {reference.familiar}")
        return sorted(chosen, key=lambda one: str(one[0]))

    async def _announced(
        self, action: str, work: Callable[[Report[Progress], threading.Event], Sequence[Reference]]
    ) -> AsyncIterator[Progress]:
        """The work's reports; events for the names that it returns follow."""
        names: builtins.list[Reference] = []

        def noted(report: Report[Progress], cancelled: threading.Event) -> None:
            names.extend(work(report, cancelled))

        async for progress in ReportedWork(noted):
            yield progress
        for name in names:
            image = self.store.find(str(name.with_default_tag()))
            if image is not None:
                self._announce(action, image.id, name.with_default_tag().familiar)

    async def login(self, address: str, credentials: Credentials) -> str:
        """Check the credentials; the identity token that the registry gives for them, or ""."""
        domain = address.removeprefix("https://").removeprefix("http://").partition("/")[0]
        if domain in ("", "index.docker.io"):
            domain = "docker.io"
        client = self.client(domain, credentials)
        try:
            return await asyncio.to_thread(client.check_credentials)
        finally:
            client.close()

    # Archives

    def save(self, names: Sequence[str], platform: Platform | None = None) -> AsyncIterator[bytes]:
        """The images as a tar; of a name with several platforms all, or one. Raises `NotFound` at once."""
        chosen = [pair for name in names for pair in self._saved(name)]
        if platform is not None:
            chosen = [(self.get(str(name or image.id), platform), name) for image, name in chosen]

        def work(write: Callable[[bytes], object]) -> None:
            save_archive(self.store, chosen, _Writer(write), whole=platform is None)

        for image_id in dict.fromkeys(image.id for image, _ in chosen):
            self._announce("save", image_id, str(image_id))
        return streamed(work)

    def _saved(self, name: str) -> builtins.list[tuple[Image, Reference | None]]:
        """The image and the name to save it under; a repository without a tag means all of its tags."""
        reference = _parsed(name)
        if reference is not None and reference.tag is None and reference.digest is None:
            tagged = [(image, tag) for image in self.store.list() for tag in image.tags]
            found: builtins.list[tuple[Image, Reference | None]] = [
                (image, tag) for image, tag in tagged if tag.name == reference.name
            ]
            if found:
                return found
        image = self.store.get(name)
        by_name = reference is not None and reference.with_default_tag() in image.tags
        return [(image, reference if by_name else None)]

    def load(self, upload: AsyncIterator[bytes], platform: Platform | None = None) -> AsyncIterator[str]:
        """Lines that say what was loaded, as Docker prints them. `platform`: only that one's image of several."""
        loop = asyncio.get_running_loop()

        def work(report: Report[str], cancelled: threading.Event) -> None:
            file = upload_file(upload, loop)
            for image, names in load_archive(
                self.store, file, platform=platform, preferred=platform_of(""), cancelled=cancelled.is_set
            ):
                for name in names:
                    report(f"Loaded image: {name.familiar}\n")
                if not names:
                    report(f"Loaded image ID: {image.id}\n")
                loop.call_soon_threadsafe(self._announce, "load", image.id, str(image.id))

        return aiter(ReportedWork(work))

    async def import_(
        self,
        upload: AsyncIterator[bytes],
        name: Reference | None,
        *,
        message: str,
        changes: Sequence[str],
        platform: str,
    ) -> Digest:
        """A root file system as an image of one layer. Raises `Invalid`; nothing is left of it then."""
        from sampan.engine.changes import apply_changes  # and with it the Dockerfile's language

        loop = asyncio.get_running_loop()
        config = apply_changes(ContainerDefaults(), changes)
        wanted = platform_of(platform)

        def work() -> Digest:
            with self.store.no_collection():
                return keep(ingest_tar(self.store, blocking_chunks(upload, loop)))

        def keep(layer: Layer) -> Digest:
            created = now()
            history = History(created=created, comment=message or "Imported from -")
            image = self.store.create(
                ImageConfig(
                    wanted.architecture,
                    wanted.os,
                    RootFS((layer.diff_id,)),
                    config,
                    created=created,
                    variant=wanted.variant,
                    history=(history,),
                )
            )
            if name is not None:
                self.store.tag(image.id, name)
            return image.id

        image_id = await in_own_thread(work)
        if name is not None:
            self._announce("tag", image_id, name.familiar)
        self._announce("import", image_id, str(image_id))
        return image_id

    # Events

    def _announce(self, action: str, image_id: Digest, name: str) -> None:
        labels = {}
        if self.store.has(image_id):
            labels = self.store.get(image_id).config.defaults.labels or {}
        self._events.publish("image", action, image_id, {**labels, "name": name})

    def _announce_removal(self, removal: Removal) -> None:
        for image_id in removal.owners:
            self._events.publish("image", "untag", image_id, {"name": str(image_id)})
        for image_id in removal.deleted:
            self._events.publish("image", "delete", image_id, {"name": str(image_id)})


class _Writer:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write


def platform_of(text: str) -> Platform:
    return parse_platform(text) if text else Platform(architecture(), "linux")


def _parsed(name: str) -> Reference | None:
    try:
        return parse_reference(name)
    except Invalid:
        return None


def _matches(image: Image, filters: Filters) -> bool:
    for value in filters.get("dangling", ()):
        if image.dangling != (value.lower() in ("true", "1")):
            return False
    patterns = filters.get("reference", ())
    names = (*image.tags, *image.digests)
    if patterns and not any(_fits(name, pattern) for name in names for pattern in patterns):
        return False
    return label_matches(image.config.defaults.labels or {}, filters)


def _narrowed(image: Image, patterns: Sequence[str]) -> Image:
    """With only those of its names that were asked for."""
    if not patterns:
        return image

    def fitting(names: tuple[Reference, ...]) -> tuple[Reference, ...]:
        return tuple(name for name in names if any(_fits(name, pattern) for pattern in patterns))

    return replace(image, tags=fitting(image.tags), digests=fitting(image.digests))


def _fits(tag: Reference, pattern: str) -> bool:
    names = (tag.familiar, tag.familiar_name, str(tag), tag.name)
    return any(fnmatchcase(name, pattern) for name in names)
