"""BuildKit's build checks; names, lines and words are those of its documentation and rule set."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.build.dockerfile.parse import parse
from sampan.build.rules.buildkit import RULES, findings
from sampan.build.rules.options import CheckOptions, parse_options
from sampan.errors import Invalid, SampanError


def found(text: str, options: CheckOptions = CheckOptions()) -> list[tuple[str, int]]:  # noqa: B008
    return [(item.rule.name, item.first) for item in findings(parse(text.encode()), options)]


BAD = [
    ("FROM alpine AS BuilderBase\n", [("StageNameCasing", 1)]),
    ("FROM alpine as base\n", [("FromAsCasing", 1)]),
    ("from alpine AS base\n", [("FromAsCasing", 1)]),
    ("FROM alpine\nrun true\nRUN true\n", [("ConsistentInstructionCasing", 2)]),
    ("from alpine\nrun true\nCOPY a b\n", [("ConsistentInstructionCasing", 3)]),
    ("FROM alpine\nRun true\n", [("ConsistentInstructionCasing", 2)]),
    ("FROM alpine AS a\nFROM alpine AS a\n", [("DuplicateStageName", 2)]),
    ("FROM alpine AS scratch\n", [("ReservedStageName", 1)]),
    ("FROM alpine AS context\n", [("ReservedStageName", 1)]),
    ("FROM alpine\nMAINTAINER me@example.com\n", [("MaintainerDeprecated", 2)]),
    ('FROM alpine\nCMD ["a"]\nRUN true\nCMD ["b"]\n', [("MultipleInstructionsDisallowed", 2)]),
    ("FROM alpine\nENV dir /usr\n", [("LegacyKeyValueFormat", 2)]),
    ("FROM alpine\nLABEL a b\n", [("LegacyKeyValueFormat", 2)]),
    ("FROM alpine\nARG AWS_SECRET_ACCESS_KEY\n", [("SecretsUsedInArgOrEnv", 2)]),
    ("FROM alpine\nENV A=b \\\n  github_token=x\n", [("SecretsUsedInArgOrEnv", 2)]),
]

GOOD = [
    "FROM alpine AS base\nFROM base AS other\n",
    "from alpine as base\n",
    "FROM alpine\nRUN true\n",
    "arg X=1\nFROM alpine\nRUN true\n",
    'FROM alpine AS a\nCMD ["a"]\nFROM a\nCMD ["b"]\n',
    "FROM alpine\nRUN <<EOF\nMAINTAINER x\nenv a b\nEOF\n",
    "FROM alpine\n# MAINTAINER x\nRUN true \\\n # ENV a b\n && true\n",
    "FROM alpine\nENV PUBLIC_KEY=a TOKEN_FILE=b AUTH_VERSION=c MONKEY=d KEYBOARD=e\n",
    "ARG TOKEN\nFROM alpine\n",
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_a_bad_dockerfile_is_found_at_its_line(text: str, expected: list[tuple[str, int]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize("text", GOOD)
def test_a_good_dockerfile_has_no_findings(text: str) -> None:
    assert found(text) == []


def test_every_rule_has_a_bad_example() -> None:
    assert {rule.name for rule in RULES} == {name for _, expected in BAD for name, _ in expected}


def test_rules_are_skipped_by_name_and_altogether() -> None:
    text = "FROM alpine as BASE\n"
    assert found(text, parse_options("skip=FromAsCasing")) == [("StageNameCasing", 1)]
    assert found(text, parse_options("skip=FromAsCasing, StageNameCasing;error=true")) == []
    assert found(text, parse_options("skip=all")) == []


@pytest.mark.parametrize("text", ["nonsense", "unknown=1", "error=maybe"])
def test_wrong_options_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_options(text)


_LINE = st.sampled_from(
    [line for text, _ in BAD for line in text.splitlines()] + ["ENV", "LABEL", "FROM a b c", "\\", "<<E", ""]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(_LINE, st.text(max_size=20)), max_size=8))
def test_rules_never_raise_on_anything_that_parses(lines: list[str]) -> None:
    try:
        parsed = parse("\n".join(lines).encode("utf-8", "replace"))
    except SampanError:
        return
    assert isinstance(findings(parsed, CheckOptions()), tuple)
