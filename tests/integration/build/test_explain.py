"""`build --explain` on a real engine: each input that changes is named, compared with the nearest earlier build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

DOCKERFILE = """\
FROM {base} AS app
ARG COLOUR=red
ENV MODE={mode}
COPY src /src
RUN {command}
"""


def _explained(sampan: Any, context: Path, *flags: str, **values: str) -> dict[str, list[str] | None]:
    """Step (without its number) -> why it was not cached, None for one that was."""
    filled = {"base": "explained-base", "mode": "fast", "command": "echo one", **values}
    (context / "Dockerfile").write_text(DOCKERFILE.format(**filled))
    said = sampan.ok("build", "--explain", "--format", "json", *flags, str(context))
    steps = json.loads(said)["steps"]
    return {each["step"].split("] ")[1]: None if each["cached"] else each["reasons"] for each in steps}


def test_every_input_of_a_step_that_changed_is_named(fresh_sampan: Any, tmp_path: Path) -> None:
    sampan = fresh_sampan  # what others have built would be compared with

    def base(content: str) -> None:
        dockerfile = f"FROM busybox\nRUN echo {content} > /base\n".encode()
        sampan.ok("build", "-q", "-t", "explained-base", "-", stdin=dockerfile)

    base("1")
    (tmp_path / "src").mkdir()
    for name in "abc":
        (tmp_path / "src" / name).write_text("1")
    first = _explained(sampan, tmp_path)
    assert first == {
        "COPY src /src": ["no earlier build of this step"],
        "RUN echo one": ["no earlier build of this step"],
    }
    assert set(_explained(sampan, tmp_path).values()) == {None}

    (tmp_path / "src" / "a").write_text("2")
    (tmp_path / "src" / "b").unlink()
    (tmp_path / "src" / "d").write_text("1")
    assert _explained(sampan, tmp_path) == {
        "COPY src /src": ["file changed: src/a", "file removed: src/b", "file added: src/d"],
        "RUN echo one": ["an earlier step changed"],
    }
    assert _explained(sampan, tmp_path, "--build-arg", "COLOUR=hidden") == {
        "COPY src /src": None,
        "RUN echo one": ["argument changed: COLOUR"],
    }
    assert _explained(sampan, tmp_path, mode="slow")["RUN echo one"] == ["environment changed: MODE"]
    assert _explained(sampan, tmp_path, command="echo two")["RUN echo two"] == [
        "instruction changed: was RUN echo one"
    ]
    assert _explained(sampan, tmp_path, "--no-cache")["RUN echo one"] == [
        "the cache is off for this step (--no-cache)"
    ]
    base("2")
    after = _explained(sampan, tmp_path)
    (reason,) = after["COPY src /src"] or ()
    assert reason.startswith("base image changed: explained-base (")
    assert after["RUN echo one"] == [reason]  # the same files are the same layer on another base too

    (tmp_path / "Dockerfile").write_text("FROM busybox AS fails\nRUN echo explained; exit 5\n")
    failed = sampan.run("build", "--explain", "--format", "json", str(tmp_path))
    assert failed.returncode == 5
    (step,) = json.loads(failed.stdout)["steps"]
    assert (step["cached"], step["reasons"]) == (False, ["no earlier build of this step"])

    (tmp_path / "Dockerfile").write_text(DOCKERFILE.format(base="busybox", mode="fast", command="echo one"))
    shown = sampan.run("build", "--explain", "--progress", "plain", "--build-arg", "COLOUR=x", str(tmp_path))
    assert "NOT CACHED: " in shown.stderr
    assert "argument changed: COLOUR\n" in shown.stderr
    assert "hidden" not in shown.stderr
