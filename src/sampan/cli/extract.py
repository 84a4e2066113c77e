"""Unpack a tar stream below a directory without ever leaving it: what `cp` writes on this side.

The archive comes from a container and is not trusted. Every directory on the way is opened without following
symbolic links, relative to the descriptor of the one above it; an existing file or link is replaced, not written
through.
"""

from __future__ import annotations

import os
import stat

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable
    from typing import Protocol

    class Readable(Protocol):
        def read(self, size: int, /) -> bytes: ...


_CHUNK = 1 << 18
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH = 512


class Pieces:
    """A file to read from that comes in pieces: `more` gives the next one, b"" at the end."""

    def __init__(self, more: Callable[[], bytes]) -> None:
        self._more = more
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer only at the end, as `tarfile` wants it."""
        parts, have = [self._rest], len(self._rest)
        while have < size and (piece := self._more()):
            parts.append(piece)
            have += len(piece)
        joined = b"".join(parts)
        self._rest = joined[size:]
        return joined[:size]


class Extractor:
    """Writes entries below `directory`. `owner`: give files their owners in the archive (needs root)."""

    def __init__(self, directory: str, *, owner: bool = False) -> None:
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._owner = owner
        self._times: list[tuple[list[str], int, int]] = []

    def extract(self, stream: Readable, rename: tuple[str, str] | None = None) -> None:
        """All entries. `rename`: (old, new) first component. Raises `Failure` for an entry that would leave."""
        import tarfile

        try:
            # A stream is read and nothing else, whatever the types of `tarfile` say.
            with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
                for member in archive:
                    self._entry(archive, member, rename)
            for parts, mode, mtime in reversed(self._times):
                self._finish_directory(parts, mode, mtime)
        except tarfile.TarError as error:
            raise Failure(f"the archive cannot be read: {error}") from None
        finally:
            os.close(self._root)

    def _entry(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, rename: tuple[str, str] | None
    ) -> None:
        parts = _parts(member.name, rename)
        if not parts:
            if member.isdir():
                return
            raise Failure(f"the archive has an entry without a name: {member.name!r}")
        parent = self._open_parent(parts[:-1])
        try:
            self._write(archive, member, parent, parts, rename)
        except OSError as error:
            raise Failure(f"cannot write {'/'.join(parts)}: {(error.strerror or '').lower()}") from error
        finally:
            os.close(parent)

    def _open_parent(self, parts: list[str]) -> int:
        descriptor = os.dup(self._root)
        for part in parts:
            try:
                below = os.open(part, _DIRECTORY, dir_fd=descriptor)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=descriptor)
                below = os.open(part, _DIRECTORY, dir_fd=descriptor)
            except OSError as error:
                raise Failure(
                    f"refusing to write through {'/'.join(parts)}: {part!r} is no directory of its own",
                    hint=str(error.strerror),
                ) from None
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _write(
        self,
        archive: tarfile.TarFile,
        member: tarfile.TarInfo,
        parent: int,
        parts: list[str],
        rename: tuple[str, str] | None,
    ) -> None:
        name = parts[-1]
        if member.isdir():
            self._directory(parent, name, parts, member)
            return
        self._make_room(parent, name)
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.islnk():
            self._hard_link(parent, name, _parts(member.linkname, rename))
            return
        elif member.isreg():
            self._file(archive, member, parent, name)
            return
        elif member.isfifo():
            os.mkfifo(name, member.mode & 0o7777, dir_fd=parent)
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            device = os.makedev(member.devmajor, member.devminor)
            os.mknod(name, kind | (member.mode & 0o7777), device, dir_fd=parent)
        else:
            raise Failure(f"the archive has an entry of an unknown kind: {member.name!r}")
        if self._owner:
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if not member.issym():
            _change_mode(parent, name, member.mode & 0o7777)
        os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)

    def _directory(self, parent: int, name: str, parts: list[str], member: tarfile.TarInfo) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise Failure(
                    f"cannot overwrite non-directory {'/'.join(parts)!r} with a directory"
                ) from None
        if self._owner:
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        self._times.append((parts, member.mode & 0o7777, int(member.mtime)))

    def _finish_directory(self, parts: list[str], mode: int, mtime: int) -> None:
        """Modes and times last: a read-only directory must take its files first."""
        parent = self._open_parent(parts)
        try:
            os.fchmod(parent, mode)
            os.utime(parent, (mtime, mtime))
        finally:
            os.close(parent)

    @staticmethod
    def _make_room(parent: int, name: str) -> None:
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            raise Failure(f"cannot overwrite directory {name!r} with non-directory")
        os.unlink(name, dir_fd=parent)

    def _hard_link(self, parent: int, name: str, target: list[str]) -> None:
        if not target:
            raise Failure(f"the archive has a hard link {name!r} to nothing")
        source = self._open_parent(target[:-1])
        try:
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
        """All by the descriptor: the directory may be a volume of the container, which puts a link there meanwhile."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        source = archive.extractfile(member)
        with open(os.open(name, flags, 0o600, dir_fd=parent), "wb", buffering=0) as file:
            while source is not None and (data := source.read(_CHUNK)):
                file.write(data)
            if self._owner:
                os.fchown(file.fileno(), member.uid, member.gid)
            os.fchmod(file.fileno(), member.mode & 0o7777)
            os.utime(file.fileno(), (member.mtime, member.mtime))


def _change_mode(parent: int, name: str, mode: int) -> None:
    """Of the entry itself, without following a link that was put there meanwhile."""
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{found}", mode)
    finally:
        os.close(found)


def _parts(name: str, rename: tuple[str, str] | None) -> list[str]:
    """The components of an entry's name. Raises `Failure` for one that points outside."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or len(parts) > _MAX_DEPTH:
        raise Failure(f"the archive has an entry that leads outside: {name!r}")
    if rename is None:
        return parts
    old, new = rename
    if old in ("", "."):
        return [new, *parts]
    if parts and parts[0] == old:
        parts[0] = new
    return parts
