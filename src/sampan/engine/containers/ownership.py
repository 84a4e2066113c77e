"""Whose the files of a mount are, and whether the container's user can do anything with them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from msgspec.structs import replace

from sampan.engine.containers.base import Parts
from sampan.engine.containers.volume_mounts import open_layers
from sampan.engine.id_mapping import BY_OWNER, exchange, id_map_text
from sampan.engine.model import ContainerRecord, MountPoint
from sampan.errors import SampanError, Unsupported
from sampan.runtime.users import ResolvedUser, resolve_user


def with_id_maps(parts: Parts, record: ContainerRecord) -> ContainerRecord:
    """Blocking: the record with numbers where a mount's ids are mapped by its owner.

    A container with a user namespace of its own has its ids on the disk instead. Raises `Unsupported`, `Invalid`.
    """
    if not any(point.id_map for point in record.mounts):
        return record
    if record.host.runtime not in ("", "sampan"):
        raise Unsupported(f"the runtime {record.host.runtime} is not asked to map the ids of mounts")
    if record.remaps and parts.settings.id_maps is not None:
        if any(point.id_map not in ("", BY_OWNER) for point in record.mounts):
            raise Unsupported(
                "a mount's idmap with numbers is for containers without a user namespace",
                hint="--userns host, or idmap without numbers: the container's own ids are on the disk then",
            )
        return record
    user = _user(parts, record)
    points = tuple(_by_owner(point, user) if point.id_map == BY_OWNER else point for point in record.mounts)
    return replace(record, mounts=points)


def _by_owner(point: MountPoint, user: ResolvedUser) -> MountPoint:
    try:
        owner = os.stat(point.source)
    except FileNotFoundError:
        return replace(point, id_map="")  # it will be made, or missed, by who starts the container
    if (owner.st_uid, owner.st_gid) == (user.uid, user.gid):
        return replace(point, id_map="")
    return replace(
        point, id_map=id_map_text(exchange(owner.st_uid, user.uid), exchange(owner.st_gid, user.gid))
    )


def _user(parts: Parts, record: ContainerRecord) -> ResolvedUser:
    """By the image's own account files; what the container may have changed in them since does not count here."""
    root = open_layers(parts, record.layers)
    try:
        return resolve_user(root, record.config.user)
    finally:
        os.close(root)


def permission_warnings(parts: Parts, record: ContainerRecord) -> list[str]:
    """Blocking: the host's directories that the container's user could not write to, though they are not read-only."""
    if record.config.user.partition(":")[0] in ("", "0", "root") or record.host.privileged:
        return []
    if record.remaps and parts.settings.id_maps is not None:
        return []
    points = [point for point in record.mounts if point.type == "bind" and point.rw and not point.id_map]
    if not any(os.path.isdir(point.source) for point in points):
        return []
    try:
        user = _user(parts, record)
    except (SampanError, OSError):
        return []  # the start will say what is wrong with the user, or the image
    return [text for point in points if (text := _warning(point, user, record.host.group_add or ()))]


def _warning(point: MountPoint, user: ResolvedUser, groups: Sequence[str]) -> str:
    try:
        info = os.stat(point.source)
    except OSError:
        return ""
    if not stat.S_ISDIR(info.st_mode) or groups or may_write(info, user) or _has_acl(point.source):
        return ""
    return (
        f"The container's user {user.uid}:{user.gid} can't write to {point.destination}: on the host "
        f"{point.source} is {info.st_uid}:{info.st_gid}'s with mode {stat.S_IMODE(info.st_mode):04o}. Mount it "
        f"read-only, or with the option idmap, or: chown {user.uid}:{user.gid} {point.source}"
    )


def may_write(info: os.stat_result, user: ResolvedUser) -> bool:
    """By the mode of a directory: make and remove entries in it. Pure."""
    if user.uid == 0:
        return True
    if user.uid == info.st_uid:
        wanted = 0o300
    elif info.st_gid in (user.gid, *user.additional_gids):
        wanted = 0o030
    else:
        wanted = 0o003
    return info.st_mode & wanted == wanted


def _has_acl(path: str) -> bool:
    """Then its mode does not say everything (acl(5))."""
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except OSError:
        return False
