"""Prune queries and daemon.json's `builder.gc` as rules of the collection."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.build.solver.collection import CACHE_MOUNT, Rule, default_rules
from sampan.daemon.builder_gc import collection_rules, size_of
from sampan.daemon.options import parse_options
from sampan.engine.cache_rules import rule_of
from sampan.engine.cache_use import CacheUse
from sampan.errors import Invalid


def test_filters_of_a_prune_become_a_rule() -> None:
    assert rule_of({"type": ["exec.cachemount"], "id": ["ab"]}, 0.0) == Rule(
        kinds=(CACHE_MOUNT,), ids=("ab",)
    )
    assert rule_of({"until": ["100"]}, 150.0) == Rule(keep_for=50.0)
    assert rule_of({"unused-for": ["2h"]}, 0.0) == Rule(keep_for=7200.0)
    assert rule_of({"private": []}, 0.0) == Rule(shared=False)
    assert rule_of({"shared": []}, 0.0) == Rule(everything=True, shared=True)
    assert rule_of({"inuse": []}, 0.0).nothing


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"label": ["x"]}, "invalid filter 'label'"),
        ({"id": ["a", "b"]}, "filters expect only one value"),
        ({"type": ["strange"]}, "invalid type 'strange'"),
        ({"until": ["soon"]}, "invalid time 'soon'"),
        ({"until": ["1h"], "unused-for": ["1h"]}, "conflicting filters"),
    ],
)
def test_filters_that_cannot_be_are_refused(filters: dict[str, list[str]], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        rule_of(filters, 0.0)


def test_the_collection_is_on_by_default_with_dockers_rules_for_10_gb() -> None:
    assert collection_rules(None, None, None) == default_rules(10_000_000_000)
    assert collection_rules(
        {"gc": {"enabled": True, "defaultKeepStorage": "20GB"}}, None, None
    ) == default_rules(20_000_000_000)


def test_it_can_be_switched_off_and_a_flag_wins_over_the_file() -> None:
    off = {"gc": {"enabled": False}}
    assert collection_rules(off, None, None) == ()
    assert collection_rules(off, True, "1GiB") == default_rules(1 << 30)


def test_a_policy_of_dockers_file_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(
        '{"builder": {"gc": {"enabled": true, "policy": ['
        '{"keepStorage": "10GB", "filter": ["unused-for=2200h"]},'
        '{"keepStorage": "50GB", "filter": ["unused-for=3300h"]}, {"keepStorage": "100GB", "all": true}]}}}'
    )
    assert parse_options(["--config-file", str(file)]).settings.builder_gc == (
        Rule(keep_for=2200 * 3600.0, reserved_space=10_000_000_000),
        Rule(keep_for=3300 * 3600.0, reserved_space=50_000_000_000),
        Rule(everything=True, reserved_space=100_000_000_000),
    )


@pytest.mark.parametrize(
    "builder",
    [
        [],
        {"gc": 1},
        {"gc": {"enabled": "yes"}},
        {"gc": {"surprise": 1}},
        {"gc": {"policy": {}}},
        {"gc": {"policy": [1]}},
        {"gc": {"policy": [{"keepStorage": "many"}]}},
        {"gc": {"policy": [{"filter": [1]}]}},
        {"gc": {"policy": [{"filter": ["label=x"]}]}},
        {"gc": {"policy": [{"all": 1}]}},
        {"gc": {"defaultKeepStorage": -1}},
    ],
)
def test_nonsense_in_the_file_is_refused(builder: object) -> None:
    with pytest.raises(Invalid):
        collection_rules(builder, None, None)


def test_sizes_are_decimal_or_binary_as_their_unit_says() -> None:
    assert [size_of(text, "x") for text in (5, "5", "10GB", "1.5kb", "2MiB")] == [5, 5, 10**10, 1500, 2 << 20]


def test_what_a_build_asked_for_is_in_use_until_it_has_ended() -> None:
    use = CacheUse()
    with use.build() as first:
        with use.build() as second:
            second("key")
            first("shared")
            second("shared")
            second("shared")
            assert "key" in use
        assert "key" not in use
        assert "shared" in use
        assert use.busy
    assert "shared" not in use
    assert not use.busy
    assert use.take_counts() == {"key": 1, "shared": 3}
    assert use.take_counts() == {}
