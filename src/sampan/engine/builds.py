"""Builds: a context comes in, the builder works in a thread, its events go out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from sampan.build.events import BuildEvent
from sampan.build.model import BuildRequest
from sampan.build.solver.collection import Rule
from sampan.build.solver.voice import internal
from sampan.engine.build_cache import BuildCacheKeeper, Json
from sampan.engine.build_job import Tools, run_job
from sampan.engine.build_sessions import BuildSessions
from sampan.engine.cache_mounts import Writer, name_of
from sampan.engine.threads import Report, ReportedWork, blocking_chunks, streamed
from sampan.oci.reference import Reference
from sampan.registry.config import Credentials
from sampan.storage.extract import ExtractOptions, extract_tar

log = logging.getLogger(__name__)

Credentialed = Mapping[str, Credentials]
"""Registry domain -> what the client sent for it."""
MakeTools = Callable[[Credentialed, bool, bool], Tools]
"""For one build: from its credentials, whether RUN trusts the host's CA certificates, and whether it makes images."""

GC_INTERVAL = 15 * 60.0
"""Seconds between collections of the build cache's garbage when nothing is built."""
SMALL_CONTEXT = 4 << 20
"""Bytes of a tar. Its files can't be larger, but for sparse ones, whose holes take no space."""

_CONTEXT = ExtractOptions(owner=(0, 0), devices=False)
"""Everything in a build context belongs to root, as Docker has it; a device in it makes no sense."""


class Builds:
    def __init__(
        self,
        root: Path,
        small: Path,
        make_tools: MakeTools,
        cache: BuildCacheKeeper,
        keep_layers: Callable[[], AbstractContextManager[None]] = nullcontext,
        tagged: Callable[[Sequence[Reference]], None] = lambda _names: None,
    ) -> None:
        """`root` and `small` are directories for contexts under way; what an earlier engine left there is removed.

        Contexts of up to `SMALL_CONTEXT` bytes go to `small`, which mostly is in memory: making and removing
        hundreds of little files is what takes longest in a build from the cache. `keep_layers`: while a build is under
        way no layer is collected; one that it stands on may belong to an image that is removed meanwhile.
        `tagged` is told in the event loop of the names that a build has given.
        """
        self._root = root
        self._small = small
        self._make_tools = make_tools
        self._cache = cache
        self._keep_layers = keep_layers
        self._tagged = tagged
        self.sessions = BuildSessions()
        self._built = asyncio.Event()
        for directory in (root, small):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True, mode=0o700)

    def build(
        self,
        request: BuildRequest,
        context: AsyncIterator[bytes] | None,
        credentials: Credentialed,
        *,
        host_ca: bool = False,
        session_id: str = "",
    ) -> AsyncIterator[BuildEvent]:
        """The events of the build; errors of the build are raised at their end.

        `context` is a tar, plain or compressed; None: the request brings its Dockerfile along and copies
        nothing. `host_ca`: RUN trusts the host's CA certificates, without a trace in the image.
        `session_id`: the session that the client opened for this build; it ends with it.
        Giving the iteration up cancels the build.
        """
        loop = asyncio.get_running_loop()
        session = self.sessions.claim(session_id)

        def work(report: Report[BuildEvent], cancelled: threading.Event) -> None:
            archive = None if context is None else blocking_chunks(context, loop)
            start = b"" if archive is None else _start_of(archive)
            directory = Path(tempfile.mkdtemp(dir=self._small if _is_small_tar(start) else self._root))
            try:
                context_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    if archive is not None:
                        with internal(report, "[internal] load build context"):
                            extract_tar(itertools.chain((start,), archive), context_fd, _CONTEXT)
                    with self._keep_layers(), self._cache.use.build():
                        stored = any(one.kind == "image" and one.store for one in request.outputs)
                        tools = self._make_tools(credentials, host_ca, stored or not request.outputs)
                        names = run_job(tools, request, context_fd, report, cancelled, session.client)
                    loop.call_soon_threadsafe(self._tagged, names)
                finally:
                    os.close(context_fd)
                    loop.call_soon_threadsafe(self._built.set)
            finally:
                # Nobody has to wait for it; what an engine that ends meanwhile leaves is swept at the next start.
                threading.Thread(target=_remove, args=(directory,), name="context removal").start()

        return session.closed_after(ReportedWork(work))

    async def disk_usage(self) -> list[Json]:
        """The cache's entries in Docker's form."""
        return await asyncio.to_thread(self._cache.entries)

    async def prune(self, rule: Rule) -> tuple[list[str], int]:
        """Remove from the build cache what the rule says; the ids of what went, and the bytes that were freed."""
        return await asyncio.to_thread(self._cache.prune, (rule,))

    async def export_mount(self, cache_id: str) -> AsyncIterator[bytes]:
        """The content of a cache mount as a tar; in use meanwhile. Raises `NotFound`."""
        mounts, use = self._cache.mounts, self._cache.use
        await asyncio.to_thread(mounts.require, cache_id)

        def work(write: Callable[[bytes], object]) -> None:
            with use.build():
                use.touch(name_of(cache_id))
                mounts.write_tar(cache_id, Writer(write))

        return streamed(work)

    async def import_mount(self, cache_id: str, tar: AsyncIterator[bytes]) -> None:
        """Replace the content of a cache mount, or make one. Raises `Invalid`, `Conflict`."""
        chunks = blocking_chunks(tar, asyncio.get_running_loop())
        await asyncio.to_thread(self._cache.mounts.replace, cache_id, chunks)

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


def _start_of(archive: Iterator[bytes]) -> bytes:
    """The archive itself when it is small, else more than `SMALL_CONTEXT` bytes of it."""
    start = bytearray()
    while len(start) <= SMALL_CONTEXT and (piece := next(archive, b"")):
        start += piece
    return bytes(start)


def _is_small_tar(start: bytes) -> bool:
    """Not for compressed ones, whose size is not known yet."""
    return len(start) <= SMALL_CONTEXT and start[257:262] == b"ustar"


def _remove(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except OSError as error:
        log.warning("build context %s could not be removed: %s", directory, error)
