"""What can be asked of a Dockerfile without building it: `--call check`, `outline`, `targets`."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from sampan.build.dockerfile.parse import parse
from sampan.build.dockerfile.plan import plan
from sampan.build.files.context import CONTEXT_FILES, ignore_rules, read_dockerfile
from sampan.build.model import BuildRequest, Dockerfile
from sampan.build.rules.check import check_text
from sampan.build.rules.outline import outline, targets
from sampan.build.rules.report import Json, lint_result
from sampan.build.rules.subject import FindBase, Subject, replaceable
from sampan.build.session import NO_CLIENT
from sampan.build.solver.steps import host_platform
from sampan.engine.build_contexts import remove_context
from sampan.engine.images import Images, platform_of
from sampan.engine.threads import blocking_chunks, in_own_thread
from sampan.errors import NotFound, SampanError
from sampan.oci.image import ImageConfig
from sampan.oci.reference import parse_reference
from sampan.registry.config import Credentials
from sampan.registry.platforms import serves
from sampan.storage.extract import extract_tar
from sampan.storage.packing import platform_of_image

log = logging.getLogger(__name__)


class BuildCalls:
    """Used in the event loop's thread."""

    def __init__(self, images: Images, small: Path, large: Path) -> None:
        """Directories for contexts, which are removed after each call; `large` for those that are fetched."""
        self._images = images
        self._small = small
        self._large = large

    async def check(
        self,
        request: BuildRequest,
        context: AsyncIterator[bytes] | str,
        credentials: Mapping[str, Credentials],
        *,
        practice: bool = True,
    ) -> Json:
        """BuildKit's `result.json` of a check. The Dockerfile and the ignore file suffice as context; or it is a URL.

        `practice`: with sampan's own rules, not BuildKit's alone.
        """

        def work(fd: int, request: BuildRequest) -> Json:
            raw = read_dockerfile(fd, request)
            subject = self._subject(fd, request, credentials, practice=practice)
            name = request.dockerfile or "Dockerfile"
            return lint_result(check_text(raw, subject, name), raw, name)

        return await self._in_context(context, request, work)

    async def outline(
        self,
        request: BuildRequest,
        context: AsyncIterator[bytes] | str,
        credentials: Mapping[str, Credentials],
    ) -> Json:
        """What the target can be given. Raises `DockerfileError`, `NotFound` for an unknown target."""

        def work(fd: int, request: BuildRequest) -> Json:
            raw = read_dockerfile(fd, request)
            subject = self._subject(fd, request, credentials)
            subject = replace(subject, dockerfile=parse(raw, request.dockerfile or "Dockerfile"))
            planned = plan(
                subject.dockerfile,
                build_args=subject.build_args,
                target=subject.target,
                build_platform=subject.build_platform,
                target_platform=subject.target_platform,
                contexts=subject.contexts,
            )
            return outline(subject, planned, raw)

        return await self._in_context(context, request, work)

    async def targets(self, request: BuildRequest, context: AsyncIterator[bytes] | str) -> Json:
        """The stages. Raises `DockerfileError`."""

        def work(fd: int, request: BuildRequest) -> Json:
            raw = read_dockerfile(fd, request)
            return targets(parse(raw, request.dockerfile or "Dockerfile"), raw)

        return await self._in_context(context, request, work)

    def _subject(
        self,
        fd: int,
        request: BuildRequest,
        credentials: Mapping[str, Credentials],
        *,
        practice: bool = False,
    ) -> Subject:
        """All but the Dockerfile."""
        platform = host_platform()
        return Subject(
            Dockerfile(()),
            build_args=request.build_args,
            target=request.target,
            build_platform=platform,
            target_platform=request.platform or platform,
            find_base=replaceable(self._find_base(request, credentials), request.contexts),
            contexts=request.contexts,
            ignore=ignore_rules(fd, request),
            practice=practice,
        )

    async def _in_context(
        self,
        context: AsyncIterator[bytes] | str,
        request: BuildRequest,
        work: Callable[[int, BuildRequest], Json],
    ) -> Json:
        """Unpack or fetch the context; `work` gets its descriptor, and a Dockerfile that came alone, in a thread."""
        loop = asyncio.get_running_loop()

        def filled(fd: int) -> BuildRequest:
            if not isinstance(context, str):
                extract_tar(blocking_chunks(context, loop), fd, CONTEXT_FILES)
                return request
            from sampan.engine.remote_context import load_remote

            asked = replace(request, proxies=self._images.config.proxies)
            found = load_remote(context, fd, asked, lambda _: None, threading.Event(), NO_CLIENT)
            known = found.dockerfile is None or request.dockerfile_text is not None
            return request if known else replace(request, dockerfile_text=found.dockerfile)

        def performed() -> Json:
            parent = self._large if isinstance(context, str) else self._small
            directory = Path(tempfile.mkdtemp(dir=parent))
            try:
                fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    return work(fd, filled(fd))
                finally:
                    os.close(fd)
            finally:
                remove_context(directory)

        return await in_own_thread(performed)

    def _find_base(self, request: BuildRequest, credentials: Mapping[str, Credentials]) -> FindBase:
        """Configurations of images that are here, else from their registries; nothing is pulled.

        One that can't be had makes the rules that need it say nothing: a check works without a network too.
        """
        known: dict[tuple[str, str], ImageConfig | None] = {}

        def find(name: str, platform: str) -> ImageConfig | None:
            wanted = platform or request.platform or ""
            if (name, wanted) not in known:
                known[name, wanted] = self._config(name, wanted, credentials)
            return known[name, wanted]

        return find

    def _config(self, name: str, platform: str, credentials: Mapping[str, Credentials]) -> ImageConfig | None:
        try:
            found = self._images.store.variants(name)
        except NotFound:
            found = []
        if found:
            wanted = platform_of(platform)
            fitting = [one for one in found if platform and serves(platform_of_image(one), wanted)]
            return [*fitting, *found][0].config
        from sampan.registry.pull import fetch_config

        try:
            reference = parse_reference(name).with_default_tag()
            client = self._images.client(reference.domain, credentials.get(reference.domain, Credentials()))
            try:
                return fetch_config(client, reference, platform_of(platform), threading.Event())
            finally:
                client.close()
        except SampanError as error:
            log.info("the check goes without the configuration of %s: %s", name, error.message)
            return None
