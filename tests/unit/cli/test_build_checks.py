"""How findings are printed: the expected texts are those of `docker build --check` (Docker 28.5, buildx 0.29)."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from sampan.cli.build.calls import Call, Question, ask, parse_call
from sampan.cli.build.checks import as_sarif, as_text, excerpt, mistake, summary
from sampan.cli.failure import Failure

DOCKERFILE = "FROM scratch as Base\nENV a b\nCOPY . .\nWORKDIR x\n\nCMD foo\nRUN [\n"

AS_DOCKER = """
WARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/
Stage name 'Base' should be lowercase
Dockerfile:1
--------------------
   1 | >>> FROM scratch as Base
   2 |     ENV a b
   3 |     COPY . .
--------------------

WARNING: WorkdirRelativePath - https://docs.docker.com/go/dockerfile/rule/workdir-relative-path/
Relative workdir "x" can have unexpected results if the base image changes
Dockerfile:4
--------------------
   2 |     ENV a b
   3 |     COPY . .
   4 | >>> WORKDIR x
   5 |     
   6 |     CMD foo
--------------------"""  # noqa: W291


def warning(name: str, slug: str, detail: str, line: int, **more: str) -> dict[str, Any]:
    url = {"url": f"https://docs.docker.com/go/dockerfile/rule/{slug}/"} if slug else {}
    place = {"ranges": [{"start": {"line": line}, "end": {"line": line}}]}
    return {"ruleName": name, **url, "detail": detail, "location": place, **more}


def result(*warnings: dict[str, Any], **more: Any) -> dict[str, Any]:
    data = base64.b64encode(DOCKERFILE.encode()).decode()
    return {"warnings": list(warnings), "sources": [{"filename": "Dockerfile", "data": data}], **more}


CASING = warning("StageNameCasing", "stage-name-casing", "Stage name 'Base' should be lowercase", 1)
WORKDIR = warning(
    "WorkdirRelativePath",
    "workdir-relative-path",
    'Relative workdir "x" can have unexpected results if the base image changes',
    4,
)


def test_findings_are_printed_as_docker_prints_them() -> None:
    assert as_text(result(CASING, WORKDIR), "Dockerfile") == AS_DOCKER


def test_the_summary_counts() -> None:
    assert summary(result()) == "Check complete, no warnings found."
    assert summary(result(CASING)) == "Check complete, 1 warning has been found!"
    assert summary(result(CASING, WORKDIR)) == "Check complete, 2 warnings have been found!"


def test_a_rule_without_a_page_tells_its_fix() -> None:
    text = as_text(result(warning("RunsAsRoot", "", "It runs as root", 6, fix="Add USER.")), "Dockerfile")
    assert text.splitlines()[1:4] == ["WARNING: RunsAsRoot", "It runs as root", "Fix: Add USER."]


def test_a_mistake_comes_with_its_lines() -> None:
    place = {"ranges": [{"start": {"line": 2}, "end": {"line": 2}}]}
    error = {"message": "dockerfile parse error on line 2: unknown instruction: BADCMD", "location": place}
    assert mistake(result(buildError=error), "b/D.file").splitlines()[:4] == [
        "dockerfile parse error on line 2: unknown instruction: BADCMD",
        "b/D.file:2",
        "--------------------",
        "   1 |     FROM scratch as Base",
    ]
    assert mistake(result(), "b/D.file") == ""


def test_escape_sequences_of_a_dockerfile_do_not_reach_the_terminal() -> None:
    assert excerpt(["RUN \x1b[2J"], [(1, 1)], "D")[2] == "   1 | >>> RUN ?[2J"


def test_a_place_outside_of_the_file_shows_nothing() -> None:
    assert excerpt(["a"], [(9, 9)], "D") == []
    assert excerpt(["a"], [], "D") == []


def test_sarif_names_rules_once_and_places_by_line() -> None:
    again = warning("StageNameCasing", "stage-name-casing", "Stage name 'B' should be lowercase", 3)
    place = {"ranges": [{"start": {"line": 2}, "end": {"line": 5}}]}
    error = {"message": "no", "location": place}
    sarif = as_sarif(result(CASING, WORKDIR, again, buildError=error), "my app/Dockerfile", "1.2")
    run = sarif["runs"][0]
    assert sarif["version"] == "2.1.0"
    assert run["tool"]["driver"]["version"] == "1.2"
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == ["StageNameCasing", "WorkdirRelativePath", "InvalidDockerfile"]
    assert [(each["ruleId"], each["level"]) for each in run["results"]] == [
        ("StageNameCasing", "warning"),
        ("WorkdirRelativePath", "warning"),
        ("StageNameCasing", "warning"),
        ("InvalidDockerfile", "error"),
    ]
    assert all(rules[each["ruleIndex"]] == each["ruleId"] for each in run["results"])
    last = run["results"][-1]["locations"][0]["physicalLocation"]
    assert last == {
        "artifactLocation": {"uri": "my%20app/Dockerfile"},
        "region": {"startLine": 2, "endLine": 5},
    }


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("", Call("build")),
        ("check", Call("check")),
        ("lint", Call("lint")),
        ("check,format=json", Call("check", "json")),
        ("outline,format=json,ignorestatus=true", Call("outline", "json", ignore_status=True)),
    ],
)
def test_a_call_is_read_as_buildx_reads_it(text: str, call: Call) -> None:
    assert parse_call(text) == call


@pytest.mark.parametrize("text", ["check,outline", "check,x=1", "check,ignorestatus=perhaps"])
def test_a_wrong_call_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="invalid"):
        parse_call(text)


class _OtherEngine:
    """A dockerd: it would build what it is sent."""

    def is_sampan(self) -> bool:
        return False

    def request(self, method: str, path: str, *_: object) -> Any:
        raise AssertionError(f"{method} {path}")


def test_an_engine_that_would_build_instead_is_not_asked() -> None:
    client = _OtherEngine()
    with pytest.raises(Failure, match="--check needs sampan's engine"):
        ask(client, Call("check"), Question(iter(()), "Dockerfile", "Dockerfile"), {}, {})  # type: ignore[arg-type]
