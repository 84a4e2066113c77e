"""Builds: a context comes in, the builder works in a thread, its events go out."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from sampan.build.builder import Builder
from sampan.build.model import BuildEvent, BuildRequest
from sampan.engine.threads import Report, ReportedWork, upload_file
from sampan.registry.config import Credentials
from sampan.storage.extract import ExtractOptions, extract_tar

Json = dict[str, object]
Credentialed = Mapping[str, Credentials]
"""Registry domain -> what the client sent for it."""
MakeBuilder = Callable[[Credentialed, bool], Builder]
"""From the credentials for this build, and whether RUN trusts the host's CA certificates, to its builder."""

_CONTEXT = ExtractOptions(owner=(0, 0), devices=False)
"""Everything in a build context belongs to root, as Docker has it; a device in it makes no sense."""


class Builds:
    def __init__(self, root: Path, make_builder: MakeBuilder, cache: BuildCacheKeeper) -> None:
        """`root` is the directory for contexts under way; what an earlier engine left there is removed."""
        self._root = root
        self._make_builder = make_builder
        self._cache = cache
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True, mode=0o700)

    def build(
        self,
        request: BuildRequest,
        context: AsyncIterator[bytes] | None,
        credentials: Credentialed,
        *,
        host_ca: bool = False,
    ) -> AsyncIterator[BuildEvent]:
        """The events of the build; errors of the build are raised at their end.

        `context` is a tar, plain or compressed; None: the request brings its Dockerfile along and copies
        nothing. `host_ca`: RUN trusts the host's CA certificates, without a trace in the image.
        Giving the iteration up cancels the build.
        """
        loop = asyncio.get_running_loop()

        def work(report: Report[BuildEvent], cancelled: threading.Event) -> None:
            directory = Path(tempfile.mkdtemp(dir=self._root))
            try:
                context_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    if context is not None:
                        extract_tar(upload_file(context, loop), context_fd, _CONTEXT)
                    self._make_builder(credentials, host_ca).build(request, context_fd, report, cancelled)
                finally:
                    os.close(context_fd)
            finally:
                shutil.rmtree(directory)

        return aiter(ReportedWork(work))

    async def disk_usage(self) -> list[Json]:
        """The cache's entries in Docker's form."""
        return await asyncio.to_thread(self._cache.entries)

    async def prune(self) -> tuple[list[str], int]:
        """Forget the build cache; the ids of what went, and the bytes that were freed."""
        return await asyncio.to_thread(self._cache.prune)


class BuildCacheKeeper:
    """What Builds needs of the owner of the build cache."""

    def __init__(self, entries: Callable[[], list[Json]], prune: Callable[[], tuple[list[str], int]]) -> None:
        self.entries = entries
        self.prune = prune
