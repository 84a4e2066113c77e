"""Mounts taken before a container has namespaces of its own: the host's, another container's, with mapped ids."""

from __future__ import annotations

import errno
import os

from sampan.errors import Conflict, Invalid, Unsupported
from sampan.linux import mount, namespaces, paths
from sampan.linux.libc import SystemCallError
from sampan.runtime import mounting
from sampan.runtime import steps as s
from sampan.runtime.failure import describe
from sampan.runtime.usernamespace import make_user_namespace


def take_trees(
    step: s.TakeTrees, host_mounts: int, user_namespace: int, given: tuple[int, ...] = ()
) -> list[int]:
    """Detached mounts, in the step's order.

    `host_mounts`: a descriptor of the host's mount namespace, or -1 when we are in it. `user_namespace`: the
    container's, or -1. `given`: those that came with the request; they are used up.
    Raises `NotFound`, `Conflict` (the process has ended), `Unsupported` (no idmapped mounts here).
    """
    taken: list[int] = []
    try:
        for tree in step.trees:
            taken.append(_take(tree, host_mounts, given))
            if tree.idmap:
                _map_ids(taken[-1], tree, user_namespace)
    except BaseException:
        for descriptor in taken:
            os.close(descriptor)
        raise
    return taken


def _take(tree: s.Tree, host_mounts: int, given: tuple[int, ...]) -> int:
    if tree.given >= 0:
        if tree.given >= len(given):
            raise Invalid(f"no mount came with the request for {tree.source}")
        return given[tree.given]
    if tree.of_process:
        return _take_of_process(tree)
    if not tree.from_host or host_mounts < 0:
        return mounting.clone(tree.source, tree.recursive, tree.within)
    with _Elsewhere(host_mounts, "the host's mount namespace"):
        return mounting.clone(tree.source, tree.recursive, tree.within)


def _take_of_process(tree: s.Tree) -> int:
    """The path is looked up below the process's root, with no symbolic link on the way: it decides what lies there.

    A mount can be cloned only by who is in its namespace: we go there for that one call. None of the processes in there
    sees us, as ours is another pid namespace.
    """
    try:
        namespace = namespaces.open_namespace(f"/proc/{tree.of_process}/ns/mnt")
    except OSError as error:
        raise Conflict(f"process {tree.of_process}, whose {tree.source} is wanted, has ended") from error
    held = [namespace]
    try:
        held.append(os.open(f"/proc/{tree.of_process}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        held.append(paths.open_in_root(held[1], tree.source, os.O_PATH, resolve=paths.RESOLVE_NO_SYMLINKS))
        with _Elsewhere(namespace, f"the mount namespace of process {tree.of_process}"):
            tree_fd = mount.clone_tree(held[2], recursive=tree.recursive)
    except OSError as error:
        raise Conflict(
            f"{tree.source} of process {tree.of_process} can't be had: {describe(error)}"
        ) from error
    finally:
        for descriptor in held:
            os.close(descriptor)
    mount.set_attributes(tree_fd, propagation=mount.MS_PRIVATE, recursive=tree.recursive)
    return tree_fd


class _Elsewhere:
    """In another mount namespace for a moment. We come back to the top of everything that is mounted on our root: no
    container's root may be there yet."""

    def __init__(self, descriptor: int, subject: str) -> None:
        self._there = descriptor
        self._subject = subject
        self._own = -1

    def __enter__(self) -> None:
        self._own = namespaces.open_namespace("/proc/self/ns/mnt")
        namespaces.join(self._there, namespaces.NEWNS, self._subject)

    def __exit__(self, *_: object) -> None:
        namespaces.join(self._own, namespaces.NEWNS, "the runtime's own mount namespace")
        os.close(self._own)


def _map_ids(taken: int, tree: s.Tree, user_namespace: int) -> None:
    made = -1
    if tree.uid_mappings:
        made, _ = make_user_namespace(tree.uid_mappings, tree.gid_mappings)
    try:
        map_ids(taken, made if made >= 0 else user_namespace, tree.source, recursive=tree.idmap == "tree")
    finally:
        if made >= 0:
            os.close(made)


def map_ids(tree: int, user_namespace: int, subject: str, *, recursive: bool = False) -> None:
    """Show the files of a detached mount with the ids that the user namespace maps them to.

    Raises `Unsupported` when the kernel or the file system can't.
    """
    if user_namespace < 0:
        raise Invalid(f"{subject} can't be idmapped without a user namespace")
    try:
        mount.set_attributes(tree, mount.ATTR_IDMAP, recursive=recursive, user_namespace=user_namespace)
    except SystemCallError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        raise Unsupported(
            f"{subject} can't be shown with mapped ids: its file system has no idmapped mounts on this kernel",
            hint="ext4, XFS and Btrfs have them since Linux 5.12 to 5.15, EROFS and overlayfs 5.19, tmpfs since 6.3",
        ) from error
