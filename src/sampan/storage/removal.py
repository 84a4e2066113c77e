"""Removing a tree that a container has made: any size, any depth, never through a symbolic link."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH: Final = 64  # descriptors held at once; what lies deeper is moved up first


def remove_tree(path: Path) -> None:
    """Remove `path`, whatever it is; nothing happens when it is not there. Raises OSError.

    Several may remove the same tree at once: an engine's start sweeps up what the end of a container that removes
    itself has in hand.
    """
    try:
        parent = os.open(path.parent, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        remove_entry(parent, path.name)
    finally:
        os.close(parent)


def remove_entry(parent: int, name: str | bytes) -> None:
    """Remove the entry `name` of the directory `parent` with everything below it. Raises OSError."""
    if _unlinked(parent, name):
        return
    # Directories nested deeper than _DEPTH are renamed into the top one, so that paths and descriptors stay few.
    with contextlib.suppress(FileNotFoundError):
        top = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            while _empty(top):
                pass
        finally:
            os.close(top)
        os.rmdir(name, dir_fd=parent)


def _empty(top: int) -> bool:
    """Remove all that is in `top` but what had to be moved up into it; True when something was."""
    moved = False
    trail: list[tuple[int, bytes, list[bytes]]] = [(top, b"", _names(top))]
    try:
        while trail:
            fd, own, names = trail[-1]
            if not names:
                trail.pop()
                if trail:
                    os.close(fd)
                    with contextlib.suppress(FileNotFoundError):
                        os.rmdir(own, dir_fd=trail[-1][0])
                continue
            name = names.pop()
            if _unlinked(fd, name):
                continue
            with contextlib.suppress(FileNotFoundError):
                if len(trail) < _DEPTH:
                    child = os.open(name, _DIRECTORY, dir_fd=fd)
                    trail.append((child, name, []))
                    trail[-1][2].extend(_names(child))
                else:
                    os.rename(name, f".moved-{secrets.token_hex(8)}", src_dir_fd=fd, dst_dir_fd=top)
                    moved = True
    finally:
        for fd, _, _ in trail[1:]:
            os.close(fd)
    return moved


def _names(fd: int) -> list[bytes]:
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    except FileNotFoundError:  # the directory is gone, though we hold it
        return []


def _unlinked(directory: int, name: str | bytes) -> bool:
    """True when `name` is gone now; False when it is a directory."""
    try:
        try:
            os.unlink(name, dir_fd=directory)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                raise
            return False
    except FileNotFoundError:
        pass
    return True
