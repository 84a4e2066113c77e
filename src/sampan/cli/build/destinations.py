"""Where a build's outputs end on this side. What is there appears when all of it has come, or not at all."""

from __future__ import annotations

import os
import shutil
import stat

from sampan.cli.extract import Extractor, Pieces
from sampan.cli.failure import Failure
from sampan.cli.replacing import Replacing
from sampan.cli.streams import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Incoming(Protocol):
        def read(self, limit: int = ..., /) -> bytes: ...
        def end(self) -> None: ...


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Destination:
    """`path`: "-" for standard output."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def deliver(self, stream: Incoming) -> None:
        """`take`, with the system's errors as a `Failure` that names the place."""
        try:
            self.take(stream)
        except OSError as error:
            place = "standard output" if self.path == "-" else self.path
            raise Failure(f"write {place}: {(error.strerror or str(error)).lower()}") from error

    def take(self, stream: Incoming) -> None:
        """Store all of it, then say so. Raises `Failure`, `OSError`, or what broke the stream off."""
        raise NotImplementedError


class StandardOutput(Destination):
    __slots__ = ()

    def take(self, stream: Incoming) -> None:
        while data := stream.read():
            write_all(1, data)
        stream.end()


class ArchiveFile(Destination):
    __slots__ = ()

    def take(self, stream: Incoming) -> None:
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        with Replacing(self.path) as descriptor:
            while data := stream.read():
                write_all(descriptor, data)
        stream.end()


class Directory(Destination):
    """A tar whose files go there, among what is there already: a file takes the place of one of its name."""

    __slots__ = ()

    def take(self, stream: Incoming) -> None:
        fresh = not os.path.isdir(self.path)
        parent = (os.path.dirname(os.path.abspath(self.path)) or "/") if fresh else self.path
        os.makedirs(parent, exist_ok=True)
        staging = os.path.join(parent, f".sampan-output-{os.urandom(8).hex()}")
        os.mkdir(staging, 0o755 if fresh else 0o700)
        try:
            Extractor(staging).extract(Pieces(stream.read))
            while stream.read():
                pass  # to its end, which comes only when all has been sent
            if fresh:
                os.rename(staging, self.path)
            else:
                _merge(staging, self.path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        stream.end()


def _merge(source: str, target: str) -> None:
    """Move what is in one directory into the other, which nothing leads out of: no link is followed."""
    from_fd = os.open(source, _DIRECTORY)
    try:
        to_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _merge_at(from_fd, to_fd)
        finally:
            os.close(to_fd)
    finally:
        os.close(from_fd)


def _merge_at(from_fd: int, to_fd: int) -> None:
    for name in sorted(os.listdir(from_fd)):
        status = os.stat(name, dir_fd=from_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode) and _is_directory(name, to_fd):
            below, beside = os.open(name, _DIRECTORY, dir_fd=from_fd), os.open(name, _DIRECTORY, dir_fd=to_fd)
            try:
                _merge_at(below, beside)
                os.fchmod(beside, stat.S_IMODE(status.st_mode))
                os.utime(beside, ns=(status.st_atime_ns, status.st_mtime_ns))
            finally:
                os.close(below)
                os.close(beside)
            continue
        if _is_directory(name, to_fd):
            shutil.rmtree(name, dir_fd=to_fd)
        elif stat.S_ISDIR(status.st_mode) and _exists(name, to_fd):
            os.unlink(name, dir_fd=to_fd)
        os.rename(name, name, src_dir_fd=from_fd, dst_dir_fd=to_fd)


def _is_directory(name: str, at: int) -> bool:
    return _exists(name, at) and stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)


def _exists(name: str, at: int) -> bool:
    try:
        os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
