"""kill -9 of the daemon in the middle of a pull, a build and of arbitrary work."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"
MEGABYTE = 1 << 20


def test_a_pull_is_resumed_where_it_was_killed(
    fresh_sampan: Any,
    slow_proxy: Any,
    pushed: str,
    find_problems: Any,
    wait_until: Any,
    wait_until_empty: Any,
) -> None:
    sampan, name = fresh_sampan, f"{slow_proxy.host}/{pushed}"
    slow_proxy.budget = 8 * MEGABYTE
    partial = sampan.engine.root / "content" / "ingest"
    client = sampan.start("pull", name)
    assert slow_proxy.reached.wait(60)
    wait_until(
        lambda: sum(file.stat().st_size for file in partial.iterdir()) > 5 * MEGABYTE, "the partial blob"
    )
    sampan.engine.kill()
    client.communicate(timeout=30)
    assert client.returncode != 0
    slow_proxy.released.set()
    sampan.engine.start()

    assert sampan.ok("images", "-q", name) == ""
    assert find_problems(sampan) == []
    slow_proxy.budget, slow_proxy.passed = None, 0
    slow_proxy.requests.clear()
    sampan.ok("pull", name)
    assert slow_proxy.passed < 8 * MEGABYTE, "what had been loaded was loaded again"
    assert any(line.lower().startswith("range: bytes=") for line in slow_proxy.requests)
    assert sampan.ok("run", "--rm", name, "sh", "-c", "wc -c < /noise") == str(12 * MEGABYTE)
    assert find_problems(sampan) == []


def test_a_build_that_was_killed_leaves_nothing_and_can_be_repeated(
    fresh_sampan: Any, tmp_path: Path, find_problems: Any, wait_until: Any, wait_until_empty: Any
) -> None:
    sampan = fresh_sampan
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN echo first > /first\nRUN echo half > /half; echo now-sleeping; sleep 1000\n"
    )
    client = sampan.start("build", "-t", "killed:1", str(tmp_path), stderr=subprocess.STDOUT)
    for line in client.stdout:
        if b"now-sleeping" in line and not line.startswith(b"Step"):
            break
    sampan.engine.kill()
    client.communicate(timeout=30)
    assert client.returncode != 0
    sampan.engine.start()

    assert sampan.ok("images", "-q", "killed") == ""
    wait_until_empty(lambda: find_problems(sampan), "inconsistent")
    wait_until(lambda: not _sleepers(sampan.engine), "the end of the build's process")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo first > /first\nRUN echo second > /second\n")
    again = sampan.ok("build", "-t", "killed:1", str(tmp_path))
    assert "Using cache" in again
    assert sampan.ok("run", "--rm", "killed:1", "cat", "/first", "/second") == "first\nsecond"


def _sleepers(engine: Any) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if engine.cgroup_parent in (process / "cgroup").read_text():
                found.append((process / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_load_that_was_killed_leaves_nothing_and_can_be_repeated(
    fresh_sampan: Any, tmp_path: Path, find_problems: Any
) -> None:
    sampan = fresh_sampan
    sampan.ok("tag", BUSYBOX, "loaded:1")
    sampan.ok("save", "-o", str(tmp_path / "image.tar"), "loaded:1")
    sampan.ok("rmi", "loaded:1")
    sampan.ok("rmi", BUSYBOX)
    archive = (tmp_path / "image.tar").read_bytes()
    client = sampan.start("load")
    client.stdin.write(archive[: len(archive) // 2])
    client.stdin.flush()
    sampan.engine.kill()
    client.kill()
    client.communicate()
    sampan.engine.start()
    assert sampan.ok("images", "-q") == ""
    assert find_problems(sampan) == []
    sampan.ok("load", stdin=archive)
    assert sampan.ok("run", "--rm", "loaded:1", "echo", "works") == "works"


ROUNDS = 8

WORK = """
set +e
s() { "$PYTHON" -m sampan.cli.main "$@" >/dev/null 2>&1; }
n=$1
s network create net$n
s volume create vol$n
s create --name c$n -v vol$n:/v -v /anon -p 127.0.0.1::80 busybox sleep 1000
s start c$n
s run -d --name r$n --network net$n --restart always busybox sleep 1000
s exec c$n touch /v/x
s commit c$n image:$n
s stop -t 0 c$n
s rm -v c$n
s rm -f r$n
s network rm net$n
s volume rm vol$n
s rmi image:$n
"""


def test_killed_at_any_moment_the_engine_is_consistent_afterwards(
    fresh_sampan: Any, find_problems: Any, wait_until: Any, wait_until_empty: Any
) -> None:
    sampan = fresh_sampan
    chance = random.Random(20261124)
    pause = threading.Event()
    environment = {**sampan.engine.environment, "PYTHON": sys.executable}
    for number in range(ROUNDS):
        script = subprocess.Popen(
            ["sh", "-c", WORK, "work", str(number)], env=environment, start_new_session=True
        )
        pause.wait(chance.uniform(0.05, 1.5))  # the random moment itself, not a wait for something
        sampan.engine.kill()
        script.wait(60)  # what is left of it fails at once: nobody listens
        sampan.engine.start()
        wait_until_empty(lambda: find_problems(sampan), f"inconsistent after round {number}")
        _everything_can_be_used(sampan, number)
    sampan.clean()
    assert find_problems(sampan) == []
    assert os.listdir(sampan.engine.root / "snapshots") == []


def _everything_can_be_used(sampan: Any, number: int) -> None:
    for container in sampan.api.containers.list(all=True):
        if container.status == "running":
            assert container.exec_run("true").exit_code == 0, f"round {number}: {container.name}"
        else:
            container.start()
            container.kill()
        container.remove(force=True, v=True)
    for name in (f"c{number}", f"r{number}"):
        made = sampan.api.containers.create(BUSYBOX, "true", name=name)
        made.start()
        made.remove(force=True)
    sampan.clean()
