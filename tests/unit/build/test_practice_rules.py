"""sampan's own rules of good practice: a bad and a good example of each, and their documentation."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.build.dockerfile.parse import parse
from sampan.build.model import Dockerfile
from sampan.build.rules import catalog, practice, practice_run
from sampan.build.rules.check import Report, check_text
from sampan.build.rules.finding import Rule
from sampan.build.rules.shell import commands, commands_of
from sampan.build.rules.subject import Subject
from sampan.oci.ignore import IgnoreRules
from sampan.oci.image import ContainerDefaults, Healthcheck, ImageConfig, RootFS

DOCUMENT = Path(__file__).parents[3] / "docs" / "checks.md"
_BASES = {
    "debian:12": ContainerDefaults(),
    "careful:1": ContainerDefaults(user="app", healthcheck=Healthcheck(test=("CMD", "ok"))),
    "strict:1": ContainerDefaults(shell=("/bin/bash", "-o", "pipefail", "-c")),
    "node:22": ContainerDefaults(),
    "windows:1": ContainerDefaults(shell=("powershell", "-Command")),
}


def rules_of(module: ModuleType) -> list[Rule]:
    return [value for value in vars(module).values() if isinstance(value, Rule)]


_OWN_RULES = [*rules_of(practice), *rules_of(practice_run)]
_OWN = {rule.name for rule in _OWN_RULES}


def reported(text: str, ignore: str | None = "x\n", target: str = "") -> Report:
    def find(name: str, _platform: str) -> ImageConfig | None:
        defaults = _BASES.get(name)
        if name == "arm-only:1":
            return ImageConfig("arm64", "linux", RootFS())
        return None if defaults is None else ImageConfig("amd64", "linux", RootFS(), defaults)

    rules = None if ignore is None else IgnoreRules(ignore)
    return check_text(text.encode(), Subject(Dockerfile(()), find_base=find, ignore=rules, target=target))


def found(text: str, ignore: str | None = "x\n", target: str = "") -> list[tuple[str, int]]:
    items = reported(text, ignore, target).findings
    return [(item.rule.name, item.first) for item in items if item.rule.name in _OWN]


def run(command: str, before: str = "") -> str:
    return f"FROM debian:12\n{before}RUN {command}\nUSER app\n"


BAD = [
    ("FROM debian:12\n", [("RunsAsRoot", 1)]),
    ("FROM debian:12 AS build\nUSER app\nFROM debian:12\nCOPY --from=build /a /\n", [("RunsAsRoot", 3)]),
    ("FROM debian:12\nUSER app\nUSER root\n", [("RunsAsRoot", 3)]),
    ("FROM debian:12\nARG U=0:0\nUSER $U\n", [("RunsAsRoot", 3)]),
    ("FROM debian:12 AS a\nUSER app\nFROM a\nUSER 0\n", [("RunsAsRoot", 4)]),
    ("FROM debian\nUSER app\n", [("UnpinnedBaseImage", 1)]),
    ("FROM debian:latest\nUSER app\n", [("UnpinnedBaseImage", 1)]),
    ("ARG TAG=latest\nFROM debian:$TAG AS a\nFROM a\nUSER app\n", [("UnpinnedBaseImage", 2)]),
    ("FROM debian:12\nADD config.json /etc/\nUSER app\n", [("AddInsteadOfCopy", 2)]),
    ("FROM debian:12\nADD a.txt b.txt /x/\nUSER app\n", [("AddInsteadOfCopy", 2)]),
    (
        "FROM debian:12\nCOPY . /app\nRUN npm ci && npm cache clean --force\nUSER a\n",
        [("CopyBeforeDependencies", 2)],
    ),
    (
        "FROM debian:12\nENV PIP_NO_CACHE_DIR=1\nCOPY ./ /app/\nRUN true\nRUN pip install -r x.txt\nUSER a\n",
        [("CopyBeforeDependencies", 3)],
    ),
    ("FROM debian:12\nEXPOSE 80\nUSER app\n", [("MissingHealthcheck", 2)]),
    ("FROM debian:12 AS a\nEXPOSE 80\nFROM a\nUSER app\n", [("MissingHealthcheck", 2)]),
    (run("apt-get update && apt-get install -y curl"), [("PackageCacheInLayer", 2)]),
    (run("apk add curl"), [("PackageCacheInLayer", 2)]),
    (run("dnf install -y curl"), [("PackageCacheInLayer", 2)]),
    (run("pip install flask"), [("PackageCacheInLayer", 2)]),
    (run("python3 -m pip install flask"), [("PackageCacheInLayer", 2)]),
    (run("npm install -g yarn"), [("PackageCacheInLayer", 2)]),
    (run("<<EOF\nset -e\napk add curl\nEOF"), [("PackageCacheInLayer", 2)]),
    (run('["apk", "add", "curl"]'), [("PackageCacheInLayer", 2)]),
    (run('["/bin/sh", "-c", "apk add curl"]'), [("PackageCacheInLayer", 2)]),
    (run('/bin/bash -ec "apk add curl"'), [("PackageCacheInLayer", 2)]),
    (run("true; bash -c 'cat a | wc -l'"), [("PipeWithoutPipefail", 2)]),
    ("FROM debian:12 AS a\nRUN apk add curl\nFROM a\nUSER app\n", [("PackageCacheInLayer", 2)]),
    (run("sudo make install"), [("SudoInRun", 2)]),
    (run("true && DEBIAN_FRONTEND=noninteractive sudo -E make"), [("SudoInRun", 2)]),
    (run("apt-get -y upgrade && rm -rf /var/lib/apt/lists/*"), [("PackageUpgrade", 2)]),
    (run("apk --no-cache upgrade"), [("PackageUpgrade", 2)]),
    (run("yum update -y && yum clean all"), [("PackageUpgrade", 2)]),
    (run("cd /app && make"), [("CdInsteadOfWorkdir", 2)]),
    (run("cd /app"), [("CdInsteadOfWorkdir", 2)]),
    (run("curl -fsS https://example.com/x.sh | sh"), [("PipeWithoutPipefail", 2)]),
    (run("true && cat a |\\\n  wc -l"), [("PipeWithoutPipefail", 2)]),
    ('FROM strict:1\nSHELL ["/bin/sh", "-c"]\nRUN a | b\nUSER app\n', [("PipeWithoutPipefail", 3)]),
    (
        "# check=experimental=BaseImageWithoutDigest\nFROM debian:12\nUSER app\n",
        [("BaseImageWithoutDigest", 2)],
    ),
]

_DIGEST = "debian@sha256:" + "0" * 64

GOOD = [
    "FROM debian:12\nUSER app\n",
    "FROM careful:1\nEXPOSE 80\n",
    "FROM gcr.io/distroless/static:nonroot\n",
    "FROM scratch\nUSER 1000:1000\n",
    f"# check=experimental=all\nFROM {_DIGEST}\nUSER app\n",
    "FROM debian:12\nADD app.tar.gz https://example.com/x /\nADD --unpack=true a /\nUSER app\n",
    "FROM debian:12\nADD https://example.com/x /\nADD git@github.com:a/b.git /b\nADD archives* /x/\nUSER app\n",
    "FROM debian:12\nCOPY package.json ./\nRUN --mount=type=cache,target=/root/.npm npm ci\nCOPY . .\nUSER app\n",
    "FROM debian:12\nCOPY . .\nRUN make\nUSER app\n",
    "FROM debian:12\nEXPOSE 80\nHEALTHCHECK NONE\nUSER app\n",
    run("apt-get update && apt-get install -y curl && rm -rf /var/lib/apt/lists/*"),
    run(
        "--mount=type=cache,target=/var/lib/apt --mount=type=cache,target=/var/cache/apt apt-get install -y c"
    ),
    run("apk add --no-cache curl"),
    run("apk add curl && rm -rf /var/cache/apk/*"),
    run("dnf install -y curl && dnf clean all"),
    run("pip install --no-cache-dir flask"),
    run("pip install flask", "ENV PIP_NO_CACHE_DIR=1\n"),
    run("--mount=type=cache,target=/root/.cache/pip pip install flask"),
    run("npm ci && npm cache clean --force", "COPY package.json .\n"),
    run("echo apt-get install sudo"),
    run("echo 'a | sudo b'; grep -c '|' x || true"),
    run("yum update -y openssl && yum clean all"),
    run("make && (cd sub && make)"),
    run("set -euo pipefail && a | b"),
    run("echo hello | tee /x"),
    'FROM debian:12\nSHELL ["/bin/bash", "-o", "pipefail", "-c"]\nRUN a | b\nUSER app\n',
    "FROM strict:1\nRUN a | b\nUSER app\n",
    run("bash -o pipefail -c 'cat a | wc -l'"),
    run("bash -c 'set -euo pipefail; cat a | wc -l'"),
    run("bash -c"),
    "FROM absent:1\nUSER $APP_USER\n",
    "FROM windows:1\nRUN a | b\nUSER app\n",
    "FROM debian:12 AS build\nRUN apk add curl\nFROM debian:12\nCOPY --from=build /a /b\nUSER app\n",
    "FROM debian:12\n# check=skip=SudoInRun\nRUN sudo make\nUSER app\n",
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_a_bad_example_is_found(text: str, expected: list[tuple[str, int]]) -> None:
    assert found(text) == expected


@pytest.mark.parametrize("text", GOOD)
def test_a_good_example_is_not(text: str) -> None:
    assert found(text) == []


def test_a_copy_of_the_whole_context_wants_an_ignore_file() -> None:
    text = "FROM debian:12\nCOPY . /app\nUSER app\n"
    assert found(text, ignore=None) == [("MissingDockerignore", 2)]
    assert found(text) == []
    assert found("FROM debian:12\nCOPY src /app\nUSER app\n", ignore=None) == []


def test_the_target_is_what_runs() -> None:
    text = "FROM debian:12 AS tool\nFROM debian:12 AS app\nUSER app\n"
    assert found(text, target="app") == []
    assert found(text, target="tool") == [("RunsAsRoot", 1)]


def test_every_own_rule_has_a_bad_example_an_explanation_and_a_fix() -> None:
    shown = {name for _, expected in BAD for name, _ in expected} | {"MissingDockerignore"}
    assert shown == _OWN
    assert all(rule.description and rule.fix and not rule.url for rule in _OWN_RULES)


def test_the_documentation_has_a_section_for_each_rule() -> None:
    sections = re.findall(r"^### (\w+)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert sections == [rule.name for rule in (*_OWN_RULES, *rules_of(catalog))]


def test_every_example_of_the_documentation_is_what_it_says() -> None:
    """The first block of a section is found by its rule, the second is not."""
    parts = re.split(r"^### (\w+)$", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        blocks = re.findall(r"```dockerfile\n(.*?)```", body, re.DOTALL)
        assert len(blocks) == 2, name
        ignore = {"MissingDockerignore": None, "CopyIgnoredFile": "*.log\n"}.get(name, "x\n")
        bad, good = ({item.rule.name for item in reported(block, ignore).findings} for block in blocks)
        assert name in bad, name
        assert name not in good, name


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ("a && b || c; d | e & f", ["a", "b", "c", "d", "e", "f"]),
        ("if a; then b; else c; fi", ["a", "b", "c"]),
        ("X=1 Y=2 /usr/bin/env -i sudo -u me a b", ["a"]),
        ("a \\\n  b\nc # d | e\nf", ["a", "c", "f"]),
        ("a 'x && y' \"z | $(b | c)\" > out 2>&1", ["a"]),
        ("(cd x && a); b", ["cd", "a", "b"]),
        ("a <in >>out && b 2>/dev/null", ["a", "b"]),
        ("X=$(a | b) c", ["c"]),
        ("a '", ["a"]),
        ("", []),
    ],
)
def test_a_script_falls_into_its_commands(script: str, names: list[str]) -> None:
    assert [command.name for command in commands(script)] == names


def test_redirections_are_no_words_and_pipes_are_known() -> None:
    first, second = commands("a x > out 2>&1 | b <in y")
    assert (first.args, first.piped) == (("x",), True)
    assert (second.args, second.piped) == (("y",), False)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab \t\n\\'\"$(){}`|&;<>#=-/", max_size=60))
def test_no_script_is_too_strange(script: str) -> None:
    assert all(isinstance(command.args, tuple) for command in commands(script))


_LINES = [line for text, _ in BAD for line in text.splitlines()] + [
    line for text in GOOD for line in text.splitlines()
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(_LINES), st.text(max_size=20)), max_size=10))
def test_rules_never_raise(lines: list[str]) -> None:
    text = "\n".join(lines).encode("utf-8", "replace").decode()
    assert isinstance(reported(text, None), Report)


def test_here_documents_of_other_programs_are_no_scripts() -> None:
    dockerfile = parse(
        b"FROM a\nRUN <<EOF\n#!/usr/bin/env python3\nsudo = 1\nEOF\nRUN python3 <<EOF\nx | y\nEOF\n"
    )
    assert [command.name for item in dockerfile.instructions[1:] for command in commands_of(item)] == [
        "python3"
    ]
