"""`--call outline` and `targets`: the expected values are those of `docker build --call` (Docker 28.5, buildx 0.29)."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.build.dockerfile.parse import parse
from sampan.build.dockerfile.plan import plan
from sampan.build.rules.outline import outline, targets
from sampan.build.rules.subject import Subject
from sampan.cli.build.outline import outline_text, targets_text
from sampan.errors import NotFound

DOCKERFILE = b"""# VERSION is the one to fetch
ARG VERSION=1${SUFFIX}
ARG SUFFIX=x
ARG UNUSED=z
ARG BASE=scratch

# base what others stand on
FROM ${BASE} AS base
# LATE comes late
ARG LATE=yes OTHER
ARG VERSION
ARG TARGETARCH
RUN --mount=type=secret,id=token --mount=type=ssh,id=git,required=true x
# app the application
FROM base AS app
ARG MORE=$LATE-1
RUN --mount=type=secret,target=/run/secrets/pass,required --mount=type=ssh true
FROM scratch AS helper
ARG HELP=me
FROM app
COPY --from=helper /a /b
"""

_REST = """SECRET   REQUIRED
token    
pass     true

SSH       REQUIRED
git       true
default   

"""  # noqa: W291

OF_ALL = (
    """BUILD ARG   VALUE     DESCRIPTION
VERSION     1         is the one to fetch
BASE        scratch   
LATE        yes       comes late
OTHER                 
MORE        yes-1     
HELP        me        

"""  # noqa: W291
    + _REST
)

OF_BASE = """TARGET:      base
DESCRIPTION: what others stand on

BUILD ARG   VALUE     DESCRIPTION
VERSION     1         is the one to fetch
BASE        scratch   
LATE        yes       comes late
OTHER                 

SECRET   REQUIRED
token    

SSH   REQUIRED
git   true

"""  # noqa: W291

WITH_ARGUMENTS = (
    """BUILD ARG   VALUE     DESCRIPTION
BASE        scratch   
LATE        given     comes late
OTHER                 
VERSION     9         
MORE        given-1   
HELP        me        

"""  # noqa: W291
    + _REST
)

TARGETS = """TARGET    DESCRIPTION
base      what others stand on
app       the application
helper    
(default) 
"""  # noqa: W291


def outlined(target: str = "", text: bytes = DOCKERFILE, **given: str | None) -> dict[str, Any]:
    dockerfile = parse(text)
    planned = plan(dockerfile, build_args=given, target=target)
    return outline(Subject(dockerfile, build_args=given, target=target), planned, text)


def test_an_outline_has_what_docker_prints() -> None:
    assert outline_text(outlined()) == OF_ALL
    assert outline_text(outlined("base")) == OF_BASE
    assert outline_text(outlined(LATE="given", VERSION="9")) == WITH_ARGUMENTS


def test_an_outline_as_json_has_places() -> None:
    result = outlined("app")
    assert (result["name"], result["description"]) == ("app", "the application")
    assert [(one["name"], one["location"]["ranges"][0]["start"]["line"]) for one in result["args"]] == [
        ("VERSION", 2),
        ("BASE", 5),
        ("LATE", 10),
        ("OTHER", 10),
        ("MORE", 16),
    ]
    assert [(one["name"], one.get("required")) for one in result["secrets"]] == [
        ("token", None),
        ("pass", True),
    ]


def test_a_target_that_takes_nothing_has_an_empty_outline() -> None:
    assert outline_text(outlined(text=b"FROM scratch\nCOPY a b\n")) == ""


def test_arguments_in_the_default_of_a_used_one_count() -> None:
    result = outlined(text=b"ARG A=1\nARG B=$A\nARG C=3\nFROM x:$B\n")
    assert [(one["name"], one["value"]) for one in result["args"]] == [("A", "1"), ("B", "1")]


def test_targets_are_listed_as_docker_lists_them() -> None:
    result: dict[str, Any] = targets(parse(DOCKERFILE), DOCKERFILE)
    assert targets_text(result) == TARGETS
    lines = [one["location"]["ranges"][0]["start"]["line"] for one in result["targets"]]
    assert lines == [8, 15, 18, 20]
    assert [one["base"] for one in result["targets"]] == ["${BASE}", "base", "scratch", "app"]
    assert [one.get("default", False) for one in result["targets"]] == [False, False, False, True]


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(NotFound, match="could not be found"):
        outlined("nothing")
