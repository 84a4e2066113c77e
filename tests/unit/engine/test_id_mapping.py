"""Mounts with mapped ids. Format of the ranges: podman-run(1); meaning of the mappings: OCI runtime-spec, config.md."""

from __future__ import annotations

import os

import pytest

from sampan.engine.containers.ownership import may_write
from sampan.engine.id_mapping import exchange, id_map_text, id_mappings, parse_id_map
from sampan.errors import Invalid
from sampan.oci.spec import IdMapping
from sampan.runtime.users import ResolvedUser


def shown(mappings: tuple[IdMapping, ...], on_disk: int) -> int:
    """As the kernel maps an id of the source to one of the mount."""
    found = [one for one in mappings if one.container_id <= on_disk < one.container_id + one.size]
    assert len(found) == 1
    return found[0].host_id + on_disk - found[0].container_id


@pytest.mark.parametrize(("one", "other"), [(0, 1000), (1000, 0), (999, 1000), (0, 4294967294), (7, 7)])
def test_two_ids_are_exchanged_and_all_others_stay(one: int, other: int) -> None:
    mappings = exchange(one, other)
    assert (shown(mappings, one), shown(mappings, other)) == (other, one)
    for third in (3, 500, 998, 1001, 65534, 4294967293):
        assert shown(mappings, third) == third


def test_ranges_are_read_and_written() -> None:
    uids, gids = id_mappings("uids=1000-0-1#0-1000-10;gids=5-6-1")
    assert uids == (IdMapping(1000, 0, 1), IdMapping(0, 1000, 10))
    assert gids == (IdMapping(5, 6, 1),)
    assert id_mappings(id_map_text(uids, gids)) == (uids, gids)
    assert id_mappings("uids=1000-0-1")[1] == (IdMapping(1000, 0, 1),)
    assert parse_id_map("idmap") == "idmap" == parse_id_map("idmap=")
    assert parse_id_map("idmap=gids=1-2-3") == "gids=1-2-3"


@pytest.mark.parametrize(
    "text",
    [
        "uids=", "uids=1-2", "uids=1-2-0", "uids=a-2-1", "x=1-2-3", "uids=0-0-4294967296", "uids=1-1-1;uids=2-2-1",
        "uids=0-0-10#5-100-10", "uids=0-0-10#100-5-10", "uids=-1-2-3",
    ],
)  # fmt: skip
def test_ranges_that_say_nothing_or_two_things_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="invalid idmap"):
        id_mappings(text)


def test_who_may_write_is_decided_by_the_first_class_that_fits() -> None:
    def directory(mode: int, uid: int, gid: int) -> os.stat_result:
        return os.stat_result((0o040000 | mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))

    user = ResolvedUser(1000, 100, (100, 33), "/")
    assert may_write(directory(0o755, 1000, 0), user)
    assert not may_write(directory(0o755, 0, 0), user)
    assert not may_write(directory(0o077, 1000, 0), user)
    assert may_write(directory(0o775, 0, 33), user)
    assert not may_write(directory(0o707, 0, 33), user)
    assert may_write(directory(0o1777, 0, 0), user)
    assert not may_write(directory(0o776, 0, 0), user)
