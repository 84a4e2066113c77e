"""kill -9 of the daemon while containers run: nothing of them is lost."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from sampan.linux.cgroups import Cgroup, detect

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"
UNTIL_GO = "while [ ! -e /tmp/go ]; do sleep 0.05; done"


def restart(sampan: Any) -> None:
    sampan.engine.kill()
    sampan.engine.start()


def fetch(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/passwd", timeout=10) as answer:
        body: bytes = answer.read()
    return body


def state(sampan: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = sampan.api.api.inspect_container(name)["State"]
    return found


def test_running_containers_go_on_with_logs_ports_and_streams(
    fresh_sampan: Any, find_problems: Any, wait_until: Any, wait_until_empty: Any
) -> None:
    sampan = fresh_sampan
    sampan.ok(
        "run", "-d", "--name", "web", "-p", "127.0.0.1::80", BUSYBOX, "httpd", "-f", "-p", "80", "-h", "/etc"
    )
    port = int(sampan.ok("port", "web", "80").rpartition(":")[2])
    counting = "i=0; while [ ! -e /tmp/go ]; do i=$((i+1)); echo line $i; sleep 0.02; done; exit 11"
    sampan.ok("run", "-d", "--name", "counter", BUSYBOX, "sh", "-c", counting)
    sampan.ok("run", "-d", "--name", "quits", BUSYBOX, "sh", "-c", f"echo bye; {UNTIL_GO}; exit 7")
    sampan.ok(
        "run",
        "-d",
        "--name",
        "eternal",
        "--restart",
        "always",
        BUSYBOX,
        "sh",
        "-c",
        f"echo up; {UNTIL_GO}; exit 3",
    )
    before = {name: state(sampan, name) for name in ("web", "counter", "quits", "eternal")}

    sampan.engine.kill()
    # A port stays reachable, and two containers end, while there is no daemon.
    assert fetch(port).startswith(b"root:")
    ended = time.time()
    for name in ("quits", "eternal"):
        Path(f"/proc/{before[name]['Pid']}/root/tmp/go").touch()
    for name in ("quits", "eternal"):
        wait_until(
            lambda name=name: not Path(f"/proc/{before[name]['Pid']}").exists(), "the end of the process"
        )
    sampan.engine.start()

    wait_until_empty(lambda: find_problems(sampan), "inconsistent")  # the restart is under way
    assert {name: state(sampan, name) for name in ("web", "counter")} == {
        name: before[name] for name in ("web", "counter")
    }
    assert fetch(port).startswith(b"root:")
    quits = state(sampan, "quits")
    assert (quits["Status"], quits["ExitCode"]) == ("exited", 7)
    finished = time.strptime(quits["FinishedAt"][:19], "%Y-%m-%dT%H:%M:%S")
    assert abs(time.mktime(finished) - time.mktime(time.gmtime(ended))) <= 3
    assert sampan.ok("logs", "quits") == "bye"
    wait_until(lambda: sampan.ok("logs", "eternal").startswith("up\nup"), "the second start's output")
    assert sampan.ok("exec", "web", "cat", "/etc/group") != ""

    sampan.ok("exec", "counter", "touch", "/tmp/go")
    assert sampan.ok("wait", "counter") == "11"
    lines = sampan.ok("logs", "counter").splitlines()
    assert lines == [f"line {n}" for n in range(1, len(lines) + 1)]
    assert len(lines) > 10


def test_an_attached_client_stays_connected_to_the_container(fresh_sampan: Any) -> None:
    sampan = fresh_sampan
    created = sampan.api.api.create_container(BUSYBOX, ["cat"], stdin_open=True)
    sampan.api.api.start(created)
    attached = sampan.api.api.attach_socket(created, params={"stdin": 1, "stdout": 1, "stream": 1})
    connection: socket.socket = attached._sock
    connection.settimeout(20)
    connection.sendall(b"before\n")
    assert connection.recv(100)[8:] == b"before\n"
    sampan.engine.kill()
    connection.sendall(b"during\n")
    assert connection.recv(100)[8:] == b"during\n"
    sampan.engine.start()
    connection.sendall(b"after\n")
    assert connection.recv(100)[8:] == b"after\n"
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(100) == b""
    connection.close()
    assert sampan.ok("logs", created["Id"]) == "before\nduring\nafter"


def test_what_was_held_still_for_a_moment_goes_on_and_what_is_paused_stays_so(fresh_sampan: Any) -> None:
    sampan = fresh_sampan
    for name in ("committed", "paused"):
        sampan.ok("run", "-d", "--name", name, BUSYBOX, "sleep", "1000")
    sampan.ok("pause", "paused")
    groups = {name: _group(state(sampan, name)["Pid"]) for name in ("committed", "paused")}
    sampan.engine.kill()
    # As if it was killed in the middle of a commit, which holds the container still.
    groups["committed"].freeze()
    groups["paused"].thaw()
    sampan.engine.start()
    assert sampan.ok("exec", "committed", "echo", "goes on") == "goes on"
    assert state(sampan, "paused")["Status"] == "paused"
    assert groups["paused"].frozen()
    sampan.ok("unpause", "paused")
    assert sampan.ok("exec", "paused", "echo", "goes on") == "goes on"


def _group(pid: int) -> Cgroup:
    """The container's control group, found by its process."""
    path = next(
        line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if "sampan-test" in line
    )
    return detect().group(path.partition(":/")[2])


def test_an_exec_goes_on_and_can_be_inspected_no_more_or_rightly(fresh_sampan: Any, wait_until: Any) -> None:
    sampan = fresh_sampan
    container = sampan.ok("run", "-d", BUSYBOX, "sleep", "1000")
    made = sampan.api.api.exec_create(container, ["sh", "-c", f"{UNTIL_GO}; echo done > /tmp/result"])
    sampan.api.api.exec_start(made["Id"], detach=True)
    restart(sampan)
    sampan.ok("exec", container, "touch", "/tmp/go")
    wait_until(
        lambda: sampan.run("exec", container, "cat", "/tmp/result").stdout == "done\n", "the exec's result"
    )


def test_a_container_with_rm_that_ends_without_a_daemon_is_removed(
    fresh_sampan: Any, wait_until: Any
) -> None:
    sampan = fresh_sampan
    sampan.ok("run", "-d", "--rm", "--name", "brief", "-v", "/anon", BUSYBOX, "sh", "-c", UNTIL_GO)
    pid = state(sampan, "brief")["Pid"]
    sampan.engine.kill()
    Path(f"/proc/{pid}/root/tmp/go").touch()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the process")
    sampan.engine.start()
    wait_until(lambda: sampan.ok("ps", "-aq") == "", "the removal")
    wait_until(lambda: sampan.ok("volume", "ls", "-q") == "", "the removal of its volume")


def test_killing_everything_at_once_leaves_containers_that_start_again(
    fresh_sampan: Any, find_problems: Any, wait_until: Any, wait_until_empty: Any
) -> None:
    """As a power failure does it, but for the page cache."""
    sampan = fresh_sampan
    sampan.ok("network", "create", "appnet")
    for name, policy in (("always", "always"), ("never", "no")):
        sampan.ok(
            "run", "-d", "--name", name, "--network", "appnet", "--restart", policy, BUSYBOX, "sleep", "1000"
        )
    shims = [_parent(state(sampan, name)["Pid"]) for name in ("always", "never")]
    sampan.engine.kill()
    for shim in shims:
        os.kill(shim, signal.SIGKILL)
    sampan.engine.start()
    # As in Docker one that waits for its restart is "Running", too.
    wait_until(lambda: state(sampan, "always")["Status"] == "running", "the restart")
    never = state(sampan, "never")
    assert (never["Status"], never["ExitCode"]) == ("exited", 255)
    wait_until_empty(lambda: find_problems(sampan), "inconsistent")
    sampan.ok("start", "never")
    assert "1 packets received" in sampan.ok("exec", "never", "ping", "-c", "1", "-W", "3", "always")


def _parent(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("PPid:"):
            return int(line.split()[1])
    raise AssertionError("no parent")
