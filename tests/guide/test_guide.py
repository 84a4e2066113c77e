"""The deployment guide's Dockerfiles, built and run as they stand there on the stand-in base images.

Takes minutes and downloads packages: run by `make guide`, not by `make test`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.testing.engine import EngineProcess

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

PROJECT = Path(__file__).resolve().parents[2]
GUIDE = PROJECT.parent / "shared" / "reference" / "deployment-guide.ko.md"
STAND_INS = (
    ("python:3.11-slim", "python"),
    ("node:18", "node"),
    ("node:18-alpine", "node-alpine"),
)

PACKAGE = {
    "name": "guide",
    "version": "1.0.0",
    "scripts": {"build": "mkdir -p dist && cp index.js dist/index.js"},
    "dependencies": {"is-number": "7.0.0"},
}
LOCK = {
    "name": "guide",
    "version": "1.0.0",
    "lockfileVersion": 3,
    "requires": True,
    "packages": {
        "": PACKAGE,
        "node_modules/is-number": {
            "version": "7.0.0",
            "integrity": "sha512-41Cifkg6e8TylSpdtTpeLVMqvSBEVzTttHvERD741"
            "+pnZ8ANv0004MRL43QKPDlK9cGvNp6NZWZUBlbGXYxxng==",
        },
    },
}
NODE_PROGRAM = "console.log('node', require('is-number')(3), process.env.NODE_ENV)\n"


def dockerfiles() -> list[str]:
    if not GUIDE.exists():
        return []
    return re.findall(r"```dockerfile\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def block(*words: str) -> str:
    """The guide's Dockerfile that has all of these words."""
    found = [text for text in dockerfiles() if all(word in text for word in words)]
    if not found:
        pytest.skip("the guide is not beside this checkout")
    return found[0]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path_factory.mktemp("guide") / "engine") as started:
        started.cli("image", "bootstrap", "debian:bookworm-slim", timeout=600)
        for name, directory in STAND_INS:
            started.cli(
                "build",
                "--host-ca",
                "-t",
                name,
                str(PROJECT / "examples" / "images" / directory),
                timeout=600,
            )
        yield started


def node_context(directory: Path, dockerfile: str) -> Path:
    (directory / "Dockerfile").write_text(dockerfile, encoding="utf-8")
    (directory / "package.json").write_text(json.dumps(PACKAGE))
    (directory / "package-lock.json").write_text(json.dumps(LOCK))
    (directory / "index.js").write_text(NODE_PROGRAM)
    (directory / ".dockerignore").write_text("node_modules\nnpm-debug.log\n.git\n.gitignore\n.env\n*.md\n")
    (directory / "README.md").write_text("not for the image\n")
    (directory / ".env").write_text("SECRET=1\n")
    return directory


def test_the_node_example_builds_and_runs_without_what_dockerignore_names(
    engine: EngineProcess, tmp_path: Path
) -> None:
    context = node_context(tmp_path, block("FROM node:18-alpine", "index.js", "--only=production"))
    engine.cli("build", "--host-ca", "-t", "my-app:latest", str(context), timeout=300)
    assert (
        engine.cli("run", "--rm", "-e", "NODE_ENV=production", "my-app:latest").stdout
        == "node true production\n"
    )
    files = engine.cli("run", "--rm", "my-app:latest", "ls", "-A").stdout.split()
    assert "index.js" in files
    assert not {"README.md", ".env"} & set(files)


def test_the_python_example_builds_and_runs(engine: EngineProcess, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(block("FROM python:3.11-slim"), encoding="utf-8")
    (tmp_path / "requirements.txt").write_text("six==1.16.0\n")
    (tmp_path / "app.py").write_text("import six, sys\nprint(six.__version__, sys.version_info[:2])\n")
    engine.cli("build", "--host-ca", "-t", "my-app:v1.0.0", str(tmp_path), timeout=300)
    assert engine.cli("run", "--rm", "my-app:v1.0.0").stdout == "1.16.0 (3, 11)\n"
    assert "8000/tcp" in engine.cli("inspect", "my-app:v1.0.0").stdout


def test_the_multi_stage_example_leaves_the_sources_behind(engine: EngineProcess, tmp_path: Path) -> None:
    context = node_context(tmp_path, block("AS builder", "COPY --from=builder", "EXPOSE 3000"))
    engine.cli("build", "--host-ca", "-t", "my-app:multi", str(context), timeout=300)
    assert engine.cli("run", "--rm", "my-app:multi").stdout.startswith("node true")
    files = engine.cli("run", "--rm", "my-app:multi", "ls").stdout.split()
    assert "dist" in files
    assert "index.js" not in files


def test_the_example_of_a_user_other_than_root_works(engine: EngineProcess, tmp_path: Path) -> None:
    fragment = block("addgroup -g 1001 -S nodejs", "USER nextjs")
    (tmp_path / "Dockerfile").write_text(
        "FROM node:18-alpine\n" + fragment + 'CMD ["id"]\n', encoding="utf-8"
    )
    engine.cli("build", "-t", "my-app:user", str(tmp_path))
    shown = engine.cli("run", "--rm", "my-app:user").stdout
    assert shown.startswith("uid=1001(nextjs)")
    groups = engine.cli("run", "--rm", "my-app:user", "cat", "/etc/group").stdout
    assert "nodejs:x:1001:" in groups
