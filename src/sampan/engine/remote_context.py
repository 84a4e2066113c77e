"""Build contexts that the engine fetches itself: a Git repository, an archive or a Dockerfile behind a URL."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from contextlib import nullcontext
from pathlib import Path

import msgspec

from sampan.build.contexts import ContextOpener
from sampan.build.dockerfile.contexts import DIRECTORY
from sampan.build.fetch.git import check_out, resolve
from sampan.build.fetch.git_transport import Limits
from sampan.build.fetch.git_url import is_git, parse_git, redacted
from sampan.build.fetch.http import download, is_url
from sampan.build.files.archive import is_tar
from sampan.build.files.checksums import checksums_of
from sampan.build.files.context import Context
from sampan.build.model import MAX_DOCKERFILE, BuildRequest
from sampan.build.session import ClientSession
from sampan.build.solver.repositories import authorization_for, forwarded_agent, with_credentials
from sampan.build.worker import TransferReport
from sampan.engine.client_directory import ClientDirectory
from sampan.errors import Conflict, Invalid
from sampan.registry.progress import Progress
from sampan.storage.extract import ExtractOptions, extract_tar

log = logging.getLogger(__name__)

_CONTEXT = ExtractOptions(owner=(0, 0), devices=False)
_CHUNK = 1 << 16
_KEEP_GIT = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
"""The build argument by which BuildKit keeps `.git` in a context."""


def check_remote(address: str) -> None:
    """Raises `Invalid` for what is no address of a context."""
    if is_git(address, context=True):
        parse_git(address, context=True)
    elif not is_url(address):
        raise Invalid("invalid remote build context: no URL", hint="http, https, git and ssh are fetched")


def load_remote(
    address: str,
    fd: int,
    request: BuildRequest,
    report: TransferReport,
    cancelled: threading.Event,
    client: ClientSession,
) -> bytes | None:
    """Fill the empty directory behind `fd`; a text that is returned is the Dockerfile itself, and all there is.

    Raises `Invalid`, `NotFound`, `Unavailable`, `BuildCancelled`.
    """
    if is_git(address, context=True):
        keep = (request.build_args.get(_KEEP_GIT) or "").lower() in ("1", "true")
        fetch_repository(address, fd, report, cancelled, client, keep_git_dir=keep)
        return None
    return fetch_archive(address, fd, report, cancelled, client)


def fetch_repository(
    address: str,
    fd: int,
    report: TransferReport,
    cancelled: threading.Event,
    client: ClientSession,
    *,
    keep_git_dir: bool = False,
) -> None:
    source = with_credentials(parse_git(address, context=True), client)
    kept = keep_git_dir if source.keep_git_dir is None else source.keep_git_dir

    def progress(count: int) -> None:
        if count:
            report(Progress("Downloading", source.url.remote, count))

    with forwarded_agent(client) if source.url.scheme == "ssh" else nullcontext("") as agent:
        limits = Limits(cancelled, progress, agent)
        check_out(source, resolve(source, limits), fd, limits, keep_git_dir=kept)


def fetch_archive(
    address: str, fd: int, report: TransferReport, cancelled: threading.Event, client: ClientSession
) -> bytes | None:
    """None when it was an archive; else the text that it was."""
    with tempfile.TemporaryFile() as file:
        download(address, file, report, cancelled, authorization=authorization_for(address, client))
        if is_tar(file.fileno()):
            extract_tar(file, fd, _CONTEXT)
            return None
        text = file.read(MAX_DOCKERFILE + 1)
    if len(text) > MAX_DOCKERFILE or b"\0" in text:
        raise Invalid("the remote build context is neither a tar archive nor a Dockerfile")
    return text


def _directory_of(name: str, value: str) -> ClientDirectory:
    try:
        return msgspec.json.decode(value.removeprefix(DIRECTORY), type=ClientDirectory)
    except msgspec.MsgspecError as error:
        raise Invalid(f"invalid build context {name}: {error}") from error


class NamedSources(ContextOpener):
    """`--build-context NAME=VALUE`: URLs, and directories of the client's.

    These are read in place where they can be, as the main context is; else the client's session sends them.
    """

    def __init__(self, scratch: str, known: Path, client: ClientSession) -> None:
        """`scratch`: for files that are brought here. `known`: for checksums of files in place."""
        self._scratch = scratch
        self._known = known
        self._client = client

    def open_context(
        self, name: str, value: str, report: TransferReport, cancelled: threading.Event
    ) -> Context:
        if value.startswith(DIRECTORY):
            try:
                fd = _directory_of(name, value).open()
            except Conflict as error:
                log.info("%s; it is sent", error.message)
            else:
                return Context(fd, checksums_of(fd, self._known), self._scratch, in_place=True)
        folder = tempfile.mkdtemp(dir=self._scratch)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._fill(fd, name, value, report, cancelled)
        except BaseException:
            os.close(fd)
            raise
        return Context(fd, scratch=self._scratch)

    def _fill(
        self, fd: int, name: str, value: str, report: TransferReport, cancelled: threading.Event
    ) -> None:
        if is_git(value, context=True):
            fetch_repository(value, fd, report, cancelled, self._client)
        elif is_url(value):
            if fetch_archive(value, fd, report, cancelled, self._client) is not None:
                raise Invalid(f"the build context {name}={redacted(value)} is no tar archive")
        else:
            incoming = self._client.open_context(name)
            try:
                extract_tar(iter(lambda: incoming.read(_CHUNK), b""), fd, _CONTEXT)
            finally:
                incoming.close()
