"""Where a build's context is: a directory of the client's read in place, or a tar unpacked for the build's time."""

from __future__ import annotations

import itertools
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sampan.build.fetch.git_url import redacted
from sampan.build.files.checksums import checksums_of
from sampan.build.files.context import CONTEXT_FILES, Context
from sampan.build.files.scan import ROOT_MODE
from sampan.build.model import BuildRequest
from sampan.build.session import ClientSession
from sampan.build.solver.voice import Voice, internal
from sampan.build.worker import Report
from sampan.engine.client_directory import ClientDirectory
from sampan.storage.extract import extract_tar
from sampan.storage.removal import remove_tree

log = logging.getLogger(__name__)

KNOWN_FILES = "context-checksums"
"""Name of the directory where checksums of files in clients' directories are kept between builds."""
SMALL_CONTEXT = 4 << 20
"""Bytes of a tar. Its files can't be larger, but for sparse ones, whose holes take no space."""

_TRANSFER = "transferring context:"


class BuildContexts:
    """Thread-safe: its context managers are used by the builds' threads."""

    def __init__(self, root: Path, small: Path, known: Path) -> None:
        """`root` and `small` are directories for contexts under way; what an earlier engine left there is removed.

        Contexts of up to `SMALL_CONTEXT` bytes go to `small`, which mostly is in memory: making and removing
        hundreds of little files is what takes longest in a build from the cache. `known`: where checksums of the
        files that were read in place are kept between builds.
        """
        self._root = root
        self._small = small
        self.known = known
        for directory in (root, small):
            remove_tree(directory)
            directory.mkdir(parents=True, mode=0o700)

    @contextmanager
    def in_place(self, directory: ClientDirectory) -> Iterator[Context]:
        """With what earlier builds knew of its files. Raises `Conflict`."""
        fd = directory.open()
        try:
            checksums = checksums_of(fd, self.known)
            try:
                yield Context(fd, checksums, str(self._root), in_place=True)
            finally:
                checksums.save()
        finally:
            os.close(fd)

    @contextmanager
    def fetched(
        self,
        address: str,
        request: BuildRequest,
        report: Report,
        cancelled: threading.Event,
        client: ClientSession,
    ) -> Iterator[Context]:
        """A directory with what is behind a URL; removed in the end. Raises as `load_remote`."""
        from sampan.engine.remote_context import load_remote

        with self._directory(self._root) as fd:
            with internal(report, f"[internal] load remote build context {redacted(address)}") as voice:
                found = load_remote(address, fd, request, voice.transfer, cancelled, client)
            os.fchmod(fd, ROOT_MODE)
            yield Context(fd, scratch=str(self._root), dockerfile=found.dockerfile, source=found.source)

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A directory for further contexts of a build, made when it is asked for; removed in the end."""
        directory = tempfile.mkdtemp(dir=self._root)
        try:
            yield directory
        finally:
            threading.Thread(target=remove_context, args=(Path(directory),), name="context removal").start()

    @contextmanager
    def unpacked(self, archive: Iterator[bytes] | None, report: Report) -> Iterator[Context]:
        """A directory with the tar's content, which is removed in the end; None: it is empty."""
        start = b"" if archive is None else _start_of(archive)
        with self._directory(self._small if _is_small_tar(start) else self._root) as fd:
            if archive is not None:
                with internal(report, "[internal] load build context") as voice:
                    extract_tar(_counted(itertools.chain((start,), archive), voice), fd, CONTEXT_FILES)
            os.fchmod(fd, ROOT_MODE)
            yield Context(fd, scratch=str(self._root))

    @contextmanager
    def _directory(self, parent: Path) -> Iterator[int]:
        directory = Path(tempfile.mkdtemp(dir=parent))
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield fd
            finally:
                os.close(fd)
        finally:
            # Nobody has to wait for it; what an engine that ends meanwhile leaves is swept at the next start.
            threading.Thread(target=remove_context, args=(directory,), name="context removal").start()


def _counted(pieces: Iterator[bytes], voice: Voice) -> Iterator[bytes]:
    """The same pieces; `voice` tells how many bytes have come, every few megabytes."""
    total = told = 0
    for piece in pieces:
        total += len(piece)
        if total - told >= SMALL_CONTEXT:
            told = total
            voice.moved(_TRANSFER, total)
        yield piece
    voice.moved(_TRANSFER, total, done=True)


def _start_of(archive: Iterator[bytes]) -> bytes:
    """The archive itself when it is small, else more than `SMALL_CONTEXT` bytes of it."""
    start = bytearray()
    while len(start) <= SMALL_CONTEXT and (piece := next(archive, b"")):
        start += piece
    return bytes(start)


def _is_small_tar(start: bytes) -> bool:
    """Not for compressed ones, whose size is not known yet."""
    return len(start) <= SMALL_CONTEXT and start[257:262] == b"ustar"


def remove_context(directory: Path) -> None:
    """However deep it is nested. What can't be removed is swept at the next start."""
    try:
        remove_tree(directory)
    except OSError as error:
        log.warning("build context %s could not be removed: %s", directory, error)
