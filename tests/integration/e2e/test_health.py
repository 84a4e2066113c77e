"""Health checks and the restarts that follow from them, watched through the events."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sampan.testing.images import busybox_tar

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"
DEADLINE = 30.0
# Well while /ok is there; ends by itself with 0 when it is told to.
SERVICE = ("sh", "-c", "trap 'exit 0' TERM; touch /ok; while :; do sleep 0.05; done")
CHECK = ("--health-cmd", "test -e /ok", "--health-interval", "150ms", "--health-retries", "2")


class Watched:
    """The events of one container as they come."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self.seen: list[str] = []

    def until(self, action: str, count: int = 1) -> None:
        """Read events until `action` has come `count` times from now on."""
        while count:
            line = next(self._lines, None)
            assert line is not None, f"the events ended before {action}: {self.seen}"
            self.seen.append(json.loads(line)["Action"])
            count -= self.seen[-1] == action


@contextmanager
def events_of(sampan: Any, name: str) -> Iterator[Watched]:
    since = f"{time.time():.9f}"
    process: subprocess.Popen[bytes] = sampan.start(
        "events", "--since", since, "--filter", f"container={name}", "--format", "{{json .}}",
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield Watched(iter(process.stdout.readline, b""))
    finally:
        process.kill()
        process.communicate()


def state(sampan: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sampan.ok("inspect", name))[0]
    return found


def test_an_unhealthy_container_is_restarted_by_its_policy_and_counted(sampan: Any) -> None:
    with events_of(sampan, "web") as events:
        sampan.ok("run", "-d", "--name", "web", "--restart", "on-failure:2", "--restart-unhealthy", *CHECK,
                  BUSYBOX, *SERVICE)  # fmt: skip
        events.until("health_status: healthy")
        for count in (1, 2):
            sampan.ok("exec", "web", "rm", "/ok")
            events.until("restart_unhealthy")
            events.until("die")
            events.until("start")
            events.until("health_status: healthy")
            found = state(sampan, "web")
            assert (found["RestartCount"], found["State"]["Status"]) == (count, "running")
            assert found["HostConfig"]["RestartUnhealthy"] is True
        # Its policy allows two restarts; the third end, though with exit code 0, is the last.
        sampan.ok("exec", "web", "rm", "/ok")
        events.until("die")
    assert sampan.ok("wait", "web") == "0"
    assert state(sampan, "web")["State"]["Status"] == "exited"
    life = [action for action in events.seen if not action.startswith("exec_")]
    assert life[:8] == ["create", "start", "health_status: healthy", "health_status: unhealthy",
                        "restart_unhealthy", "kill", "die", "start"]  # fmt: skip
    assert "stop" not in life and "restart" not in life


def test_the_label_asks_for_it_too_and_update_takes_it_back(sampan: Any, wait_until: Any) -> None:
    sampan.docker("run", "-d", "--name", "web", "--restart", "always", "--stop-timeout", "0", *CHECK,
                  "--label", "sampan.restart-unhealthy=true", BUSYBOX, *SERVICE)  # fmt: skip
    with events_of(sampan, "web") as events:
        wait_until(lambda: state(sampan, "web")["State"]["Health"]["Status"] == "healthy")
        sampan.ok("exec", "web", "rm", "/ok")
        events.until("restart_unhealthy")
        events.until("health_status: healthy")
        sampan.ok("update", "--restart-unhealthy=false", "web")
        sampan.ok("exec", "web", "rm", "/ok")
        events.until("health_status: unhealthy")
        events.until("exec_die", 3)
        found = state(sampan, "web")
        assert (found["RestartCount"], found["State"]["Status"]) == (1, "running")
        # A container that is unhealthy already is restarted when it is asked for anew.
        sampan.ok("update", "--restart-unhealthy", "web")
        events.until("health_status: healthy")
    assert state(sampan, "web")["RestartCount"] == 2
    refused = sampan.run("update", "--restart", "no", "web")
    assert refused.returncode == 1
    assert "conflicting options: --restart-unhealthy and restart policy 'no'" in refused.stderr
    refused = sampan.run("run", "--restart-unhealthy", BUSYBOX)
    assert refused.returncode == 125
    assert "conflicting options: --restart-unhealthy and restart policy 'no'" in refused.stderr


def test_an_images_label_asks_for_nothing(sampan: Any, wait_until: Any) -> None:
    change = ("-c", "LABEL sampan.restart-unhealthy=true")
    sampan.ok("import", *change, "-", "labelled:latest", stdin=busybox_tar())
    sampan.docker("run", "-d", "--name", "web", "--restart", "always", "--stop-timeout", "0", *CHECK,
                  "labelled:latest", *SERVICE)  # fmt: skip
    with events_of(sampan, "web") as events:
        wait_until(lambda: state(sampan, "web")["State"]["Health"]["Status"] == "healthy")
        sampan.ok("exec", "web", "rm", "/ok")
        events.until("health_status: unhealthy")
        events.until("exec_die", 2)
    found = state(sampan, "web")
    assert found["Config"]["Labels"] == {"sampan.restart-unhealthy": "true"}
    assert (found["RestartCount"], found["State"]["Status"]) == (0, "running")


def test_the_log_of_checks_is_dockers_and_the_checks_rest_while_it_is_paused(sampan: Any) -> None:
    with events_of(sampan, "web") as events:
        sampan.ok("run", "-d", "--name", "web", "--health-interval", "100ms", "--health-retries", "3",
                  "--health-cmd", "echo out; seq -s: 3000; test -e /ok", BUSYBOX, *SERVICE)  # fmt: skip
        events.until("exec_die", 7)
        health = state(sampan, "web")["State"]["Health"]
        assert health["Status"] == "healthy" and len(health["Log"]) == 5
        last = health["Log"][-1]
        assert last["ExitCode"] == 0 and last["Start"] < last["End"]
        assert last["Output"].startswith("out\n1:2:3") and len(last["Output"]) == 4096 + len("...")
        assert events.seen[2:5] == [
            "exec_create: /bin/sh -c echo out; seq -s: 3000; test -e /ok",
            "exec_start: /bin/sh -c echo out; seq -s: 3000; test -e /ok",
            "exec_die",
        ]
        sampan.ok("pause", "web")
        events.until("pause")
        # Docker 20.10: what is not checked is not healthy, and says so without an event.
        assert state(sampan, "web")["State"]["Health"]["Status"] == "unhealthy"
        sampan.ok("unpause", "web")
        events.until("unpause")
        assert not [action for action in events.seen[events.seen.index("pause") :] if "exec_create" in action]
        events.until("health_status: healthy")
        sampan.ok("restart", "-t", "0", "web")
        kept = state(sampan, "web")["State"]["Health"]
        assert kept["Status"] in ("starting", "healthy") and len(kept["Log"]) == 5


def test_a_check_that_takes_too_long_is_killed_and_no_healthcheck_switches_off(sampan: Any) -> None:
    with events_of(sampan, "slow") as events:
        sampan.ok("run", "-d", "--name", "slow", "--health-interval", "100ms", "--health-timeout", "300ms",
                  "--health-retries", "1", "--health-cmd", "echo so far; exec sleep 77", BUSYBOX, *SERVICE)  # fmt: skip
        events.until("health_status: unhealthy")
    result = state(sampan, "slow")["State"]["Health"]["Log"][0]
    assert result["ExitCode"] == -1
    assert result["Output"] == "Health check exceeded timeout (300ms): so far\n"
    sampan.ok("commit", "slow", "checked:1")
    sampan.ok("rm", "-f", "slow")
    sampan.ok("run", "-d", "--name", "plain", "--no-healthcheck", "checked:1")
    found = state(sampan, "plain")
    assert found["Config"]["Healthcheck"]["Test"] == ["NONE"] and "Health" not in found["State"]
    sampan.ok("run", "-d", "--name", "again", "--health-interval", "1h", "checked:1")
    merged = state(sampan, "again")["Config"]["Healthcheck"]
    assert merged["Test"] == ["CMD-SHELL", "echo so far; exec sleep 77"]
    assert (merged["Interval"], merged["Retries"]) == (3_600_000_000_000, 1)
