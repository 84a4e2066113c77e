"""Paths inside a directory tree that somebody else controls: no name in it leads out (openat2(2))."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct

from sampan.linux import libc

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_OPEN_HOW = struct.Struct("=QQQ")
_MAX_LINKS = 40
_PATH_MAX = 4096
_RETRIES = 64


def open_in_root(root_fd: int, path: str, flags: int, mode: int = 0, *, resolve: int = 0) -> int:
    """Open `path` as if `root_fd` were the root directory, symbolic links and ".." included.

    `resolve` adds RESOLVE_* restrictions. The descriptor is close-on-exec. Raises OSError with the path.
    """
    flags |= os.O_CLOEXEC
    resolve |= RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    try:
        return openat2(root_fd, path, flags, mode, resolve)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
    return _walk_open(root_fd, path, flags, mode, resolve)


def openat2(directory: int, path: str, flags: int, mode: int, resolve: int) -> int:
    """openat2(2) itself; tried again when a concurrent rename made the kernel unsure (EAGAIN)."""
    how = _OPEN_HOW.pack(flags, mode, resolve)
    raw = os.fsencode(path)
    number = 0
    for _ in range(_RETRIES):
        result = libc.syscall(libc.OPENAT2, directory, raw, how, len(how))
        if result >= 0:
            return result
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), path)


def _walk_open(root_fd: int, path: str, flags: int, mode: int, resolve: int) -> int:
    """The same without openat2 (Linux before 5.6, or a sandbox that refuses it): component by component."""
    pending = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    trail = [os.dup(root_fd)]
    links = 0
    try:
        while pending:
            name = pending.pop()
            if name == "..":
                if len(trail) > 1:
                    os.close(trail.pop())
                continue
            last = not pending
            if last and flags & os.O_CREAT and flags & os.O_EXCL:
                return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=trail[-1])
            try:
                found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=trail[-1])
            except FileNotFoundError:
                if last and flags & os.O_CREAT:
                    return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=trail[-1])
                raise
            if stat.S_ISLNK(os.fstat(found).st_mode) and not (last and flags & os.O_NOFOLLOW):
                target = os.readlink("", dir_fd=found)
                os.close(found)
                links += 1
                if links > _MAX_LINKS or resolve & RESOLVE_NO_SYMLINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                if target.startswith("/"):
                    while len(trail) > 1:
                        os.close(trail.pop())
                pending += [part for part in reversed(target.split("/")) if part not in ("", ".")]
                continue
            trail.append(found)
        return _reopen(trail[-1], flags, path)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from error
    finally:
        for descriptor in trail:
            os.close(descriptor)


def _reopen(descriptor: int, flags: int, path: str) -> int:
    """A new descriptor for what an O_PATH one refers to, with `flags`."""
    if flags & os.O_DIRECTORY and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    if flags & os.O_PATH:
        return os.dup(descriptor)
    return os.open(f"/proc/self/fd/{descriptor}", flags & ~(os.O_CREAT | os.O_NOFOLLOW))


def open_regular(parent: int, name: str | bytes) -> int:
    """Open the regular file `name` of the directory `parent` for reading, never anything else that somebody puts there
    meanwhile: opening a device alone can do harm. Raises OSError (EINVAL: it is no regular file)."""
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", name)
        return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(found)


def change_mode(parent: int, name: str | bytes, mode: int) -> None:
    """chmod of the entry `name` itself: a symbolic link that somebody puts there meanwhile is not followed."""
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{found}", mode)
    finally:
        os.close(found)


def mkdirs_in_root(root_fd: int, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> int:
    """Make `path` and its missing parents (these with `mode` and owner too); returns its O_PATH descriptor.

    A symbolic link on the way is followed inside the root; a dangling one's target is made. Raises OSError.
    """
    if len(os.fsencode(path)) >= _PATH_MAX:  # no program could get there
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    parts = [part for part in path.split("/") if part not in ("", ".")]
    current = "/"
    descriptor = os.dup(root_fd)
    try:
        for part in parts:
            current = os.path.join(current, part)
            following = _directory(root_fd, descriptor, current, part, (mode, uid, gid))
            os.close(descriptor)
            descriptor = following
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _directory(root_fd: int, parent: int, path: str, name: str, owner: tuple[int, int, int]) -> int:
    mode, uid, gid = owner
    found = _own_directory(parent, name)
    if found >= 0:
        return found
    # A link, or "..": from the root then.
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return open_in_root(root_fd, path, flags)
    except FileNotFoundError:
        pass
    target = _link_target(root_fd, path)
    if target is not None:
        return mkdirs_in_root(root_fd, os.path.join(os.path.dirname(path), target), mode, uid, gid)
    try:
        os.mkdir(name, mode, dir_fd=parent)
        if uid or gid:
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        pass
    found = _own_directory(parent, name)
    return found if found >= 0 else open_in_root(root_fd, path, flags)


def _own_directory(parent: int, name: str) -> int:
    """The directory of this name itself, -1 when it is something else: a path of thousands of parts takes that many
    look-ups then, and not their square."""
    if name == "..":
        return -1
    try:
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return -1


def _link_target(root_fd: int, path: str) -> str | None:
    """Where the dangling symbolic link at `path` leads, or None when there is no link."""
    try:
        link = open_in_root(root_fd, path, os.O_PATH | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return os.readlink("", dir_fd=link)
    finally:
        os.close(link)


def create_file_in_root(root_fd: int, path: str, mode: int = 0o644) -> int:
    """An empty regular file at `path` (parents are made) unless something is there; its O_PATH descriptor."""
    try:
        return open_in_root(root_fd, path, os.O_PATH)
    except FileNotFoundError:
        pass
    directory, _, name = path.rstrip("/").rpartition("/")
    parent = mkdirs_in_root(root_fd, directory)
    try:
        target = _link_target(root_fd, path)
        if target is not None:
            return create_file_in_root(root_fd, os.path.join(directory, target), mode)
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=parent))
        except FileExistsError:
            pass
        return open_in_root(root_fd, path, os.O_PATH | os.O_NOFOLLOW)
    finally:
        os.close(parent)
