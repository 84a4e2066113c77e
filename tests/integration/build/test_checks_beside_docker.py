"""BuildKit's checks beside ours: the same rules, lines and words over examples and BuildKit's own parser cases.

SAMPAN_NEWEST_DOCKER is the command that runs a docker client with buildx, on an engine that needs no images:
`SAMPAN_NEWEST_DOCKER="docker --context newest"`. Its client must see the same temporary directories.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from sampan.build.model import Dockerfile
from sampan.build.rules.check import check_text
from sampan.build.rules.subject import Subject
from sampan.oci.ignore import IgnoreRules

ROOT = Path(__file__).parents[3]
CASES = ROOT.parent / "shared" / "reference" / "dockerfile" / "testfiles"
COMMAND = shlex.split(os.environ.get("SAMPAN_NEWEST_DOCKER", ""))

pytestmark = pytest.mark.skipif(not COMMAND, reason="SAMPAN_NEWEST_DOCKER names no docker client with buildx")

Finding = tuple[str, int, int, str]


def without_images(text: str) -> str:
    """Every base image becomes scratch: nothing is to be pulled."""
    stages = {
        name.lower() for name in re.findall(r"^\s*FROM\s.*\sAS\s+(\S+)", text, re.MULTILINE | re.IGNORECASE)
    }

    def replaced(match: re.Match[str]) -> str:
        kept = match[2].lower() in stages or "$" in match[2]
        return match[0] if kept else f"{match[1]}scratch"

    return re.sub(
        r"^(\s*FROM\s+(?:--platform=\S+\s+)?)([^\s-]\S*)", replaced, text, flags=re.MULTILINE | re.IGNORECASE
    )


def examples() -> list[str]:
    documented = re.findall(r"```dockerfile\n(.*?)```", (ROOT / "docs" / "checks.md").read_text(), re.DOTALL)
    cases = [path.read_text(errors="replace") for path in sorted(CASES.glob("*/Dockerfile"))]
    # A `syntax` line would make BuildKit pull a front end.
    texts = [re.sub(r"^#\s*syntax\s*=.*$", "#", text, flags=re.MULTILINE) for text in (*documented, *cases)]
    return [without_images(text) for text in texts]


def dockers(text: str, directory: Path) -> set[Finding]:
    (directory / "Dockerfile").write_text(text)
    (directory / ".dockerignore").write_text("*.log\n")
    # In BuildKit up to 0.26 this rule is experimental.
    option = "BUILDKIT_DOCKERFILE_CHECK=experimental=CopyIgnoredFile,InvalidDefinitionDescription"
    command = [*COMMAND, "build", "--call", "check,format=json", "--build-arg", option, str(directory)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    result = json.loads(done.stdout)
    found = set()
    for warning in result["warnings"] or ():
        ranges = warning["location"]["ranges"]
        lines = (ranges[0]["start"]["line"], ranges[-1]["end"]["line"])
        found.add((warning["ruleName"], *lines, warning["detail"]))
    return found


def ours(text: str) -> set[Finding]:
    given: dict[str, str | None] = {
        "BUILDKIT_DOCKERFILE_CHECK": "experimental=CopyIgnoredFile,InvalidDefinitionDescription"
    }
    subject = Subject(Dockerfile(()), build_args=given, ignore=IgnoreRules("*.log\n"), practice=False)
    found = check_text(text.encode(), subject).findings
    return {(item.rule.name, item.first, item.last, item.message) for item in found}


def test_findings_are_those_of_buildkit(tmp_path: Path) -> None:
    texts = examples()
    differences = []
    for text in texts:
        theirs, own = dockers(text, tmp_path), ours(text)
        if theirs != own:
            differences.append((text, sorted(theirs - own), sorted(own - theirs)))
    assert len(texts) >= 60
    assert differences == []
