"""The writing part of COPY and ADD."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO

from sampan.build.files.archive import is_tar
from sampan.build.files.copy import Ownership, RootWriter
from sampan.build.files.owners import resolve_owner
from sampan.build.files.placement import Source, place
from sampan.build.files.tree import Opener, Selection
from sampan.build.model import CopyOperation
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
        """Raises `Invalid`, and `SourceChanged` when a file of a context is no longer what was hashed."""
        operation = self.operation
        selections, downloads = self.sources.selections(), self.sources.downloads()
        repositories = self.sources.repositories.trees()
        unpacked = [selection for selection in selections if self._is_archive(selection)]
        rest = [selection for selection in selections if selection not in unpacked]
        listed = [
            *(Source(selection.name, selection.is_dir) for selection in rest),
            *(Source("", is_dir=True) for _ in unpacked),
            *(Source("", is_dir=True) for _ in repositories),
            *(Source(self._download_name(got.name), is_dir=operation.unpack is True) for got, _ in downloads),
            *(Source(item.name, is_dir=False) for item in operation.heredocs),
        ]
        targets = self._targets(listed)
        for selection in rest:
            self._copy(selection, next(targets))
        for selection in unpacked:
            self._unpack(selection, next(targets))
        times = [self.sources.tree.mtime_of(entry) for one in selections for entry in one.entries]
        times += [tree.mtime_of(entry) for tree, one in repositories for entry in one.entries]
        times += [int(got.mtime * 1e9) for got, _ in downloads]
        for tree, selection in repositories:
            self.writer.copy(tree, selection, next(targets), self.ownership)
        owner = self.ownership.owner or (0, 0)
        for got, file in downloads:
            self._place_download(file, next(targets), owner, got.mtime)
        now = datetime.now(UTC).timestamp()
        for item in operation.heredocs:
            with tempfile.TemporaryFile() as file:
                file.write(item.content.encode())
                file.flush()
                file.seek(0)
                self.writer.write_file(next(targets), file.fileno(), 0o644, self.ownership, now)
        self.writer.settle(max(times, default=self.undated_ns))

    def _targets(self, listed: list[Source]) -> Iterator[str]:
        operation = self.operation
        says_directory = operation.destination.endswith("/")
        resolved, found = self.writer.resolve(operation.destination.rstrip("/") or "/")
        is_dir = found is not None and stat.S_ISDIR(found.st_mode)
        return iter(
            place(
                listed,
                resolved.rstrip("/") + "/" if says_directory else resolved,
                exists_as_dir=is_dir,
                exists_as_other=found is not None and not is_dir,
                keyword="ADD" if operation.is_add else "COPY",
            )
        )

    def _copy(self, selection: Selection, target: str) -> None:
        self.writer.copy(self.sources.tree, selection, target, self.ownership)

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

    def _unpack(self, selection: Selection, target: str) -> None:
        self.writer.make_directory(target, self.ownership.owner or (0, 0))
        tree, entry = self.sources.tree, selection.entries[0]
        with Opener(tree, selection) as opener:
            fd = opener.open(entry)
        with os.fdopen(fd, "rb") as file:
            self._extract(file, target)
            self.writer.touch(target)
            if tree.is_context and not entry.is_still(os.fstat(file.fileno())):
                raise tree.changed(selection, entry)

    def _extract(self, file: BinaryIO, target: str) -> None:
        options = ExtractOptions(owner=self.ownership.owner)
        extract_tar(file, self.root_fd, options, directory=target)

    def _download_name(self, name: str) -> str:
        if not name and self.operation.destination.endswith("/"):
            raise Invalid("cannot determine filename for source", hint="the URL has no path")
        return name

    def _place_download(self, file: BinaryIO, target: str, owner: tuple[int, int], mtime: float) -> None:
        """A download is a file for its owner alone unless `--chmod` says otherwise; ADD --unpack opens it."""
        if self.operation.unpack and is_tar(file.fileno()):
            self.writer.make_directory(target, owner)
            self._extract(file, target)
            self.writer.touch(target)
            return
        self.writer.write_file(target, file.fileno(), 0o600, self.ownership, mtime)
