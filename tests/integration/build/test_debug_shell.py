"""Shells in the state before a failed step: `build debug` and `build --on-error=shell`. Nothing of them stays."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.terminal import SECONDS, on_terminal

pytestmark = pytest.mark.root

DOCKERFILE = """\
FROM busybox
ARG FLAVOUR=mint
RUN mkdir -m 777 /srv && echo kept > /srv/before
ENV WHO=me
WORKDIR /srv
USER 1234:5678
RUN --mount=type=cache,target=/cache --mount=type=bind,target=/bound echo half > /srv/half; exit 9
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    return tmp_path


def _failed(sampan: Any, context: Path) -> str:
    done = sampan.run("build", "--progress", "plain", str(context))
    assert done.returncode == 9
    found = re.search(r"^    sampan build debug ([0-9a-f]+)$", done.stderr, re.MULTILINE)
    assert found is not None, done.stderr
    return found[1]


def _left(sampan: Any) -> list[str]:
    places = (sampan.engine.root / "snapshots", sampan.engine.run_dir / "containers")
    return [str(path) for place in places if place.is_dir() for path in place.iterdir()]


def _nothing_is_left(sampan: Any) -> bool:
    """The engine hears of a client's end by the kernel; there is no event for us."""
    deadline = time.monotonic() + SECONDS
    while _left(sampan) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not _left(sampan)


def test_a_command_runs_on_the_files_the_environment_the_directory_and_the_user_of_the_failed_step(
    sampan: Any, context: Path
) -> None:
    failure = _failed(sampan, context)
    script = "pwd; id -u; id -g; ls; cat before; echo $WHO $FLAVOUR; touch new; test -d /cache; exit 7"
    done = sampan.run("build", "debug", failure, "sh", "-c", script)
    assert done.stdout.split() == ["/srv", "1234", "5678", "before", "kept", "me", "mint"], done.stderr
    assert done.returncode == 7
    # Without an id it is the latest failure; without a command a shell, which reads its input; and each begins anew.
    done = sampan.run("build", "debug", stdin=b"ls\necho to stderr >&2\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "before\n", "to stderr\n")
    assert _left(sampan) == []


def test_also_another_instruction_that_fails_can_be_looked_at(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        'FROM busybox\nWORKDIR /there\nUSER 77\nENV A="b c"\nCOPY --from=busybox /nothing /x\n'
    )
    done = sampan.run("build", "--progress", "plain", str(tmp_path))
    assert "sampan build debug " in done.stderr
    looked = sampan.run("build", "debug", "", "sh", "-c", "pwd; id -u; echo $A")
    assert looked.stdout == "/there\n77\nb c\n"
    # A mistake in the file is found before there is any state.
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPPY a b\n")
    assert "build debug" not in sampan.run("build", "--progress", "plain", str(tmp_path)).stderr


def test_what_cannot_be_debugged_is_refused_with_the_reason(sampan: Any, context: Path) -> None:
    failure = _failed(sampan, context)
    done = sampan.run("build", "debug", failure, "nonsense")
    assert done.returncode == 127
    assert done.stderr == 'exec: "nonsense": executable file not found in $PATH\r\n'
    done = sampan.run("build", "debug", "feedfeed")
    assert done.returncode == 1
    assert "no failed build feedfeed is remembered" in done.stderr
    done = sampan.run("build", "--on-error=shell", str(context))
    assert "needs a terminal" in done.stderr
    sampan.ok("builder", "prune", "-af")
    done = sampan.run("build", "debug", failure, "true")
    assert "its layers have left the build cache\nbuild again" in done.stderr
    assert _left(sampan) == []


def test_a_failed_build_opens_a_shell_on_the_terminal_and_ends_with_the_steps_status(
    sampan: Any, context: Path
) -> None:
    with on_terminal(sampan.engine.environment, "build", "--on-error=shell", str(context)) as terminal:
        terminal.read_until(b"Not mounted here: bind /bound\r\n")
        terminal.read_until(b"thrown away at the end")
        terminal.read_until(b"$ ")
        terminal.type("stty size; ls; echo $((40 + 2)) $WHO\n")
        terminal.read_until(b"42 me")
        terminal.type("exit 3\n")
        assert terminal.finish() == 9
    assert _left(sampan) == []


def test_a_shell_whose_client_is_killed_leaves_nothing(sampan: Any, context: Path) -> None:
    _failed(sampan, context)
    with on_terminal(sampan.engine.environment, "build", "debug") as terminal:
        terminal.read_until(b"$ ")
        terminal.type("trap '' HUP TERM INT; echo $((40 + 2))\n")
        terminal.read_until(b"42")
        assert len(_left(sampan)) == 2
        terminal.process.kill()
        assert _nothing_is_left(sampan)


def test_a_shell_whose_engine_is_killed_is_gone_with_the_next_one(fresh_sampan: Any, context: Path) -> None:
    _failed(fresh_sampan, context)
    with on_terminal(fresh_sampan.engine.environment, "build", "debug") as terminal:
        terminal.read_until(b"$ ")
        fresh_sampan.engine.kill()
        fresh_sampan.engine.start()
        assert _nothing_is_left(fresh_sampan)
    done = fresh_sampan.run("build", "debug")
    assert "no failed build is remembered" in done.stderr
