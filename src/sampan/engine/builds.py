"""Builds: a context comes in, the builder works in a thread, its events go out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.build.consent import DEFAULT_ALLOWED, check_granted
from sampan.build.events import BuildEvent
from sampan.build.model import BuildRequest
from sampan.build.session import NO_CLIENT, ClientSession
from sampan.build.solver.collection import Rule
from sampan.engine.build_cache import BuildCacheKeeper, Json
from sampan.engine.build_contexts import KNOWN_FILES, BuildContexts
from sampan.engine.build_sessions import BuildSessions
from sampan.engine.build_shells import BuildShells
from sampan.engine.cache_mounts import Writer
from sampan.engine.cache_use import BuildUse
from sampan.engine.client_directory import ClientDirectory
from sampan.engine.threads import Report, ReportedWork, blocking_chunks, in_own_thread, streamed
from sampan.errors import Internal, SampanError
from sampan.oci.digest import Digest
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials
from sampan.registry.proxies import NO_PROXIES, Proxies
from sampan.storage.metadata import storage_error

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from sampan.engine.build_job import Tools

Credentialed = Mapping[str, Credentials]
"""Registry domain -> what the client sent for it."""
MakeTools = Callable[[Credentialed, "ClientSession", BuildUse, bool, bool], "Tools"]
"""For one build: from its credentials, client, what is held for it, whether RUN trusts the host's CAs, makes images."""
HoldLayers = Callable[[], AbstractContextManager[Callable[[Iterable[Digest]], None]]]

GC_INTERVAL = 15 * 60.0
"""Seconds between collections of the build cache's garbage when nothing is built."""


class Builds:
    """Used in the event loop's thread."""

    def __init__(
        self,
        root: Path,
        small: Path,
        prepare: Callable[[], MakeTools],
        cache: BuildCacheKeeper,
        hold_layers: HoldLayers,
        tagged: Callable[[Sequence[Reference]], None] = lambda _names: None,
        allowed: frozenset[str] = DEFAULT_ALLOWED,
        proxies: Proxies = NO_PROXIES,
    ) -> None:
        """`root` and `small` are for contexts under way, see `BuildContexts`. `prepare` is called by the first build.

        `hold_layers`: what a build needs is not collected meanwhile; a layer that it stands on may belong to an image
        that is removed. Others go: where builds follow each other without a pause, the cache has bounds too.
        `tagged` is told in the event loop of the names that a build has given. `allowed`: entitlements that builds
        may be granted. `proxies`: for what builds fetch.
        """
        self._root = root
        self._contexts = BuildContexts(root, small, root.with_name(KNOWN_FILES))
        self._prepare = prepare
        self._preparing = threading.Lock()
        self._make_tools: MakeTools | None = None
        self._cache = cache
        self._hold_layers = hold_layers
        self._tagged = tagged
        self._allowed = allowed
        self._proxies = proxies
        self.sessions = BuildSessions()
        self.shells = BuildShells(
            lambda use, host_ca: self._tools({}, NO_CLIENT, use, host_ca, False).worker, self._in_use
        )
        self._built = asyncio.Event()

    def build(
        self,
        request: BuildRequest,
        context: AsyncIterator[bytes] | ClientDirectory | str | None,
        credentials: Credentialed,
        *,
        host_ca: bool = False,
        session_id: str = "",
    ) -> AsyncGenerator[BuildEvent, None]:
        """The events of the build; errors of the build are raised at their end.

        `context` is a tar, plain or compressed, a directory to be read where it is, or a URL to fetch; None: the
        request brings its Dockerfile along and copies nothing. `host_ca`: RUN trusts the host's CA certificates,
        without a trace in the image.
        `session_id`: the session that the client opened for this build; it ends with it.
        Giving the iteration up cancels the build.
        """
        loop = asyncio.get_running_loop()
        check_granted(request.entitlements, self._allowed)
        request = replace(request, proxies=self._proxies)
        session = self.sessions.claim(session_id)

        def work(report: Report[BuildEvent], cancelled: threading.Event) -> None:
            from sampan.engine.build_job import run_job
            from sampan.engine.remote_context import NamedSources

            if isinstance(context, ClientDirectory):
                provided = self._contexts.in_place(context)
            elif isinstance(context, str):
                provided = self._contexts.fetched(context, request, report, cancelled, session.client)
            else:
                archive = None if context is None else blocking_chunks(context, loop)
                provided = self._contexts.unpacked(archive, report)
            with (
                _in_words(self._root),
                provided as opened,
                self._contexts.scratch() if request.contexts else nullcontext("") as scratch,
            ):
                wanted = request
                if opened.dockerfile is not None and request.dockerfile_text is None:
                    wanted = replace(request, dockerfile_text=opened.dockerfile)
                opener = NamedSources(scratch, self._contexts.known, session.client, request.proxies)
                try:
                    with self._in_use() as use:
                        stored = any(one.kind == "image" and one.store for one in request.outputs)
                        stored = stored or not request.outputs
                        tools = self._tools(credentials, session.client, use, host_ca, stored)
                        heard = self.shells.remembering(report, request, host_ca=host_ca)
                        names = run_job(tools, wanted, opened, heard, cancelled, session.client, opener)
                    loop.call_soon_threadsafe(self._tagged, names)
                finally:
                    loop.call_soon_threadsafe(self._built.set)

        return session.closed_after(ReportedWork(work, given_up=session.close))

    def _tools(
        self,
        credentials: Credentialed,
        client: ClientSession,
        use: BuildUse,
        host_ca: bool,
        makes_images: bool,
    ) -> Tools:
        with self._preparing:
            make = self._make_tools = self._make_tools or self._prepare()
        return make(credentials, client, use, host_ca, makes_images)

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[BuildUse]:
        """Of one build: what it is told is not collected meanwhile."""
        with self._hold_layers() as hold, self._cache.use.build() as touch:
            yield BuildUse(touch, hold, self._cache.use.loosen)

    async def disk_usage(self) -> list[Json]:
        """The cache's entries in Docker's form."""
        return await asyncio.to_thread(self._cache.entries)

    async def prune(self, rule: Rule, *, dry_run: bool = False) -> tuple[list[str], int]:
        """Remove from the build cache what the rule says; the ids of what went, and the bytes that were freed.

        `dry_run`: nothing goes.
        """
        return await asyncio.to_thread(self._cache.prunable if dry_run else self._cache.prune, (rule,))

    async def export_mount(self, cache_id: str) -> AsyncIterator[bytes]:
        """The content of a cache mount as a tar; in use meanwhile. Raises `NotFound`."""
        mounts, use = self._cache.mounts, self._cache.use
        name = await asyncio.to_thread(mounts.find, cache_id)

        def work(write: Callable[[bytes], object]) -> None:
            with use.build() as touch:
                touch(name)
                mounts.write_tar(name, Writer(write))

        return streamed(work)

    async def import_mount(self, cache_id: str, tar: AsyncIterator[bytes]) -> None:
        """Replace the content of a cache mount, or make one. Raises `Invalid`, `Conflict`."""
        chunks = blocking_chunks(tar, asyncio.get_running_loop())
        await in_own_thread(lambda: self._cache.mounts.replace(cache_id, chunks))

    async def collect_garbage(self, every: float = GC_INTERVAL) -> None:
        """Collect the build cache's garbage after builds, and every so many seconds; until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._built.wait(), every)
            if self._built.is_set() and self._cache.use.busy:
                self._built.clear()  # the end of the last one will wake us again
                continue
            self._built.clear()
            await asyncio.to_thread(self._cache.collect_garbage)


@contextlib.contextmanager
def _in_words(root: Path) -> Iterator[None]:
    """What goes wrong outside of any step, as an error that the client reads at the end of the events."""
    try:
        yield
    except (SampanError, ConnectionError):
        raise  # of a connection it is the client's own
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            log.exception("a build met an error of the system")
        raise storage_error(error, error.filename or root) from error
    except Exception as error:
        log.exception("a build met a fault of the engine")
        raise Internal("internal error, see the daemon's log") from error
