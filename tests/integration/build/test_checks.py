"""`build --check` through the engine: what is printed, what is answered, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import Sampan

pytestmark = pytest.mark.root


def test_a_check_prints_findings_and_builds_nothing(sampan: Sampan, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch as base\nCOPY secret.txt /\nUSER 1000\n")
    (tmp_path / ".dockerignore").write_text("*.txt\n")
    images = sampan.ok("image", "ls", "-aq")
    done = sampan.run("build", "--check", str(tmp_path))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "Check complete, 2 warnings have been found!"
    assert "WARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/" in lines
    assert 'Attempting to Copy file "secret.txt" that is excluded by .dockerignore' in lines
    assert f"{tmp_path}/Dockerfile:2" in lines
    assert sampan.ok("image", "ls", "-aq") == images


def test_a_clean_dockerfile_ends_with_0(sampan: Sampan, tmp_path: Path) -> None:
    (tmp_path / "Other").write_text("FROM scratch\nUSER 1000\n")
    done = sampan.run("build", "--call", "check", "-f", str(tmp_path / "Other"), str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "Check complete, no warnings found.\n")


def test_results_come_as_json_and_sarif(sampan: Sampan, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch as base\nUSER 1000\n")
    done = sampan.run("build", "--call", "check,format=json,ignorestatus=true", str(tmp_path))
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert [item["ruleName"] for item in found["warnings"]] == ["FromAsCasing"]
    assert found["warnings"][0]["location"]["ranges"] == [{"start": {"line": 1}, "end": {"line": 1}}]
    done = sampan.run("build", "--check", "--format", "sarif", str(tmp_path))
    assert done.returncode == 1
    assert json.loads(done.stdout)["runs"][0]["results"][0]["ruleId"] == "FromAsCasing"


def test_build_arguments_choose_the_rules(sampan: Sampan, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch as base\nUSER 1000\n")
    argument = "BUILDKIT_DOCKERFILE_CHECK=skip=FromAsCasing"
    assert sampan.run("build", "--check", "--build-arg", argument, str(tmp_path)).returncode == 0


def test_a_dockerfile_that_cannot_be_built_is_told_with_its_line(sampan: Sampan, tmp_path: Path) -> None:
    text = b"FROM scratch as base\nBADCMD x\n"
    done = sampan.run("build", "--check", "-f", "-", str(tmp_path), stdin=text)
    assert done.returncode == 1
    assert "WARNING: FromAsCasing" in done.stdout
    assert "unknown instruction: BADCMD" in done.stderr
    assert "   2 | >>> BADCMD x" in done.stderr


def test_outline_and_targets_are_printed(sampan: Sampan, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("# one the first\nFROM scratch AS one\nARG A=1\nFROM one\n")
    outline = sampan.run("build", "--call", "outline", str(tmp_path))
    assert (outline.returncode, outline.stdout) == (
        0,
        "BUILD ARG   VALUE   DESCRIPTION\nA           1       \n\n",
    )
    listed = sampan.run("build", "--call", "targets", str(tmp_path))
    assert listed.stdout == "TARGET    DESCRIPTION\none       the first\n(default) \n"
    found = json.loads(sampan.ok("build", "--call", "targets,format=json", str(tmp_path)))
    assert found["targets"][0]["description"] == "the first"
    assert sampan.run("build", "--call", "nonsense", str(tmp_path)).returncode == 1
