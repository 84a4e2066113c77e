"""The reasons why a step was built anew, for each input that can change."""

from __future__ import annotations

import msgspec
import pytest

from sampan.build.solver.explain import StepInputs, explain, nearest

_BEFORE = StepInputs(
    stage="app",
    instruction="COPY src /src",
    parent="p1",
    base="sha256:aa",
    args={"V": "1"},
    env={"E": "1"},
    files={"a": "1", "b": "1"},
    settings={"user": "web"},
)


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"instruction": "COPY src /new"}, ("instruction changed: was COPY src /src",)),
        ({"base": "sha256:bb"}, ("base image changed: sha256:aa -> sha256:bb",)),
        (
            {"base": "sha256:bb", "parent": "p2"},
            ("base image changed: sha256:aa -> sha256:bb", "an earlier step changed"),
        ),
        ({"parent": "p2"}, ("an earlier step changed",)),
        ({"args": {"V": "2"}}, ("argument changed: V",)),
        ({"env": {}}, ("environment removed: E",)),
        ({"settings": {"user": "root"}}, ("setting changed: user",)),
        (
            {"files": {"a": "2", "c": "1"}},
            ("file changed: a", "file removed: b", "file added: c"),
        ),
        ({}, ("nothing changed, but the cache has no result of this step: it failed, or was removed",)),
    ],
)
def test_every_input_that_changed_is_named(change: dict[str, object], reasons: tuple[str, ...]) -> None:
    assert explain(msgspec.structs.replace(_BEFORE, **change), [_BEFORE]) == reasons


def test_a_first_build_has_nothing_to_be_compared_with() -> None:
    other = StepInputs(stage="app", instruction="RUN make")
    assert explain(_BEFORE, [other]) == ("no earlier build of this step",)


def test_no_cache_is_the_only_reason_when_it_was_asked_for() -> None:
    assert explain(_BEFORE, [_BEFORE], no_cache=True) == ("the cache is off for this step (--no-cache)",)


def test_ten_files_are_named_and_the_rest_is_counted() -> None:
    files = {f"f{number:03}": "1" for number in range(322)}
    reasons = explain(msgspec.structs.replace(_BEFORE, files={**_BEFORE.files, **files}), [_BEFORE])
    assert len(reasons) == 11
    assert reasons[-1] == "and 312 more files"


def test_the_build_with_the_fewest_differences_is_the_nearest_and_the_newest_of_equals() -> None:
    far = msgspec.structs.replace(_BEFORE, files={})
    near = msgspec.structs.replace(_BEFORE, parent="p0")
    older = msgspec.structs.replace(_BEFORE, parent="p9")
    assert nearest(_BEFORE, [far, near, older]) is near


def test_values_of_arguments_and_control_characters_of_names_are_not_shown() -> None:
    now = msgspec.structs.replace(_BEFORE, args={"V": "hunter2"}, files={**_BEFORE.files, "x\x1b]0;t": "1"})
    assert explain(now, [_BEFORE]) == ("argument changed: V", "file added: x?]0;t")


def test_an_edited_step_is_compared_with_the_one_at_its_place_and_else_with_the_most_similar_text() -> None:
    now = StepInputs(stage="app", instruction="RUN make all docs", parent="p2")
    first = StepInputs(stage="app", instruction="RUN make all", parent="p1")
    second = StepInputs(stage="app", instruction="RUN echo", parent="p2")
    third = StepInputs(stage="app", instruction="RUN rm -rf /tmp", parent="p3")
    assert nearest(now, [third, first, second]) is second
    assert nearest(msgspec.structs.replace(now, parent="p9"), [third, second, first]) is first


def test_a_step_of_a_renamed_stage_is_found_when_its_text_is_much_the_same() -> None:
    now = StepInputs(stage="built", instruction="RUN make all docs")
    before = StepInputs(stage="app", instruction="RUN make all")
    assert nearest(now, [StepInputs(stage="app", instruction="RUN true"), before]) is before
    assert nearest(now, [StepInputs(stage="app", instruction="RUN true")]) is None


def test_another_projects_step_is_no_earlier_build_of_an_edited_one() -> None:
    now = StepInputs(
        stage="app", instruction="RUN make all docs", parent="p", base="reg:5000/python:3.12 (a1)"
    )
    for base, found in (
        ("reg:5000/python:3.11 (b2)", True),
        ("reg:5000/python@sha256:00 (b2)", True),
        ("reg:5000/node:3.12 (a1)", False),
        ("python:3.12 (a1)", False),
    ):
        before = StepInputs(stage="app", instruction="RUN make all", parent="q", base=base)
        assert (nearest(now, [before]) is before) == found
    half = StepInputs(stage="app", instruction="RUN echo a", base="x")
    assert nearest(StepInputs(stage="other", instruction="RUN echo b", base="x"), [half]) is None
