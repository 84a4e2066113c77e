"""Stages, arguments and targets. Expected values from Docker's Dockerfile reference."""

from __future__ import annotations

import pytest

from sampan.build.dockerfile.parse import parse
from sampan.build.dockerfile.plan import plan
from sampan.build.errors import DockerfileError
from sampan.build.model import Plan
from sampan.errors import NotFound


def planned(text: str, target: str = "", **build_args: str | None) -> Plan:
    return plan(parse(text.encode()), build_args=build_args, target=target)


def test_global_arguments_reach_from_lines() -> None:
    text = "ARG V=1\nARG IMAGE=app:$V\nFROM ${IMAGE}\n"
    assert planned(text).target.base == "app:1"
    assert planned(text, V="2").target.base == "app:2"
    assert planned(text, IMAGE="x").target.base == "x"


def test_platform_arguments_are_known_to_from_lines() -> None:
    text = "FROM --platform=$BUILDPLATFORM a-$TARGETARCH\n"
    assert planned(text).target.platform == "linux/amd64"
    assert planned(text).target.base == "a-amd64"


def test_only_what_the_target_needs_is_planned_in_order() -> None:
    text = (
        "FROM a AS one\nFROM b AS two\nFROM c AS three\nCOPY --from=one x y\nRUN --mount=from=0,target=/x z\n"
    )
    assert [stage.name for stage in planned(text).stages] == ["one", "three"]
    assert [stage.name for stage in planned(text, "two").stages] == ["two"]
    assert [stage.name for stage in planned(text, "1").stages] == ["two"]
    assert planned(text).step_count == 5 - 1


def test_a_stage_may_start_from_an_earlier_one() -> None:
    text = "FROM a AS Base\nFROM base\n"
    assert planned(text).target.base_stage == 0
    assert [stage.index for stage in planned(text).stages] == [0, 1]


def test_a_from_does_not_see_later_stages() -> None:
    assert planned("FROM later\nFROM x AS later\nCOPY --from=0 a b").every_stage[0].base == "later"


def test_a_copy_may_name_a_later_stage() -> None:
    plan_ = planned("FROM a AS one\nCOPY --from=two x y\nFROM b AS two\n", "one")
    assert [stage.name for stage in plan_.stages] == ["two", "one"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("FROM a AS one\nCOPY --from=one x y\n", 1, "circular dependency detected on stage: one"),
        ("FROM a AS x\nCOPY --from=y a b\nFROM a AS y\nCOPY --from=x a b", 3, "circular dependency detected"),
        ("FROM a AS one\nCOPY --from=one x y\nFROM b\n", 1, "circular dependency detected on stage: one"),
        ("FROM a\nCOPY --from=7 x y\n", 2, "invalid stage index 7"),
        ("RUN x\nFROM a\n", 1, "no build stage in current context"),
        ("ARG x\n", 1, "no build stage in current context"),
        ("FROM $NOTHING\n", 1, r"base name \(\$NOTHING\) should not be blank"),
        ("FROM a AS 1x\n", 1, 'invalid name for build stage: "1x"'),
        ("ARG A=${A:?missing}\nFROM a\n", 1, "A: missing"),
    ],
)
def test_a_plan_that_can_not_work_is_refused(text: str, line: int, message: str) -> None:
    with pytest.raises(DockerfileError, match=message) as caught:
        planned(text)
    assert caught.value.line == line


def test_an_unknown_target_names_the_stages_there_are() -> None:
    with pytest.raises(NotFound) as caught:
        planned("FROM a AS one\n", "zwei")
    assert caught.value.message == 'target stage "zwei" could not be found'
    assert "one" in caught.value.hint


def test_a_health_check_is_looked_at_in_stages_that_are_not_needed_too() -> None:
    with pytest.raises(DockerfileError, match='Unknown type "CDM" in HEALTHCHECK') as caught:
        planned("FROM a AS one\nHEALTHCHECK CDM x\nFROM b AS two\n", "two")
    assert caught.value.line == 2
