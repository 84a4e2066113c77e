"""What the collection of the build cache's garbage chooses: BuildKit's rules, on paper."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sampan.build.solver.collection import (
    CACHE_MOUNT,
    INTERNAL,
    KINDS,
    Item,
    Rule,
    choose,
    default_rules,
    total_size,
)

GB = 1000**3
DAY = 24 * 3600.0
NOW = 1000 * DAY


def ids(items: tuple[Item, ...]) -> list[str]:
    return [item.id for item in items]


def test_the_longest_unused_goes_first_and_only_until_the_rest_fits() -> None:
    items = [
        Item("new", size=4 * GB, used=NOW),
        Item("old", size=4 * GB, used=1),
        Item("mid", size=4 * GB, used=2),
    ]
    assert ids(choose(items, [Rule(max_used_space=9 * GB)], NOW, 0)) == ["old"]
    assert ids(choose(items, [Rule(max_used_space=5 * GB)], NOW, 0)) == ["old", "mid"]
    assert choose(items, [Rule(max_used_space=12 * GB)], NOW, 0) == ()


def test_what_a_build_under_way_uses_stays_whatever_the_rule() -> None:
    items = [Item("used", size=GB, used=1, in_use=True), Item("free", size=GB, used=2)]
    assert ids(choose(items, [Rule(everything=True)], NOW, 0)) == ["free"]


def test_internal_records_and_what_images_share_go_only_with_all() -> None:
    items = [Item("internal", INTERNAL), Item("shared", size=GB, shared=True), Item("own", size=GB)]
    assert ids(choose(items, [Rule()], NOW, 0)) == ["own"]
    assert set(ids(choose(items, [Rule(everything=True)], NOW, 0))) == {"internal", "shared", "own"}


def test_layers_of_images_do_not_count_for_the_size() -> None:
    items = [Item("shared", size=50 * GB, shared=True), Item("own", size=GB)]
    assert total_size(items) == GB
    assert choose(items, [Rule(max_used_space=2 * GB)], NOW, 0) == ()


def test_what_was_used_lately_stays_for_as_long_as_the_rule_says() -> None:
    items = [Item("fresh", size=GB, used=NOW - DAY), Item("stale", size=GB, used=NOW - 3 * DAY)]
    assert ids(choose(items, [Rule(keep_for=2 * DAY)], NOW, 0)) == ["stale"]


def test_a_disk_that_lacks_room_makes_the_cache_smaller_but_not_than_what_is_reserved() -> None:
    items = [Item(str(number), size=GB, used=number) for number in range(10)]
    assert len(choose(items, [Rule(min_free_space=3 * GB)], NOW, GB)) == 2
    assert choose(items, [Rule(min_free_space=3 * GB)], NOW, 5 * GB) == ()
    assert len(choose(items, [Rule(min_free_space=100 * GB, reserved_space=4 * GB)], NOW, 0)) == 6


def test_the_default_rules_take_old_cache_mounts_above_512_mb_before_anything_else() -> None:
    items = [
        Item("mount", CACHE_MOUNT, size=GB, used=NOW - 3 * DAY),
        Item("step", size=GB, used=NOW - 30 * DAY),
        Item("used mount", CACHE_MOUNT, size=GB, used=NOW - DAY),
    ]
    assert ids(choose(items, default_rules(10 * GB), NOW, 0)) == ["mount"]
    assert ids(choose(items, default_rules(2 * GB), NOW, 0)) == ["mount"]
    assert ids(choose(items, default_rules(GB), NOW, 0)) == ["mount", "step"]


_items = st.lists(
    st.builds(
        Item,
        id=st.uuids().map(str),
        kind=st.sampled_from(KINDS),
        size=st.integers(0, 20 * GB),
        used=st.floats(0, NOW),
        in_use=st.booleans(),
        shared=st.booleans(),
    ),
    max_size=12,
)


@given(_items, st.integers(1, 30 * GB))
def test_afterwards_the_cache_fits_or_nothing_that_may_go_is_left(items: list[Item], keep: int) -> None:
    chosen = choose(items, default_rules(keep), NOW, 0)
    assert not any(item.in_use for item in chosen)
    assert len(set(ids(chosen))) == len(chosen)
    left = [item for item in items if item not in chosen]
    assert total_size(left) <= keep or all(item.in_use for item in left)
