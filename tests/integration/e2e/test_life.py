"""The life of containers: states and what leads from one to the next, restarts, signals, who waits, who is attached."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"
DEADLINE = 30.0


def state(sampan: Any, name: str) -> tuple[str, int, int]:
    """(status, exit code, restart count)."""
    found = json.loads(sampan.ok("inspect", name))[0]
    return found["State"]["Status"], found["State"]["ExitCode"], found["RestartCount"]


def moments(sampan: Any, name: str, since: float) -> list[tuple[str, float]]:
    """The container's events since then: (action, seconds)."""
    lines = sampan.ok(
        "events", "--since", f"{since:.9f}", "--until", f"{time.time():.9f}",
        "--filter", f"container={name}", "--format", "{{json .}}",
    ).splitlines()  # fmt: skip
    events = [json.loads(line) for line in lines]
    return [(event["Action"], event["timeNano"] / 1e9) for event in events]


def request(sampan: Any, method: str, path: str) -> tuple[int, dict[str, Any]]:
    """One request of the API by hand: (status, body)."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(str(sampan.engine.socket))
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])


def test_the_states_follow_each_other_as_dockers(sampan: Any) -> None:
    since = time.time()
    sampan.ok("create", "--name", "cone", "--stop-signal", "USR1", BUSYBOX, "sh", "-c",
              "trap 'exit 3' USR1; trap 'exit 4' TERM; while :; do sleep 0.05; done")  # fmt: skip
    assert state(sampan, "cone") == ("created", 0, 0)
    sampan.ok("start", "cone")
    sampan.ok("start", "cone")
    sampan.ok("pause", "cone")
    assert state(sampan, "cone")[0] == "paused"
    sampan.ok("unpause", "cone")
    sampan.ok("stop", "cone")
    assert state(sampan, "cone") == ("exited", 3, 0)
    sampan.ok("stop", "cone")
    sampan.ok("restart", "-s", "TERM", "cone")
    assert state(sampan, "cone")[0] == "running"
    sampan.ok("stop", "-s", "TERM", "cone")
    assert state(sampan, "cone") == ("exited", 4, 0)
    sampan.ok("start", "cone")
    sampan.ok("pause", "cone")
    sampan.ok("stop", "-t", "20", "cone")  # it has to be let go for its signal
    assert state(sampan, "cone") == ("exited", 3, 0)
    sampan.ok("rm", "cone")
    actions = [action for action, _ in moments(sampan, "cone", since)]
    assert actions == [
        "create", "start", "pause", "unpause", "kill", "die", "stop", "start", "restart", "kill", "die", "stop",
        "start", "pause", "unpause", "kill", "die", "stop", "destroy",
    ]  # fmt: skip


def test_restarts_wait_longer_each_time_and_their_count_begins_anew_with_a_person(
    sampan: Any, wait_until: Any
) -> None:
    since = time.time()
    sampan.ok("run", "-d", "--name", "rone", "--restart", "always", BUSYBOX, "sh", "-c", "exit 7")
    wait_until(lambda: [action for action, _ in moments(sampan, "rone", since)].count("start") >= 5)
    ends: list[float] = []
    delays: list[float] = []
    for action, moment in moments(sampan, "rone", since):
        if action == "die":
            ends.append(moment)
        elif action == "start" and ends:
            delays.append(moment - ends[-1])
    # Docker's restart manager: 100 ms, doubled each time.
    for delay, least in zip(delays[:4], (0.1, 0.2, 0.4, 0.8), strict=True):
        assert least <= delay < least + 1.0

    def in_a_long_delay() -> bool:
        # The count goes up a moment before the start: only what is seen again is a delay, of 3.2 s and more.
        seen = {state(sampan, "rone") for _ in range(4)}
        return len(seen) == 1 and all(status == "restarting" and count >= 5 for status, _, count in seen)

    wait_until(in_a_long_delay)
    sampan.ok("stop", "rone")
    status, code, count = state(sampan, "rone")
    assert (status, code) == ("exited", 7) and count >= 5
    sampan.ok("start", "rone")
    assert state(sampan, "rone")[2] < 4
    wait_until(in_a_long_delay)
    sampan.ok("kill", "rone")
    assert state(sampan, "rone")[:2] == ("exited", 7)
    sampan.ok("restart", "rone")
    wait_until(in_a_long_delay)
    refused = sampan.run("rm", "rone")
    assert "You cannot remove a restarting container" in refused.stderr
    for command in ("pause", "top"):
        assert "is restarting, wait until the container is running" in sampan.run(command, "rone").stderr
    sampan.ok("rm", "-f", "rone")
    assert sampan.ok("ps", "-aq") == ""


def test_a_policy_that_is_changed_counts_from_the_next_end(sampan: Any, wait_until: Any) -> None:
    sampan.ok("run", "-d", "--name", "rone", "--restart", "always", BUSYBOX, "sh", "-c", "exit 7")
    wait_until(lambda: state(sampan, "rone")[2] >= 2)
    sampan.ok("update", "--restart", "on-failure:2", "rone")
    wait_until(lambda: state(sampan, "rone")[0] == "exited")
    sampan.ok("update", "--restart", "no", "rone")
    sampan.ok("start", "rone")
    assert sampan.ok("wait", "rone") == "7"
    assert state(sampan, "rone") == ("exited", 7, 0)


def test_signals_by_name_number_and_real_time_reach_the_process(sampan: Any) -> None:
    script = 'for n in HUP USR1 37 64; do trap "echo $n" $n; done; echo ready; while :; do sleep 0.02; done'
    with attached(sampan, "run", "--name", "sone", BUSYBOX, "sh", "-c", script) as client:
        assert client.line() == "ready"
        for given, shown in (
            ("HUP", "HUP"), ("SIGUSR1", "USR1"), ("10", "USR1"), ("RTMIN+3", "37"), ("sigrtmax", "64"),
        ):  # fmt: skip
            sampan.ok("kill", "-s", given, "sone")
            assert client.line() == shown
        # A signal at the client goes on to the process, real-time ones too.
        os.kill(client.pid, signal.SIGRTMIN + 3)
        assert client.line() == "37"


def test_who_waits_is_told_by_its_condition(sampan: Any) -> None:
    sampan.ok("create", "--name", "wone", "--rm", BUSYBOX, "sh", "-c", "exit 5")
    assert request(sampan, "POST", "/containers/wone/wait")[1]["StatusCode"] == 0
    status, body = request(sampan, "POST", "/containers/wone/wait?condition=whenever")
    assert status == 400 and "whenever" in body["message"]
    waiting = [
        subprocess.Popen(
            [sys.executable, "-c", _WAITER, str(sampan.engine.socket), condition], stdout=subprocess.PIPE
        )
        for condition in ("next-exit", "removed")
    ]
    for waiter in waiting:
        assert waiter.stdout is not None and b"200 OK" in waiter.stdout.readline()
    sampan.ok("start", "wone")
    for waiter in waiting:
        out, _ = waiter.communicate(timeout=DEADLINE)
        assert b'"StatusCode":5' in out
    assert sampan.run("wait", "wone").returncode == 1


_WAITER = """
import socket, sys
c = socket.socket(socket.AF_UNIX)
c.connect(sys.argv[1])
path = b"/containers/wone/wait?condition=" + sys.argv[2].encode()
c.sendall(b"POST " + path + b" HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
while data := c.recv(65536):
    sys.stdout.buffer.write(data); sys.stdout.buffer.flush()
"""


class Client:
    """A command that shows what comes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid

    def line(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE)
        assert ready, "nothing came"
        return self.process.stdout.readline().decode().rstrip("\r\n")

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()


@contextmanager
def attached(sampan: Any, *arguments: str, **options: Any) -> Iterator[Client]:
    process = sampan.start(*arguments, bufsize=0, **options)
    try:
        yield Client(process)
    finally:
        process.kill()
        process.communicate()


def test_several_clients_are_attached_at_once_and_a_slow_one_holds_nobody_up(
    sampan: Any, tmp_path: Path, wait_until: Any
) -> None:
    script = "while read line; do echo got $line; test $line = flood && seq 600000; done; exit 6"
    sampan.ok("create", "-i", "--name", "many", BUSYBOX, "sh", "-c", script)
    sampan.ok("start", "many")
    files = {name: open(tmp_path / name, "wb") for name in ("one", "two", "slow")}  # noqa: SIM115
    seen = {name: lambda name=name: (tmp_path / name).read_bytes() for name in files}
    with (
        attached(sampan, "attach", "many", stdout=files["one"]) as one,
        attached(sampan, "attach", "--no-stdin", "many", stdout=files["two"]) as two,
        attached(sampan, "attach", "many", stdout=files["slow"]) as slow,
    ):

        def all_there() -> bool:
            one.type("hello\n")
            return all(b"got hello" in read() for read in seen.values())

        wait_until(all_there)
        os.kill(slow.pid, signal.SIGSTOP)
        two.type("nobody reads this\n")
        one.type("flood\n")
        for name in ("one", "two"):
            wait_until(lambda name=name: seen[name]().endswith(b"\n600000\n"))
        one.type("again\n")
        for name in ("one", "two"):
            wait_until(lambda name=name: seen[name]().endswith(b"got again\n"))
            assert b"nobody" not in seen[name]()
    for file in files.values():
        file.close()


def test_without_proxy_a_signal_ends_the_client_alone(sampan: Any) -> None:
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with attached(
        sampan, "run", "--sig-proxy=false", "--name", "pone", BUSYBOX, "sh", "-c", script
    ) as client:
        assert client.line() == "ready"
        client.process.terminate()
        assert client.process.wait(DEADLINE) != 9
    assert state(sampan, "pone")[0] == "running"
    with attached(sampan, "attach", "--sig-proxy=false", "pone") as client:
        sampan.engine.cli("exec", "pone", "true")
        client.process.terminate()
        client.process.wait(DEADLINE)
    assert state(sampan, "pone")[0] == "running"
    sampan.ok("stop", "pone")
    with attached(sampan, "start", "-a", "pone") as client:
        assert client.line() == "ready"
        client.process.terminate()
        assert client.process.wait(DEADLINE) == 9


def test_detach_keys_come_from_the_configuration_too(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"detachKeys": "ctrl-x,d"}')
    for command in (
        ("run", "-it", "--name", "tone", BUSYBOX, "cat"),
        ("attach", "tone"),
        ("exec", "-it", "tone", "cat"),
    ):
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "sampan.cli.main", "--config", str(tmp_path), *command],
            stdin=slave, stdout=slave, stderr=slave, env=sampan.engine.environment, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
        )  # fmt: skip
        os.close(slave)
        os.write(master, b"half \x18 of them\r")
        seen = b""
        while seen.count(b"of them") < 2:  # the terminal's echo, and what cat makes of it
            assert select.select([master], [], [], DEADLINE)[0], seen
            seen += os.read(master, 4096)
        os.write(master, b"\x18d")
        assert process.wait(DEADLINE) == (0 if command[0] == "run" else 1)
        os.close(master)
    assert state(sampan, "tone")[0] == "running"


def test_init_reaps_what_is_left_behind_and_passes_signals_and_codes_on(sampan: Any) -> None:
    script = ("(sleep 0.1 & sleep 0.1 &); trap 'exit 11' TERM; "
              "until [ $(ps -o comm | grep -c '^sleep$') = 0 ]; do :; done; ps -o stat | grep -c Z; "
              "while :; do read -t 1 x < /dev/zero; done")  # fmt: skip
    with attached(sampan, "run", "--rm", "--init", "--name", "ione", BUSYBOX, "sh", "-c", script) as client:
        assert client.line() == "0"
        sampan.ok("kill", "-s", "TERM", "ione")
        assert client.process.wait(DEADLINE) == 11
    assert sampan.run("run", "--rm", "--init", BUSYBOX, "sh", "-c", "kill -9 $$").returncode == 137


def test_links_are_names_in_hosts_and_can_be_removed_alone(sampan: Any) -> None:
    sampan.ok("run", "-d", "--name", "db", BUSYBOX, "sleep", "1000")
    address = sampan.ok("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "db")
    sampan.ok("create", "--name", "web", "--link", "db:store", BUSYBOX, "grep", "store", "/etc/hosts")
    line = sampan.ok("start", "-a", "web").split()
    assert line[:2] == [address, "store"] and "db" in line
    sampan.ok("rm", "--link", "web/store")
    assert sampan.run("start", "-a", "web").returncode == 1
    assert "No such link: /web/store" in sampan.run("rm", "--link", "/web/store").stderr
    assert datetime.fromisoformat(
        sampan.ok("inspect", "-f", "{{.State.StartedAt}}", "web").replace("Z", "+00:00")
    )


def test_top_shows_processes_of_any_user_whatever_columns_are_asked_for(sampan: Any) -> None:
    sampan.ok("run", "-d", "--name", "box", "--user", "4321", BUSYBOX, "sleep", "1000")
    pid = sampan.ok("inspect", "-f", "{{.State.Pid}}", "box").strip()
    # As docker 20.10: -o alone would select the processes of the caller.
    assert sampan.ok("top", "box", "-o", "pid,uid").split() == ["PID", "UID", pid, "4321"]
    # ps refuses to select by more than one means.
    assert pid in sampan.ok("top", "box", "-p", pid).split()
    refused = sampan.run("top", "box", "-o", "uid")
    assert refused.returncode == 1 and "Couldn't find PID field in ps output" in refused.stderr


def test_at_a_start_volumes_are_told_of_before_networks_as_docker_28_does(sampan: Any) -> None:
    since = time.time()
    sampan.ok("run", "--rm", "-v", "told:/v", "busybox", "true")
    span = ("--since", f"{since:.9f}", "--until", f"{time.time():.9f}")
    lines = sampan.ok("events", *span, "--format", "{{.Type}} {{.Action}}").splitlines()
    wanted = ("volume mount", "network connect", "container start")
    assert [line for line in lines if line in wanted] == list(wanted)
