"""A container's view of control groups: a mount of type "cgroup" in its specification (config-linux.md).

Version 2 is mounted as it is. Version 1 becomes a tmpfs with a directory per hierarchy; without a cgroup
namespace each is a bind mount of the container's own group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from sampan.linux import mount, paths
from sampan.linux.libc import AT_FDCWD
from sampan.runtime.steps import MountCgroups


class Hierarchy(msgspec.Struct, frozen=True):
    """A version 1 hierarchy of the host: where it is mounted, its mount options, the caller's group in it."""

    mountpoint: str
    controllers: str
    group: str


def mount_cgroups(root: int, step: MountCgroups) -> None:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mountinfo = file.read()
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        groups = file.read()
    hierarchies = list(version_1(mountinfo, groups))
    target = paths.mkdirs_in_root(root, step.target)
    try:
        if not hierarchies:
            _unified(target, step, mountinfo, groups)
            return
        base = mount.make_filesystem(
            "tmpfs", (("mode", "755"),), step.attributes & ~mount.ATTR_RDONLY, "tmpfs"
        )
        mount.attach(base, target, step.target)
        for hierarchy in hierarchies:
            _version_1(base, hierarchy, step)
        if step.attributes & mount.ATTR_RDONLY:
            mount.set_attributes(base, mount.ATTR_RDONLY)
        os.close(base)
    finally:
        os.close(target)


def _unified(target: int, step: MountCgroups, mountinfo: str, groups: str) -> None:
    if step.own_namespace:
        tree = mount.make_filesystem("cgroup2", (), step.attributes, "cgroup")
    else:
        own = next((line[3:] for line in groups.splitlines() if line.startswith("0::")), "/")
        point = next(_mountpoints(mountinfo, "cgroup2"), ("/sys/fs/cgroup", ""))[0]
        tree = mount.clone_tree(AT_FDCWD, point + own)
    mount.attach(tree, target, step.target)
    mount.set_attributes(tree, step.attributes)
    os.close(tree)


def _version_1(base: int, hierarchy: Hierarchy, step: MountCgroups) -> None:
    name = os.path.basename(hierarchy.mountpoint)
    os.mkdir(name, 0o755, dir_fd=base)
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=base)
    try:
        if step.own_namespace:
            options = tuple(
                (key, value or None)
                for key, _, value in (part.partition("=") for part in hierarchy.controllers.split(","))
            )
            tree = mount.make_filesystem("cgroup", options, step.attributes, "cgroup")
        else:
            tree = mount.clone_tree(AT_FDCWD, hierarchy.mountpoint + hierarchy.group)
        mount.attach(tree, place, name)
        mount.set_attributes(tree, step.attributes)
        os.close(tree)
    finally:
        os.close(place)
    for controller in hierarchy.controllers.split(","):
        if controller != name and "=" not in controller:
            os.symlink(name, controller, dir_fd=base)


def version_1(mountinfo: str, groups: str) -> Iterator[Hierarchy]:
    """The version 1 hierarchies in proc(5)'s mountinfo, each with the group from /proc/self/cgroup. Pure."""
    own = {}
    for line in groups.splitlines():
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = group
    for point, options in _mountpoints(mountinfo, "cgroup"):
        named = [part for part in options.split(",") if part in own]
        if named:
            group = own[named[0]]
            yield Hierarchy(point, ",".join(named), "" if group == "/" else group)


def _mountpoints(mountinfo: str, kind: str) -> Iterator[tuple[str, str]]:
    """Mount point and file system options of every mount of this type."""
    for line in mountinfo.splitlines():
        head, _, tail = line.partition(" - ")
        fields, rest = head.split(" "), tail.split(" ")
        if len(rest) < 3 or rest[0] != kind or len(fields) < 5:
            continue
        # Seen from a cgroup namespace, the host's mounts have roots above ours.
        if fields[3] == "/" or fields[3].startswith("/.."):
            yield fields[4], rest[2]
