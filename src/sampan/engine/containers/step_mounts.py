"""A build step's mounts as detached mounts: what they show is opened here, by descriptor, and never looked up again.

The step's runtime gets the mounts themselves, beside the request. No path that somebody could swap meanwhile is
handed on, and what holds a secret has no name anywhere on the host.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from sampan.build.agent_socket import AgentSocket
from sampan.build.worker import RunMount
from sampan.engine.copy_tree import copy_tree
from sampan.engine.model import MountPoint
from sampan.engine.userns import IdMaps
from sampan.errors import Internal, Invalid, NotFound
from sampan.linux import detached
from sampan.linux.paths import open_in_root
from sampan.linux.process import filesystem_type

_PRIVATE = ("nosuid", "nodev")
_NOT_MAPPED = frozenset((0x794C7630, 0x01021994))
"""overlayfs, and tmpfs before Linux 6.3 (linux/magic.h): they can't be shown with mapped ids, copies can."""
_SECRET_ROOM = 1 << 20
"""Bytes of the tmpfs that a secret gets."""


class StepMounts:
    """A context manager: `points` for the record, `trees` for the launcher, in the same order."""

    def __init__(self, ids: IdMaps | None, scratch: Path) -> None:
        """`ids`: of the step's user namespace. `scratch`: a directory for what is written and thrown away."""
        self.points: list[MountPoint] = []
        self.trees: list[int] = []
        self._ids = ids
        self._scratch = scratch
        self._stack = ExitStack()

    def __enter__(self) -> StepMounts:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def prepare(self, mounts: Sequence[RunMount]) -> None:
        """Raises `NotFound`, `Invalid`."""
        for mount in mounts:
            self._prepare(mount)

    def _prepare(self, mount: RunMount) -> None:
        match mount.kind:
            case "tmpfs":
                # As BuildKit's: what is put there can be executed.
                options = ("nosuid", "exec", "dev", *((f"size={mount.size}",) if mount.size else ()))
                self.points.append(MountPoint("tmpfs", mount.target, rw=not mount.readonly, options=options))
            case "secret":
                options = _PRIVATE if mount.mode & 0o111 else (*_PRIVATE, "noexec")
                self._give(mount, self._secret(mount), f"secret for {mount.target}", options, mapped=True)
            case "ssh":
                self._give(mount, self._agent(mount), f"ssh agent for {mount.target}", _PRIVATE, mapped=True)
            case "bind" if mount.base >= 0:
                self._give(mount, self._tree(mount), mount.path)
            case _:
                self.points.append(
                    MountPoint("bind", mount.target, mount.source, rw=not mount.readonly, internal=True)
                )

    def _give(
        self, mount: RunMount, tree: int, name: str, options: tuple[str, ...] = (), *, mapped: bool = False
    ) -> None:
        """`mapped`: the file has the host's ids already."""
        self._stack.callback(os.close, tree)
        self.points.append(
            MountPoint(
                "bind",
                mount.target,
                name,
                rw=not mount.readonly,
                options=options,
                internal=not mapped,
                given=len(self.trees),
            )
        )
        self.trees.append(tree)

    def _tree(self, mount: RunMount) -> int:
        try:
            found = open_in_root(mount.base, mount.path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(f"{mount.path}: {os.strerror(error.errno or 0).lower()}") from error
        try:
            kind = stat.S_IFMT(os.fstat(found).st_mode)
            if kind not in (stat.S_IFDIR, stat.S_IFREG):
                raise Invalid(f"{mount.path} is neither a file nor a directory and can't be mounted")
            copied = self._ids is not None and filesystem_type(found) in _NOT_MAPPED
            if not mount.discard and not copied:
                return detached.clone(found, mount.base)
            scratch = self._scratch / f"mount-{len(self.trees)}"
            scratch.mkdir(mode=0o700)
            if kind != stat.S_IFDIR:
                return _copied(found, scratch / "file")
            if self._ids is not None:
                return _copied_tree(found, scratch / "tree")
            return detached.writable(found, mount.base, str(scratch))
        finally:
            os.close(found)

    def _secret(self, mount: RunMount) -> int:
        memory = detached.memory(_SECRET_ROOM)
        try:
            file = os.open(
                "secret", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=memory
            )
            try:
                left = memoryview(mount.data)
                while left:
                    left = left[os.write(file, left) :]
                os.fchown(file, *self._owner(mount))
                os.fchmod(file, mount.mode)
            finally:
                os.close(file)
            return _inside(memory, "secret")
        finally:
            os.close(memory)

    def _agent(self, mount: RunMount) -> int:
        if mount.connect is None:
            raise Internal("an ssh mount has nothing to connect to")
        memory = detached.memory(1 << 16)
        try:
            self._stack.enter_context(AgentSocket(f"/proc/self/fd/{memory}/agent", mount.connect))
            os.chmod("agent", mount.mode, dir_fd=memory)
            os.chown("agent", *self._owner(mount), dir_fd=memory)
            return _inside(memory, "agent")
        finally:
            os.close(memory)

    def _owner(self, mount: RunMount) -> tuple[int, int]:
        """As the host sees the ids. Raises `Invalid` for those that the step's user namespace does not have."""
        if self._ids is None:
            return mount.uid, mount.gid
        return self._ids.outside(mount.uid, mount.gid)


def _inside(memory: int, name: str) -> int:
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=memory)
    try:
        return detached.clone(found, memory)
    finally:
        os.close(found)


def _copied_tree(found: int, path: Path) -> int:
    path.mkdir(mode=0o700)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    source, target = os.open(f"/proc/self/fd/{found}", flags), os.open(path, flags)
    try:
        copy_tree(source, target)
        return detached.clone(target)
    finally:
        os.close(source)
        os.close(target)


def _copied(found: int, path: Path) -> int:
    """A mount of a copy."""
    with open(f"/proc/self/fd/{found}", "rb") as source, open(path, "xb") as target:
        while piece := source.read(1 << 20):
            target.write(piece)
        info = os.fstat(source.fileno())
        os.fchown(target.fileno(), info.st_uid, info.st_gid)
        os.fchmod(target.fileno(), stat.S_IMODE(info.st_mode))
    copy = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return detached.clone(copy)
    finally:
        os.close(copy)
