"""kill -9 of the launcher and of a shim: at most the killed one's container is lost, and said so."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

COUNTING = "i=0; while [ ! -e /tmp/go ]; do i=$((i+1)); echo line $i; sleep 0.02; done; exit 11"


def state(sampan: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = sampan.api.api.inspect_container(name)["State"]
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def launcher_of(sampan: Any) -> int:
    # The daemon's thread that started it is its parent.
    tasks = Path(f"/proc/{sampan.engine.pid}/task").glob("*/children")
    children = [child for task in tasks for child in task.read_text().split()]
    found = [
        int(each) for each in children if Path(f"/proc/{each}/comm").read_text().strip() == "sampan-launcher"
    ]
    assert len(found) == 1
    return found[0]


def counts_without_gaps(sampan: Any, name: str) -> int:
    logged: list[str] = sampan.ok("logs", name).splitlines()
    assert logged == [f"line {number}" for number in range(1, len(logged) + 1)]
    return len(logged)


def test_no_container_is_lost_with_the_launcher(
    fresh_sampan: Any, find_problems: Any, wait_until: Any
) -> None:
    sampan = fresh_sampan
    for number in range(3):
        sampan.ok("run", "-d", "--name", f"counter{number}", "busybox", "sh", "-c", COUNTING)
    before = [state(sampan, f"counter{number}") for number in range(3)]
    seen = counts_without_gaps(sampan, "counter0")
    os.kill(launcher_of(sampan), signal.SIGKILL)
    wait_until(lambda: counts_without_gaps(sampan, "counter0") > seen + 5, "more lines")
    assert [state(sampan, f"counter{number}") for number in range(3)] == before
    assert sampan.ok("exec", "counter1", "echo", "here") == "here"
    assert sampan.ok("run", "--rm", "busybox", "echo", "new") == "new"
    for number in range(3):
        sampan.ok("exec", f"counter{number}", "touch", "/tmp/go")
        assert sampan.ok("wait", f"counter{number}") == "11"
        counts_without_gaps(sampan, f"counter{number}")
    assert find_problems(sampan) == []


def test_with_a_shim_only_its_container_ends_and_says_why(
    fresh_sampan: Any, find_problems: Any, wait_until: Any, wait_until_empty: Any
) -> None:
    sampan = fresh_sampan
    for name, policy in (("victim", "no"), ("restarting", "always"), ("other", "no")):
        sampan.ok("run", "-d", "--name", name, "--restart", policy, "busybox", "sh", "-c", COUNTING)
    unharmed = state(sampan, "other")
    pids = {name: state(sampan, name)["Pid"] for name in ("victim", "restarting")}
    for pid in pids.values():
        os.kill(parent(pid), signal.SIGKILL)
    wait_until(lambda: state(sampan, "victim")["Status"] == "exited", "the end of the container")
    victim = state(sampan, "victim")
    assert victim["ExitCode"] == 137
    assert "shim was killed" in victim["Error"]
    wait_until(lambda: not Path(f"/proc/{pids['victim']}").exists(), "the end of its process")
    counts_without_gaps(sampan, "victim")
    wait_until(
        lambda: (
            state(sampan, "restarting")["Status"] == "running"
            and state(sampan, "restarting")["Pid"] != pids["restarting"]
        ),
        "the restart",
    )
    assert state(sampan, "other") == unharmed
    sampan.ok("start", "victim")
    wait_until_empty(lambda: find_problems(sampan), "inconsistent")
