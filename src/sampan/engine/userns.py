"""User namespaces of containers (userns-remap): which ids of the host stand behind theirs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sampan.errors import Invalid
from sampan.oci.spec import IdMapping

NOBODY = 65534
"""What the kernel shows for an id without a mapping (kernel.overflowuid)."""
MAX_RANGES = 340
"""Lines of an id map (user_namespaces(7))."""
_ALL_IDS = 4294967295


@dataclass(frozen=True, slots=True)
class IdMaps:
    uids: tuple[IdMapping, ...]
    gids: tuple[IdMapping, ...]

    @property
    def last_gid(self) -> int:
        """The highest group id that exists inside."""
        return max(one.container_id + one.size - 1 for one in self.gids)

    @property
    def owner(self) -> tuple[int, int]:
        """The host's ids of the container's root."""
        return self.outside(0, 0)

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """The host's ids as the container sees them."""
        return to_container(self.uids, uid), to_container(self.gids, gid)

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """The container's ids as the host sees them. Raises `Invalid` for one that is not mapped."""
        return to_host(self.uids, uid), to_host(self.gids, gid)


def to_container(mappings: Sequence[IdMapping], number: int) -> int:
    for one in mappings:
        if one.host_id <= number < one.host_id + one.size:
            return one.container_id + number - one.host_id
    return NOBODY


def to_host(mappings: Sequence[IdMapping], number: int) -> int:
    """Raises `Invalid`."""
    for one in mappings:
        if one.container_id <= number < one.container_id + one.size:
            return one.host_id + number - one.container_id
    raise Invalid(f"Container ID {number} cannot be mapped to a host ID")


def parse_ranges(text: str, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The (first id, count) ranges of somebody in /etc/subuid or /etc/subgid (subuid(5)); `names`: name and number.

    Raises `Invalid` for a line of theirs that says nothing.
    """
    found = []
    for line in text.splitlines():
        name, _, rest = line.strip().partition(":")
        if not name or name.startswith("#") or name not in names:
            continue
        first, _, count = rest.partition(":")
        if not (first.isdecimal() and count.isdecimal() and 0 < int(count) <= _ALL_IDS - int(first)):
            raise Invalid(f"invalid range in the subordinate ids of {name}: {line.strip()!r}")
        found.append((int(first), int(count)))
    return tuple(sorted(found))


def mappings_of(ranges: Sequence[tuple[int, int]]) -> tuple[IdMapping, ...]:
    """The container's ids from 0 on are those of the ranges, one after the other."""
    found = []
    number = 0
    for first, count in ranges[:MAX_RANGES]:
        found.append(IdMapping(number, first, count))
        number += count
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Account:
    """A user or group of the host."""

    name: str
    number: int


def parse_remap(
    value: str, find_user: Callable[[str], Account | None], find_group: Callable[[str], Account | None]
) -> tuple[Account, Account]:
    """`user[:group]` by names or numbers: whose ranges are taken. Without a group it is the one of the user's name.

    Raises `Invalid`.
    """
    user_text, colon, group_text = value.partition(":")
    if not user_text or (colon and not group_text) or ":" in group_text:
        raise Invalid(f"invalid --userns-remap value {value!r}: expected default, USER or USER:GROUP")
    user = find_user(user_text)
    if user is None:
        raise Invalid(f"--userns-remap: user {user_text!r} not found in the user database")
    group = find_group(group_text or user.name)
    if group is None:
        raise Invalid(f"--userns-remap: group {group_text or user.name!r} not found in the group database")
    return user, group


def id_maps(user: Account, group: Account, subuid: str, subgid: str) -> IdMaps:
    """From the contents of /etc/subuid and /etc/subgid. Raises `Invalid` when there is no range."""
    uids = mappings_of(parse_ranges(subuid, (user.name, str(user.number))))
    gids = mappings_of(parse_ranges(subgid, (group.name, str(group.number))))
    for found, kind, who in ((uids, "uid", f"user {user.name!r}"), (gids, "gid", f"group {group.name!r}")):
        if not found:
            raise Invalid(
                f"Can't create ID mappings: No sub{kind} ranges found for {who}",
                hint=f"usermod --add-sub{kind}s 100000-165535 {user.name}",
            )
    return IdMaps(uids, gids)


def parse_maps(uid_map: str, gid_map: str) -> IdMaps | None:
    """From /proc/<pid>/uid_map and gid_map as the host reads them; None for the host's own user namespace."""

    def lines(text: str) -> tuple[IdMapping, ...]:
        return tuple(IdMapping(*(int(word) for word in line.split())) for line in text.splitlines())

    uids, gids = lines(uid_map), lines(gid_map)
    if not uids or not gids or uids == (IdMapping(0, 0, _ALL_IDS),):
        return None
    return IdMaps(uids, gids)
