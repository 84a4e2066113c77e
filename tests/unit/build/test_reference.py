"""Parser and word processing against BuildKit's own test files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sampan.build.dockerfile.expand import expand, process
from sampan.build.dockerfile.parse import parse
from sampan.build.errors import DockerfileError
from sampan.build.model import Instruction
from sampan.errors import Invalid

REFERENCE = Path(__file__).parents[3].parent / "shared" / "reference" / "dockerfile"
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"{REFERENCE} is absent")


def _cases(folder: str) -> list[str]:
    return sorted(path.name for path in (REFERENCE / folder).iterdir()) if REFERENCE.is_dir() else []


def _quote(text: str) -> str:
    """Go's %q for what the files contain."""
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted.replace("\\u0000", "\\x00")


def _dump(instruction: Instruction) -> str:
    flags = " [" + " ".join(_quote(flag) for flag in instruction.flags) + "]" if instruction.flags else ""
    words = "".join(" " + _quote(arg) for arg in instruction.args)
    return f"({instruction.keyword.lower()}{flags}{words})"


@pytest.mark.parametrize("name", _cases("testfiles"))
def test_the_syntax_tree_is_buildkits(name: str) -> None:
    folder = REFERENCE / "testfiles" / name
    parsed = parse((folder / "Dockerfile").read_bytes())
    assert [_dump(item) for item in parsed.instructions] == (folder / "result").read_text().strip().split(
        "\n"
    )


@pytest.mark.parametrize("name", _cases("testfiles-negative"))
def test_what_buildkit_refuses_is_refused_with_a_place(name: str) -> None:
    raw = (REFERENCE / "testfiles-negative" / name / "Dockerfile").read_bytes()
    with pytest.raises(DockerfileError) as caught:
        parse(raw)
    assert caught.value.line >= 1


def _table(name: str) -> list[str]:
    if not REFERENCE.is_dir():
        return []
    lines = (REFERENCE / name).read_text().splitlines()
    # Lines that begin with W are about Windows.
    return [line for line in lines if line.strip() and not line.startswith(("#", "W"))]


@pytest.mark.parametrize("line", _table("envVarTest.txt"))
def test_variables_are_expanded_as_by_docker(line: str) -> None:
    platform, word, expected = (part.strip() for part in line.split("|"))
    assert platform in ("A", "U")
    env = {"PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": ""}
    if expected == "error":
        with pytest.raises(Invalid):
            expand(word, env)
    else:
        assert expand(word, env) == expected


def test_words_are_cut_as_by_docker() -> None:
    env: dict[str, str] = {}
    lines = (REFERENCE / "wordsTest.txt").read_text().splitlines()
    checked = 0
    for line in lines:
        if line.startswith("#") or not line.strip():
            continue
        if line.startswith("ENV "):
            name, _, value = line.removeprefix("ENV ").lstrip().partition("=")
            env[name] = value
            continue
        text, expected = line.split("|")
        checked += 1
        # Only leading blanks: trailing ones are part of the expected words.
        words = expected.lstrip().split(",")
        if words == ["error"]:
            with pytest.raises(Invalid):
                process(text.strip(), env)
        else:
            assert process(text.strip(), env).words == words, line
    assert checked == 24
