from __future__ import annotations

import pytest

from sampan.daemon.remap import next_free
from sampan.engine.userns import Account, IdMaps, id_maps, parse_maps, parse_ranges, parse_remap
from sampan.errors import Invalid
from sampan.oci.spec import IdMapping

SUBUID = "# comment\nalice:100000:65536\nbob:300000:10\n1001:165536:65536\nbob:200000:20\n"
BOB = Account("bob", 1002)


def test_ranges_of_a_name_or_its_number_come_in_order() -> None:
    assert parse_ranges(SUBUID, ("bob", "1002")) == ((200000, 20), (300000, 10))
    assert parse_ranges(SUBUID, ("carol", "1001")) == ((165536, 65536),)
    assert parse_ranges(SUBUID, ("dave", "4")) == ()


@pytest.mark.parametrize("line", ["bob:x:10", "bob:1", "bob:5:0", "bob:-1:5", "bob:4294967000:65536"])
def test_a_range_that_says_nothing_is_refused(line: str) -> None:
    with pytest.raises(Invalid, match="invalid range"):
        parse_ranges(line, ("bob",))


def test_several_ranges_are_one_row_of_ids_inside() -> None:
    maps = id_maps(BOB, BOB, SUBUID, "bob:5000:3\n")
    assert maps == IdMaps((IdMapping(0, 200000, 20), IdMapping(20, 300000, 10)), (IdMapping(0, 5000, 3),))
    assert maps.owner == (200000, 5000)
    assert maps.outside(21, 2) == (300001, 5002)
    assert maps.inside(300001, 5002) == (21, 2)
    assert maps.last_gid == 2


def test_what_is_not_mapped_is_nobody_inside_and_refused_outside() -> None:
    maps = IdMaps((IdMapping(0, 1000, 10),), (IdMapping(0, 1000, 10),))
    assert maps.inside(0, 1010) == (65534, 65534)
    with pytest.raises(Invalid, match="Container ID 10 cannot be mapped to a host ID"):
        maps.outside(10, 0)


def test_nobodys_ranges_are_told_in_dockers_words() -> None:
    with pytest.raises(Invalid, match="No subuid ranges found for user 'bob'"):
        id_maps(BOB, BOB, "", "")
    with pytest.raises(Invalid, match="No subgid ranges found for group 'bob'"):
        id_maps(BOB, BOB, SUBUID, "")


def test_the_group_is_the_users_unless_it_is_given() -> None:
    users, groups = {"bob": BOB, "1002": BOB}, {"bob": Account("bob", 7), "staff": Account("staff", 8)}
    assert parse_remap("bob", users.get, groups.get) == (BOB, groups["bob"])
    assert parse_remap("1002:staff", users.get, groups.get) == (BOB, groups["staff"])
    for value in ("", "bob:", "bob:staff:x", "eve", "bob:wheel"):
        with pytest.raises(Invalid, match="userns-remap"):
            parse_remap(value, users.get, groups.get)


def test_the_hosts_own_user_namespace_has_no_maps() -> None:
    assert parse_maps("         0          0 4294967295\n", "         0          0 4294967295\n") is None
    one = (IdMapping(0, 100000, 65536),)
    assert parse_maps("0 100000 65536\n", "0 100000 65536\n") == IdMaps(one, one)
    assert parse_maps("", "") is None


def test_new_ranges_lie_behind_all_others() -> None:
    assert next_free("") == 100000
    assert next_free(SUBUID) == 300010
