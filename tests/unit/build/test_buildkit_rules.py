"""BuildKit's build checks; names, lines and words are those of its documentation and of its own tests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.build.model import Dockerfile
from sampan.build.rules import catalog
from sampan.build.rules.check import Report, check_text
from sampan.build.rules.finding import Rule
from sampan.build.rules.nearest import distance, nearest
from sampan.build.rules.options import parse_options
from sampan.build.rules.subject import Subject, replaceable
from sampan.errors import Invalid
from sampan.oci.ignore import IgnoreRules
from sampan.oci.image import ContainerDefaults, ImageConfig, RootFS

_BARE = ImageConfig("amd64", "linux", RootFS())
_BASES = {
    "shelly": ImageConfig("amd64", "linux", RootFS(), ContainerDefaults(shell=("/bin/bash", "-c"))),
    "java": ImageConfig("amd64", "linux", RootFS(), ContainerDefaults(env=("JAVA_HOME=/opt/java",))),
    "arm": ImageConfig("arm64", "linux", RootFS(), variant="v8"),
    "trigger": ImageConfig("amd64", "linux", RootFS(), ContainerDefaults(on_build=("ARG late", "WORKDIR x"))),
}


def reported(text: str, ignore: str | None = None, **given: str) -> Report:
    target = given.pop("target", "")
    subject = Subject(
        Dockerfile(()),
        build_args=dict(given),
        target=target,
        find_base=lambda name, _platform: None if name == "absent" else _BASES.get(name, _BARE),
        ignore=None if ignore is None else IgnoreRules(ignore),
        practice=False,
    )
    return check_text(text.encode(), subject)


def found(text: str, ignore: str | None = None, **given: str) -> list[tuple[str, int]]:
    return [(item.rule.name, item.first) for item in reported(text, ignore, **given).findings]


def messages(text: str, ignore: str | None = None, **given: str) -> list[str]:
    return [item.message for item in reported(text, ignore, **given).findings]


_DESCRIBE = "# check=experimental=InvalidDefinitionDescription\n"

BAD = [
    ("FROM alpine AS BuilderBase\n", [("StageNameCasing", 1)]),
    ("FROM alpine as base\n", [("FromAsCasing", 1)]),
    ("from alpine AS base\n", [("FromAsCasing", 1)]),
    ("FROM alpine\nrun true\nRUN true\n", [("ConsistentInstructionCasing", 2)]),
    ("from alpine\nrun true\nCOPY a b\n", [("ConsistentInstructionCasing", 3)]),
    ("FROM alpine\nRun true\n", [("ConsistentInstructionCasing", 2)]),
    ("From alpine as a\nFROM alpine AS b\n", [("ConsistentInstructionCasing", 1)]),
    ("FROM alpine AS a\nFROM alpine AS a\n", [("DuplicateStageName", 2)]),
    ("FROM alpine AS context\n", [("ReservedStageName", 1)]),
    ("FROM alpine AS scratch\n", [("ReservedStageName", 1)]),
    ("FROM alpine\nMAINTAINER me@example.com\n", [("MaintainerDeprecated", 2)]),
    ('FROM alpine\nCMD ["a"]\nRUN true\nCMD ["b"]\n', [("MultipleInstructionsDisallowed", 2)]),
    ("FROM alpine\nHEALTHCHECK CMD a\nHEALTHCHECK NONE\n", [("MultipleInstructionsDisallowed", 2)]),
    ("FROM alpine\nENV dir /usr\n", [("LegacyKeyValueFormat", 2)]),
    ("FROM alpine\nLABEL a b\n", [("LegacyKeyValueFormat", 2)]),
    ("FROM alpine\nARG AWS_SECRET_ACCESS_KEY\n", [("SecretsUsedInArgOrEnv", 2)]),
    ("FROM alpine\nENV A=b \\\n  github_token=x\n", [("SecretsUsedInArgOrEnv", 2)]),
    ("FROM scratch\nARG x=git_key\nENV $x=\n", [("SecretsUsedInArgOrEnv", 3)]),
    ("FROM scratch\nCOPY Dockerfile \\\n\n.\nCOPY Dockerfile \\\n.\n", [("NoEmptyContinuation", 4)]),
    ("FROM scratch\nRUN a \\\n# why\n\n  && b <<EOF\nc\nEOF\n", [("NoEmptyContinuation", 5)]),
    ("FROM scratch\nCMD mycommand\n", [("JSONArgsRecommended", 2)]),
    ("FROM scratch\nENTRYPOINT mycommand\n", [("JSONArgsRecommended", 2)]),
    ("FROM alpine:${tag}\n", [("InvalidDefaultArgInFrom", 1), ("UndefinedArgInFrom", 1)]),
    ("ARG tag=1\nFROM alpine:${tag}${version} AS b\n", [("UndefinedArgInFrom", 2)]),
    ("FROM --platform=$BULIDPLATFORM scratch\n", [("UndefinedArgInFrom", 1)]),
    ("FROM scratch\nWORKDIR app/\nWORKDIR more\n", [("WorkdirRelativePath", 2)]),
    ("FROM scratch\nARG d=app\nWORKDIR $d\n", [("WorkdirRelativePath", 3)]),
    ("FROM alpine\nCOPY $foo .\nARG foo=bar\nRUN echo $foo\n", [("UndefinedVar", 2)]),
    (
        "FROM scratch AS a\nCOPY $foo .\nFROM scratch AS b\nCOPY $bar .\n",
        [("UndefinedVar", 2), ("UndefinedVar", 4)],
    ),
    ("FROM alpine\nARG x=$y\n", [("UndefinedVar", 2)]),
    ("FROM alpine\nRUN --mount=type=cache,target=$cache true\n", [("UndefinedVar", 2)]),
    ("FROM alpine\nCOPY <<a <<'b' /x/\n$one\na\n$two\nb\n", [("UndefinedVar", 2)]),
    ("FROM --platform=$TARGETPLATFORM scratch\n", [("RedundantTargetPlatform", 1)]),
    ("FROM --platform=${TARGETPLATFORM} scratch\n", [("RedundantTargetPlatform", 1)]),
    ("ARG VERSION\nFROM busybox:$VERSION\n", [("InvalidDefaultArgInFrom", 2)]),
    ('ARG SFX="box:"\nFROM busy${SFX}\n', [("InvalidDefaultArgInFrom", 2)]),
    ("FROM --platform=linux/amd64 scratch\n", [("FromPlatformFlagConstDisallowed", 1)]),
    ("FROM --platform=arm64 scratch AS base\n", [("FromPlatformFlagConstDisallowed", 1)]),
    ("FROM scratch\nEXPOSE 80/TcP 8080/udp\n", [("ExposeProtoCasing", 2)]),
    ("FROM scratch\nEXPOSE 5000:5000 8000\n", [("ExposeInvalidFormat", 2)]),
    ("FROM scratch\nEXPOSE 127.0.0.1:80:80\n", [("ExposeInvalidFormat", 2)]),
    ("FROM scratch\nEXPOSE [::1]:80:80\n", [("ExposeInvalidFormat", 2)]),
    ("FROM arm\n", [("InvalidBaseImagePlatform", 1)]),
    (_DESCRIBE + "# bar this is the bar\nARG foo=bar\nFROM scratch\n", [("InvalidDefinitionDescription", 3)]),
    (_DESCRIBE + "# BasE the base\nFROM scratch AS base\n", [("InvalidDefinitionDescription", 3)]),
    (_DESCRIBE + "FROM scratch\n# bad\nARG foo=baz bar=qux\n", [("InvalidDefinitionDescription", 4)]),
    (_DESCRIBE + "FROM scratch\n# bad\n\nARG foo\n", [("InvalidDefinitionDescription", 5)]),
    ("FROM trigger\nCOPY $late .\n", [("WorkdirRelativePath", 1)]),
    ("FROM trigger\nCOPY $late .\nFROM scratch\n", [("UndefinedVar", 2)]),
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
    "FROM alpine\nRUN true \\\n",
    'FROM scratch\nSHELL ["/usr/bin/customshell"]\nCMD mycommand\n',
    'FROM scratch AS base\nSHELL ["/usr/bin/customshell"]\nFROM base\nENTRYPOINT mycommand\n',
    "FROM shelly\nCMD mycommand\n",
    "ARG base=scratch\nFROM $base\n",
    "FROM --platform=$BUILDPLATFORM scratch\n",
    "ARG DEBUG\nFROM scra${DEBUG:-tch}\n",
    'ARG DEBUG=""\nFROM scratch${DEBUG-@bogus}\n',
    "FROM scratch AS a\nWORKDIR /app\nFROM a AS b\nWORKDIR subdir/\n",
    "FROM scratch\nARG foo\nCOPY Dockerfile${foo} .\n",
    "FROM alpine AS base\nARG foo=Dockerfile\nFROM base\nCOPY $foo .\n",
    "FROM alpine\nRUN echo $PATH $anything\nENV PATH=$PATH:/x\n",
    "FROM java\nCOPY a $JAVA_HOME/\n",
    "FROM absent\nCOPY a $JAVA_HOME/\n",
    "FROM scratch\nARG TARGETARCH\nCOPY a-$TARGETARCH .\n",
    "FROM scratch\nCOPY a ${where:-/x}\nARG where\n".replace("${where:-/x}", "/x"),
    "FROM --platform=linux/amd64 scratch AS my_amd64_stage\n",
    "FROM --platform=linux/amd64 scratch AS linux\n",
    'ARG VERSION="latest"\nFROM busybox:${VERSION}\n',
    "FROM scratch\nEXPOSE 80/tcp 8000-8010/udp 443\n",
    "FROM --platform=linux/arm64 arm AS arm64\n",
    "# check=skip=all;experimental=InvalidDefinitionDescription\n# foo this is the foo\nARG foo=bar\n\n"
    "# base this is the base image\nFROM scratch AS base\n# baz is it\nARG foo=baz bar=qux baz=quux\n#\nARG bit\n"
    "# for something else\nCOPY Dockerfile .\n",
    "# whatever\nARG foo\nFROM scratch\n",
    "FROM scratch\n# check=skip=JSONArgsRecommended\nCMD mycommand\n",
    "FROM scratch\n# check=skip=SecretsUsedInArgOrEnv // allowed\nENV password=bar\n",
    "FROM scratch\n# check=skip=all // here alone\nARG password\n",
    "FROM scratch\n# check=skip=WorkdirRelativePath\nWORKDIR app/\n",
    "# check=skip=all\n\nFROM scratch as base\ncopy a b\n",
    "# note\n# check=skip=RedundantTargetPlatform\nFROM --platform=$TARGETPLATFORM scratch\n",
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_a_bad_dockerfile_is_found_at_its_line(text: str, expected: list[tuple[str, int]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize("text", GOOD)
def test_a_good_dockerfile_has_no_findings(text: str) -> None:
    assert found(text) == []


IGNORED = [
    ("FROM scratch\nCOPY Dockerfile .\nADD Dockerfile /windy\n", "Dockerfile\n", [2, 3]),
    ("FROM scratch\nCOPY ./a/../Dockerfile .\n", "Dockerfile\n", [2]),
    ("FROM scratch\nCOPY build/x.txt .\n", "build\n", [2]),
    ("FROM scratch\nCOPY . .\n", "*\n", [2]),
    ("FROM scratch\nCOPY . .\n", ".*\n", []),
    ("FROM scratch\nCOPY ./Dockerfile .\n", "**\n!Dockerfile\n", []),
    ("FROM scratch AS base\nCOPY D /foobar\nFROM base\nCOPY --from=base /foobar /D\n", "foobar\n", []),
    ("FROM scratch\nADD https://example.com/x.txt /\n", "**\n", []),
    ("FROM scratch\nCOPY <<E /x\na\nE\n", "**\n", []),
]


@pytest.mark.parametrize(("text", "ignore", "lines"), IGNORED)
def test_a_copied_file_that_the_ignore_file_leaves_out_is_found(
    text: str, ignore: str, lines: list[int]
) -> None:
    assert found(text, ignore) == [("CopyIgnoredFile", line) for line in lines]


def test_every_rule_has_a_bad_example() -> None:
    shown = {name for _, expected in BAD for name, _ in expected} | {"CopyIgnoredFile"}
    assert {value.name for value in vars(catalog).values() if isinstance(value, Rule)} == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "FROM alpine\nARG DIR_ASSETS=assets/\nCOPY $DIR_ASSET .\n",
            "Usage of undefined variable '$DIR_ASSET' (did you mean $DIR_ASSETS?)",
        ),
        ("FROM alpine\nENV PATH=$PAHT:/x\n", "Usage of undefined variable '$PAHT' (did you mean $PATH?)"),
        (
            "FROM --platform=$BULIDPLATFORM scratch\n",
            "FROM argument 'BULIDPLATFORM' is not declared (did you mean BUILDPLATFORM?)",
        ),
        (
            "FROM scratch\nWORKDIR app/\n",
            'Relative workdir "app/" can have unexpected results if the base image changes',
        ),
        (
            "FROM arm\n",
            'Base image arm was pulled with platform "linux/arm64/v8", expected "linux/amd64" for current build',
        ),
    ],
)
def test_messages_are_buildkits(text: str, message: str) -> None:
    assert messages(text) == [message]


def test_a_named_context_takes_the_place_of_a_stage_or_of_an_image() -> None:
    text = "FROM plain AS one\nCOPY $ANY /\nFROM one\nCOPY $JAVA_HOME /\n"

    def found_with(contexts: dict[str, str]) -> list[int]:
        def find(name: str, _platform: str) -> ImageConfig | None:
            return _BASES.get(name, _BARE)

        subject = Subject(
            Dockerfile(()), contexts=contexts, find_base=replaceable(find, contexts), practice=False
        )
        return [item.first for item in check_text(text.encode(), subject).findings]

    assert found_with({}) == [2, 4]
    assert found_with({"plain": "docker-image://java"}) == [2]
    assert found_with({"plain": "../directory"}) == []
    assert found_with({"one": "docker-image://java"}) == []


def test_build_arguments_count_as_in_a_build() -> None:
    text = "ARG VERSION\nFROM busybox:$VERSION\n"
    assert found(text, VERSION="latest") == [("InvalidDefaultArgInFrom", 2)]
    assert found('ARG V=""\nFROM busybox:stable${V}\n', V="-musl") == []


def test_a_check_without_a_target_covers_all_stages_and_one_with_it_those_it_needs() -> None:
    text = "FROM scratch AS a\nFROM a AS b\nENV k v\nFROM a AS c\n"
    assert found(text) == [("LegacyKeyValueFormat", 3)]
    assert found(text, target="c") == []
    assert found(text, target="b") == [("LegacyKeyValueFormat", 3)]


def test_rules_are_skipped_by_name_and_altogether() -> None:
    text = "FROM alpine as BASE\n"
    assert found("# check=skip=FromAsCasing\n" + text) == [("StageNameCasing", 2)]
    assert found("# check=skip=FromAsCasing, StageNameCasing\n" + text) == [("StageNameCasing", 2)]
    assert found("#check=skip=FromAsCasing,StageNameCasing;error=true\n" + text) == []
    assert found(text, BUILDKIT_DOCKERFILE_CHECK="skip=all") == []
    assert found("# check=skip=all\n" + text, BUILDKIT_DOCKERFILE_CHECK="skip=FromAsCasing") == [
        ("StageNameCasing", 2)
    ]


def test_error_true_names_the_rules_that_found_something() -> None:
    report = reported("# check=error=true\nFROM alpine as BASE\n")
    assert report.violation == "lint violation found for rules: StageNameCasing, FromAsCasing"
    assert reported("# check=error=true\nFROM alpine\n").violation == ""
    assert reported("FROM alpine as BASE\n").violation == ""


def test_what_stands_above_a_mistake_is_told_with_it() -> None:
    report = reported("FROM scratch AS BadStageName\nMAINTAINER me@example.org\nBADCMD\n")
    assert [(item.rule.name, item.first) for item in report.findings] == [
        ("StageNameCasing", 1),
        ("MaintainerDeprecated", 2),
    ]
    assert report.mistake is not None
    assert report.mistake.message.startswith("dockerfile parse error on line 3: unknown instruction: BADCMD")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM scratch\nCOPY a\n", "COPY requires at least two arguments"),
        ("FROM scratch\nSTOPSIGNAL nonsense\n", "Invalid signal: nonsense"),
        ("FROM scratch\nCOPY --from=9 a b\n", "invalid stage index 9"),
        ("# check=nonsense\nFROM scratch\n", "failed to parse check options"),
    ],
)
def test_what_would_end_a_build_is_reported(text: str, words: str) -> None:
    mistake = reported(text).mistake
    assert mistake is not None
    assert words in mistake.message


@pytest.mark.parametrize("text", ["nonsense", "unknown=1", "error=maybe"])
def test_wrong_options_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_options(text)


def test_names_are_near_when_fewer_than_three_letters_differ() -> None:
    assert distance("kitten", "sitting") == 3
    assert nearest("PAHT", ["HOME", "PATH"]) == "PATH"
    assert nearest("PATH", ["PATHS", "PATH"]) == ""
    assert nearest("other", ["PATH"]) == ""


_LINE = st.sampled_from(
    [line for text, _ in BAD for line in text.splitlines()] + ["ENV", "LABEL", "FROM a b c", "\\", "<<E", ""]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(_LINE, st.text(max_size=20)), max_size=8))
def test_rules_never_raise(lines: list[str]) -> None:
    text = "\n".join(lines).encode("utf-8", "replace").decode()
    assert isinstance(reported(text, "*.txt\n"), Report)
