"""Build contexts that the engine fetches itself: a Git repository, an archive or a Dockerfile behind a URL."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sampan.build.attest.provenance import Material
from sampan.build.contexts import ContextOpener
from sampan.build.dockerfile.builtin_args import KEEP_GIT_DIR, is_asked_for
from sampan.build.dockerfile.contexts import DIRECTORY
from sampan.build.fetch.git import check_out, resolve
from sampan.build.fetch.git_transport import Limits
from sampan.build.fetch.git_url import is_git, parse_git, redacted
from sampan.build.fetch.http import check_url, download, is_url
from sampan.build.files.archive import is_tar
from sampan.build.files.checksums import checksums_of
from sampan.build.files.context import CONTEXT_FILES, Context
from sampan.build.files.scan import ROOT_MODE
from sampan.build.model import MAX_DOCKERFILE, BuildRequest
from sampan.build.session import ClientSession
from sampan.build.solver.repositories import authorization_for, forwarded_agent, with_credentials
from sampan.build.worker import TransferReport
from sampan.engine.client_directory import ClientDirectory
from sampan.errors import Conflict, Invalid
from sampan.registry.progress import Progress
from sampan.registry.proxies import NO_PROXIES, Proxies
from sampan.storage.extract import extract_tar

log = logging.getLogger(__name__)

_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Fetched:
    source: Material
    dockerfile: bytes | None = None
    """The Dockerfile itself, which was all there was."""


def check_remote(address: str) -> None:
    """Raises `Invalid` for what is no address of a context."""
    if is_git(address, context=True):
        parse_git(address, context=True)
    elif not is_url(address):
        raise Invalid("invalid remote build context: no URL", hint="http, https, git and ssh are fetched")
    else:
        check_url(address)


def load_remote(
    address: str,
    fd: int,
    request: BuildRequest,
    report: TransferReport,
    cancelled: threading.Event,
    client: ClientSession,
) -> Fetched:
    """Fill the empty directory behind `fd`.

    Raises `Invalid`, `NotFound`, `Unavailable`, `BuildCancelled`.
    """
    if is_git(address, context=True):
        keep = is_asked_for(KEEP_GIT_DIR, request.build_args)
        return fetch_repository(address, fd, report, cancelled, client, request.proxies, keep_git_dir=keep)
    return fetch_archive(address, fd, report, cancelled, client, request.proxies)


def fetch_repository(
    address: str,
    fd: int,
    report: TransferReport,
    cancelled: threading.Event,
    client: ClientSession,
    proxies: Proxies,
    *,
    keep_git_dir: bool = False,
) -> Fetched:
    """Raises as `load_remote`."""
    source = with_credentials(parse_git(address, context=True), client)
    kept = keep_git_dir if source.keep_git_dir is None else source.keep_git_dir

    def progress(count: int) -> None:
        if count:
            report(Progress("Downloading", source.url.remote, count))

    with forwarded_agent(client) if source.url.scheme == "ssh" else nullcontext("") as agent:
        limits = Limits(cancelled, progress, agent, proxies)
        resolved = resolve(source, limits)
        check_out(source, resolved, fd, limits, keep_git_dir=kept)
    return Fetched(Material(source.named, {"sha1": resolved.commit}))


def fetch_archive(
    address: str,
    fd: int,
    report: TransferReport,
    cancelled: threading.Event,
    client: ClientSession,
    proxies: Proxies,
) -> Fetched:
    """Raises `Invalid` for what is neither an archive nor a Dockerfile."""
    with tempfile.TemporaryFile() as file:
        login = authorization_for(address, client)
        got = download(address, file, report, cancelled, authorization=login, proxies=proxies)
        source = Material(redacted(address), {"sha256": got.sha256})
        if is_tar(file.fileno()):
            extract_tar(file, fd, CONTEXT_FILES)
            return Fetched(source)
        text = file.read(MAX_DOCKERFILE + 1)
    if len(text) > MAX_DOCKERFILE or b"\0" in text:
        raise Invalid("the remote build context is neither a tar archive nor a Dockerfile")
    return Fetched(source, text)


def _directory_of(name: str, value: str) -> ClientDirectory:
    try:
        return msgspec.json.decode(value.removeprefix(DIRECTORY), type=ClientDirectory)
    except msgspec.MsgspecError as error:
        raise Invalid(f"invalid build context {name}: {error}") from error


class NamedSources(ContextOpener):
    """`--build-context NAME=VALUE`: URLs, and directories of the client's.

    These are read in place where they can be, as the main context is; else the client's session sends them.
    """

    def __init__(
        self, scratch: str, known: Path, client: ClientSession, proxies: Proxies = NO_PROXIES
    ) -> None:
        """`scratch`: for files that are brought here. `known`: for checksums of files in place."""
        self._proxies = proxies
        self._scratch = scratch
        self._known = known
        self._client = client

    def open_context(
        self, name: str, value: str, report: TransferReport, cancelled: threading.Event
    ) -> Context:
        if value.startswith(DIRECTORY) and value != DIRECTORY:
            try:
                fd = _directory_of(name, value).open()
            except Conflict as error:
                log.info("%s; it is sent", error.message)
            else:
                return Context(fd, checksums_of(fd, self._known), self._scratch, in_place=True)
        folder = tempfile.mkdtemp(dir=self._scratch)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            source = self._fill(fd, name, value, report, cancelled)
            os.fchmod(fd, ROOT_MODE)
        except BaseException:
            os.close(fd)
            raise
        return Context(fd, scratch=self._scratch, source=source)

    def _fill(
        self, fd: int, name: str, value: str, report: TransferReport, cancelled: threading.Event
    ) -> Material | None:
        """Where it comes from; None: from the client."""
        if is_git(value, context=True):
            return fetch_repository(value, fd, report, cancelled, self._client, self._proxies).source
        if is_url(value):
            check_url(value)
            found = fetch_archive(value, fd, report, cancelled, self._client, self._proxies)
            if found.dockerfile is not None:
                raise Invalid(f"the build context {name}={redacted(value)} is no tar archive")
            return found.source
        incoming = self._client.open_context(name)
        try:
            extract_tar(iter(lambda: incoming.read(_CHUNK), b""), fd, CONTEXT_FILES)
        finally:
            incoming.close()
        return None
