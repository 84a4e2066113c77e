"""The writing part of COPY and ADD."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import BinaryIO

from sampan.build.fetch.http import Download
from sampan.build.files.archive import is_tar
from sampan.build.files.copy import Ownership, RootWriter
from sampan.build.files.owners import resolve_owner
from sampan.build.files.placement import Source, place
from sampan.build.files.tree import Opener, Selection, Tree
from sampan.build.model import CopyOperation, Heredoc
from sampan.build.modes import parse_mode
from sampan.build.solver.sources import CopySources
from sampan.errors import Invalid
from sampan.linux.paths import open_in_root
from sampan.storage.extract import ExtractOptions, extract_tar

_MAX_ACCOUNTS = 4 << 20
"""Bytes of the image's /etc/passwd that are read."""


def ownership_of(operation: CopyOperation, root_fd: int) -> Ownership:
    """`--chown` and `--chmod`; names mean what the image's own /etc/passwd and /etc/group say."""
    owner = resolve_owner(operation.chown, accounts_of(root_fd)) if operation.chown else None
    return Ownership(owner, parse_mode(operation.chmod) if operation.chmod else None)


def accounts_of(root_fd: int) -> Callable[[str], str]:
    """Reads /etc/passwd and /etc/group of a root, for `resolve_owner`."""

    def lookup(path: str) -> str:
        try:
            fd = open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return ""
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return ""
            return file.read(_MAX_ACCOUNTS).decode("utf-8", "replace")

    return lookup


@dataclass(frozen=True, slots=True)
class _Item:
    """One thing that is written. `times` in nanoseconds.

    `write` gets the path that it becomes; it returns the newest time in an archive, which counts instead of its own.
    """

    source: Source
    write: Callable[[str], int | None]
    times: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Placing:
    """Writes what `sources` found into the root `root_fd`, by Docker's rules for destinations."""

    writer: RootWriter
    root_fd: int
    operation: CopyOperation
    sources: CopySources
    ownership: Ownership
    undated_ns: int = 0
    """The time of directories that are made for what has none itself."""

    def perform(self) -> None:
        """In the order of the sources: of two files of one name the later one stays.

        Raises `Invalid`, and `SourceChanged` when a file of a context is no longer what was hashed.
        """
        items = [*self._from_sources(), *map(self._document, self.operation.heredocs)]
        times: list[int] = []
        for item, target in zip(items, self._targets([item.source for item in items]), strict=True):
            newest = item.write(target)
            times += item.times if newest is None else (newest,)
        self.writer.settle(max(times, default=self.undated_ns))

    def _from_sources(self) -> Iterator[_Item]:
        sources = self.sources
        downloads = dict(zip(sources.urls, sources.downloads(), strict=True))
        repositories = dict(zip(sources.addresses, sources.repositories.trees(), strict=True))
        for source in sources.order:
            if source in downloads:
                yield self._downloaded(*downloads[source])
            elif source in repositories:
                yield self._selected(*repositories[source], is_repository=True)
            else:
                for selection in sources.selected_by(source):
                    yield self._selected(sources.tree, selection)

    def _selected(self, tree: Tree, selection: Selection, *, is_repository: bool = False) -> _Item:
        times = tuple(tree.mtime_of(entry) for entry in selection.entries)
        if not is_repository and self._is_archive(selection):
            return _Item(Source("", is_dir=True), partial(self._unpack, selection), times)
        source = Source("" if is_repository else selection.name, selection.is_dir)
        return _Item(source, lambda target: self.writer.copy(tree, selection, target, self.ownership), times)

    def _downloaded(self, got: Download, file: BinaryIO) -> _Item:
        """A download is a file for its owner alone unless `--chmod` says otherwise; ADD --unpack opens it."""
        times = (int(got.mtime * 1e9),)
        if self.operation.unpack and is_tar(file.fileno()):
            return _Item(Source("", is_dir=True), partial(self._unpack_download, file), times)
        if not got.name and self.operation.destination.endswith("/"):
            raise Invalid("cannot determine filename for source", hint="the URL has no path")

        def write(target: str) -> None:
            self.writer.write_file(target, file.fileno(), 0o600, self.ownership, got.mtime)

        return _Item(Source(got.name, is_dir=False), write, times)

    def _document(self, heredoc: Heredoc) -> _Item:
        def write(target: str) -> None:
            with tempfile.TemporaryFile() as file:
                file.write(heredoc.content.encode())
                file.flush()
                file.seek(0)
                now = datetime.now(UTC).timestamp()
                self.writer.write_file(target, file.fileno(), 0o644, self.ownership, now)

        return _Item(Source(heredoc.name, is_dir=False), write)

    def _targets(self, listed: list[Source]) -> list[str]:
        operation = self.operation
        says_directory = operation.destination.endswith("/")
        resolved, found = self.writer.resolve(operation.destination.rstrip("/") or "/")
        is_dir = found is not None and stat.S_ISDIR(found.st_mode)
        if not (says_directory or is_dir) and len(listed) > 1 and not all(one.is_dir for one in listed):
            # BuildKit's way, too. It is mostly a mistake, and should be seen.
            self.sources.warn(
                f"several sources are copied to {operation.destination}, which is no directory: "
                "files replace each other. End it with a / to copy them into a directory"
            )
        return place(
            listed,
            resolved.rstrip("/") + "/" if says_directory else resolved,
            exists_as_dir=is_dir,
            exists_as_other=found is not None and not is_dir,
        )

    def _is_archive(self, selection: Selection) -> bool:
        operation = self.operation
        if not operation.is_add or operation.unpack is False or not stat.S_ISREG(selection.entries[0].mode):
            return False
        with Opener(self.sources.tree, selection) as opener:
            fd = opener.open(selection.entries[0])
        try:
            return is_tar(fd)
        finally:
            os.close(fd)

    def _unpack(self, selection: Selection, target: str) -> int:
        self.writer.make_directory(target, self.ownership.owner or (0, 0))
        tree, entry = self.sources.tree, selection.entries[0]
        with Opener(tree, selection) as opener:
            fd = opener.open(entry)
        with os.fdopen(fd, "rb") as file:
            newest = self._extract(file, target)
            if tree.is_context and not entry.is_still(os.fstat(file.fileno())):
                raise tree.changed(selection, entry)
        return newest

    def _extract(self, file: BinaryIO, target: str) -> int:
        options = ExtractOptions(owner=self.ownership.owner, settle=True)
        extracted = extract_tar(
            file, self.root_fd, options, directory=target, look=self.writer.require_wanted
        )
        self.writer.touch(target)
        return extracted.newest * 10**9

    def _unpack_download(self, file: BinaryIO, target: str) -> int:
        self.writer.make_directory(target, self.ownership.owner or (0, 0))
        return self._extract(file, target)
