"""Containers whose output goes to a log server: delivered, held back or dropped, and read from the local copy."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.cloudwatch import CloudWatchLogs

pytestmark = pytest.mark.root

LINES = 200_000
FLOOD = f"seq 1 {LINES} | sed 's/.*/line & of a container that has much to say/'; echo done >&2"
BYTES = sum(len(f"line {number} of a container that has much to say\n") for number in range(1, LINES + 1))


def await_that(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """There is no event for what other processes' /proc shows."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, condition
        select.select([], [], [], 0.02)
    return found


class SlowServer:
    """A TCP server that takes connections and reads nothing until `read_all`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        self._reading = threading.Event()
        self._said: list[bytearray] = []
        self._readers: list[threading.Thread] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._said.append(bytearray())
            reader = threading.Thread(target=self._read, args=(connection, self._said[-1]), daemon=True)
            self._readers.append(reader)
            reader.start()

    def _read(self, connection: socket.socket, said: bytearray) -> None:
        self._reading.wait()
        while data := connection.recv(1 << 20):
            said.extend(data)

    def read_all(self) -> None:
        self._reading.set()

    def lines(self) -> list[bytes]:
        """Whole lines, without what syslog puts before them; when the writers have gone."""
        for reader in self._readers:
            reader.join(60)
            assert not reader.is_alive()
        whole = [bytes(said[: said.rfind(b"\n") + 1]) for said in self._said]
        return [line.partition(b": ")[2] for text in whole for line in text.splitlines()]

    def close(self) -> None:
        self._reading.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.close()


@pytest.fixture
def slow() -> Iterator[SlowServer]:
    server = SlowServer()
    yield server
    server.close()


def syslog(address: str, **options: str) -> list[str]:
    """Flags of a container without a network."""
    chosen = {"syslog-address": address, **{name.replace("_", "-"): value for name, value in options.items()}}
    flags = [flag for name, value in chosen.items() for flag in ("--log-opt", f"{name}={value}")]
    return ["--network=none", "--log-driver=syslog", *flags]


def inspect(sampan: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = sampan.api.api.inspect_container(name)
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def shim_of(sampan: Any, name: str) -> int:
    return parent(inspect(sampan, name)["State"]["Pid"])


def writer_of(shim: int) -> int:
    """The log writer among a shim's children; 0 when there is none."""
    try:
        children = Path(f"/proc/{shim}/task/{shim}/children").read_text().split()
        return next((int(pid) for pid in children if comm(int(pid)) == "sampan-log"), 0)
    except FileNotFoundError:
        return 0


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_output_reaches_rsyslogd_and_is_read_back_from_the_local_copy(sampan: Any, rsyslog: Any) -> None:
    # An image's or container's label may be shown, but not choose how the log is written.
    flags = [
        *syslog(f"tcp://127.0.0.1:{rsyslog.tcp}", tag="{{.Name}}-{{.ImageName}}", labels="team", env="STAGE"),
        *("--label=team=a b", "--label=tag={{.FullID}}", "--label=mode=non-blocking", "--env=STAGE=x"),
    ]
    done = sampan.run(
        "run", "--name=web", *flags, "busybox", "sh", "-c", "echo out; echo err >&2; printf end"
    )
    assert sorted(done.stdout.split("\n")) == ["end", "out"]
    records = [rsyslog.next().split("|") for _ in range(3)]
    assert {(record[0], record[3], record[6].strip()) for record in records} == {
        ("30", "web-busybox", "out"),
        ("27", "web-busybox", "err"),
        ("30", "web-busybox", "end"),
    }
    shown = sampan.run("logs", "--details", "web")
    assert sorted(shown.stdout.split("\n")) == ["STAGE=x,team=a+b end", "STAGE=x,team=a+b out"]
    assert shown.stderr == "STAGE=x,team=a+b err\n"
    assert sampan.ok("logs", "-f", "--tail=1", "-t", "web").split()[0].endswith("Z")
    info = inspect(sampan, "web")
    assert (info["LogPath"], info["HostConfig"]["LogConfig"]["Type"]) == ("", "syslog")
    assert "LogStatus" not in info
    # The next start opens the log server again.
    sampan.ok("start", "-a", "web")
    assert rsyslog.next().split("|")[3] == "web-busybox"
    assert sorted(sampan.ok("logs", "web").split()) == ["end", "endout", "out"]


def test_output_reaches_fluentd_and_gelf_servers_and_can_be_followed(sampan: Any, node_server: Any) -> None:
    fluentd, gelf = node_server("fluent_server.js", "0"), node_server("gelf_server.js", "0")
    script = "echo one; read line; echo got $line"
    servers = {
        "fluentd": (fluentd, f"fluentd-address=127.0.0.1:{fluentd.port}", "log"),
        "gelf": (gelf, f"gelf-address=udp://127.0.0.1:{gelf.port}", "short_message"),
    }
    for driver, (server, address, member) in servers.items():
        flags = [
            "--network=none",
            f"--log-driver={driver}",
            f"--log-opt={address}",
            "--log-opt=tag={{.Name}}",
        ]
        sampan.ok("run", "-di", f"--name={driver}", *flags, "busybox", "sh", "-c", script)
        with sampan.start("logs", "-f", driver) as follower:
            assert follower.stdout.readline() == b"one\n"
            with sampan.start("attach", "--sig-proxy=false", driver) as attached:
                attached.communicate(b"it\n", timeout=30)
            assert follower.stdout.readline() == b"got it\n"
            follower.communicate(timeout=30)
        said = [server.next() for _ in range(2)]
        said = [each.get("record", each) for each in said]
        assert [each[member] for each in said] == ["one", "got it"]
        assert driver != "fluentd" or said[0]["container_name"] == "/fluentd"
        assert driver != "gelf" or said[0]["_tag"] == "gelf"


def test_without_the_local_copy_and_with_none_there_is_nothing_to_read(sampan: Any, slow: SlowServer) -> None:
    slow.read_all()
    sampan.ok("run", "--name=a1", *syslog(slow.address, cache_disabled="true"), "busybox", "echo", "hi")
    sampan.ok("run", "--name=b1", "--network=none", "--log-driver=none", "busybox", "echo", "hi")
    for name in ("a1", "b1"):
        refused = sampan.run("logs", name)
        assert refused.returncode == 1
        assert "configured logging driver does not support reading" in refused.stderr
    assert slow.lines() == [b"hi"]


def test_a_server_that_is_not_there_fails_the_start_unless_the_container_may_not_wait(sampan: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        address = f"tcp://127.0.0.1:{port}"
        refused = sampan.run("run", "--name=a1", *syslog(address), "busybox", "true")
        assert refused.returncode == 125
        # What dockerd 20.10 says.
        assert (
            f"failed to initialize logging driver: dial tcp 127.0.0.1:{port}: connect: connection refused"
            in refused.stderr
        )
        flags = syslog(address, mode="non-blocking")
        assert sampan.ok("run", "--name=b1", *flags, "busybox", "sh", "-c", "echo 1; echo 22") == "1\n22"
        assert sampan.ok("logs", "b1") == "1\n22"
        # Nobody took it in the time after the container's end: lost, and counted.
        status = await_that(lambda: (found := inspect(sampan, "b1")["LogStatus"])["LostLines"] and found)
        assert (status["LostLines"], status["LostBytes"]) == (2, 5)
        assert status["Error"] == f"dial tcp 127.0.0.1:{port}: connect: connection refused"


def test_a_slow_server_holds_up_a_container_that_may_wait_and_nobody_else(
    sampan: Any, slow: SlowServer
) -> None:
    sampan.ok(
        "run", "-d", "--name=held", *syslog(slow.address, cache_disabled="true"), "busybox", "sh", "-c", FLOOD
    )
    shim = shim_of(sampan, "held")
    writer = await_that(lambda: writer_of(shim))
    pid = inspect(sampan, "held")["State"]["Pid"]

    def waits_for_its_pipe() -> bool:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return any("pipe_w" in Path(f"/proc/{child}/wchan").read_text() for child in children)

    await_that(waits_for_its_pipe)
    # It can be looked at, entered, and killed all the same.
    assert sampan.ok("exec", "held", "echo", "in") == "in"
    assert not is_gone(writer)
    sampan.ok("kill", "held")
    assert sampan.ok("wait", "held") == "137"
    # What waits is still delivered when the server wakes up, though the container has ended.
    slow.read_all()
    await_that(lambda: is_gone(shim) and is_gone(writer))
    # The last line may be a torn one.
    numbers = [int(line.split()[1]) for line in slow.lines()[:-1]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert 1 << 20 < sum(len(line) for line in slow.lines()) < 8 << 20
    assert "LogStatus" not in inspect(sampan, "held")


def test_a_container_that_may_not_wait_is_never_held_up_and_every_lost_line_is_counted(
    sampan: Any, slow: SlowServer
) -> None:
    flags = syslog(slow.address, mode="non-blocking", max_buffer_size="256k")
    assert sampan.run("run", "--name=free", *flags, "-d", "busybox", "sh", "-c", FLOOD).returncode == 0
    shim = shim_of(sampan, "free") if inspect(sampan, "free")["State"]["Running"] else 0
    assert sampan.ok("wait", "free") == "0"
    slow.read_all()
    await_that(lambda: not shim or is_gone(shim))
    status = inspect(sampan, "free")["LogStatus"]
    lines = slow.lines()
    assert status["LostLines"] > LINES / 2
    assert len(lines) + status["LostLines"] == LINES + 1
    assert sum(len(line) + 1 for line in lines) + status["LostBytes"] == BYTES + len("done\n")
    numbers = [int(line.split()[1]) for line in lines if line != b"done"]
    assert numbers == sorted(set(numbers))
    assert "output lost" in inspect(sampan, "free")["State"]["Error"]
    # The copy on this host has everything.
    assert len(sampan.ok("logs", "free").splitlines()) == LINES


def test_a_writer_that_was_killed_is_replaced_and_nothing_is_lost(sampan: Any, slow: SlowServer) -> None:
    flags = syslog(slow.address, cache_disabled="true")
    sampan.ok("run", "-d", "--name=again", *flags, "busybox", "sh", "-c", FLOOD)
    shim = shim_of(sampan, "again")
    first = await_that(lambda: writer_of(shim))
    limits = Path(f"/proc/{first}/limits").read_text()
    assert re.search(r"^Max data size +805306368 +805306368 ", limits, re.MULTILINE), limits
    os.kill(first, signal.SIGKILL)
    second = await_that(lambda: (now := writer_of(shim)) != first and now)
    slow.read_all()
    assert sampan.ok("wait", "again") == "0"
    await_that(lambda: is_gone(shim) and is_gone(second))
    # Some lines come twice, none is missing.
    numbers = {int(line.split()[1]) for line in slow.lines() if line != b"done"}
    assert numbers == set(range(1, LINES + 1))
    status = inspect(sampan, "again")["LogStatus"]
    assert (status["LostLines"], status["WriterRestarts"]) == (0, 1)


def test_no_writer_outlives_a_shim_that_was_killed(sampan: Any, slow: SlowServer) -> None:
    sampan.ok(
        "run", "-d", "--name=orphan", *syslog(slow.address), "busybox", "sh", "-c", f"{FLOOD}; sleep 1000"
    )
    shim = shim_of(sampan, "orphan")
    writer = await_that(lambda: writer_of(shim))
    os.kill(shim, signal.SIGKILL)
    slow.read_all()
    await_that(lambda: is_gone(writer))


def test_json_file_may_not_wait_either(sampan: Any) -> None:
    flags = [
        "--network=none",
        "--log-opt=mode=non-blocking",
        "--log-opt=max-buffer-size=64m",
        "--log-opt=labels=a",
    ]
    sampan.ok(
        "run",
        "-d",
        "--name=file",
        "--label=a=b",
        *flags,
        "--log-opt=max-size=1g",
        "busybox",
        "sh",
        "-c",
        FLOOD,
    )
    assert sampan.ok("wait", "file") == "0"
    # Its end is told when the file is complete.
    with open(inspect(sampan, "file")["LogPath"], "rb") as log:
        records = [json.loads(raw) for raw in log]
    numbers = [int(record["log"].split()[1]) for record in records if record["stream"] == "stdout"]
    assert numbers == list(range(1, LINES + 1))
    assert all(record["attrs"] == {"a": "b"} for record in records)
    assert "LogStatus" not in inspect(sampan, "file")


def test_the_daemons_configuration_chooses_the_driver_of_containers_that_choose_none(
    make_sampan: Any, slow: SlowServer, cloud: CloudWatchLogs, tmp_path: Path
) -> None:
    slow.read_all()
    config = {"log-driver": "syslog", "log-opts": {"syslog-address": slow.address, "tag": "all"}}
    with socket.create_server(("127.0.0.1", 0)) as unused:
        metrics = f"127.0.0.1:{unused.getsockname()[1]}"
    sampan = make_sampan(tmp_path / "engine", config={**config, "metrics-addr": metrics})
    try:
        check_default_driver(sampan, slow)
        check_awslogs(sampan, cloud)
        check_metrics(sampan, metrics)
    finally:
        sampan.close()
        sampan.engine.stop()


def check_default_driver(sampan: Any, slow: SlowServer) -> None:
    sampan.ok("run", "--name=a1", "--network=none", "--log-opt=tag=own", "busybox", "echo", "hi")
    sampan.ok("run", "--name=b1", "--network=none", "--log-driver=json-file", "busybox", "echo", "ho")
    assert slow.lines() == [b"hi"]
    assert inspect(sampan, "a1")["HostConfig"]["LogConfig"] == {
        "Type": "syslog",
        "Config": {"syslog-address": slow.address, "tag": "own"},
    }
    assert inspect(sampan, "b1")["HostConfig"]["LogConfig"] == {"Type": "json-file", "Config": {}}
    info = sampan.api.api.info()
    assert info["LoggingDriver"] == "syslog"
    assert {"json-file", "local", "syslog", "journald", "fluentd", "gelf", "awslogs"} == set(
        info["Plugins"]["Log"]
    )
    # Its containers' logs don't need the daemon.
    sampan.ok(
        "run",
        "-d",
        "--name=c1",
        "--network=none",
        "busybox",
        "sh",
        "-c",
        "read line </dev/null; sleep 1; echo c",
    )
    sampan.engine.kill()
    await_that(lambda: b"c" in slow.lines())
    sampan.engine.start()
    assert sampan.ok("logs", "c1") == "c"


def check_awslogs(sampan: Any, cloud: CloudWatchLogs) -> None:
    """Credentials are the daemon's."""
    options = {
        "group": "g",
        "region": "eu-west-1",
        "endpoint": cloud.url,
        "create-group": "true",
        "stream": "s",
    }
    flags = [f"--log-opt=awslogs-{name}={value}" for name, value in options.items()]
    script = "echo to the cloud; read line </dev/zero"
    run = [
        "run",
        "-d",
        "--name=aws",
        "--network=none",
        "--log-driver=awslogs",
        *flags,
        "busybox",
        "sh",
        "-c",
        script,
    ]
    sampan.ok(*run)
    shim = shim_of(sampan, "aws")
    writer = await_that(lambda: writer_of(shim))
    sampan.ok("kill", "aws")
    # What the driver collects is sent at the end.
    await_that(lambda: is_gone(writer))
    assert cloud.messages("g", "s") == ["to the cloud"]
    assert sampan.ok("logs", "aws") == "to the cloud"


def check_metrics(sampan: Any, address: str) -> None:
    """Lines that do not fit in the buffer, as the server is not there."""
    server = "--log-opt=syslog-address=tcp://127.0.0.1:1"
    flags = ["--network=none", server, "--log-opt=mode=non-blocking", "--log-opt=max-buffer-size=0"]
    sampan.ok(
        "run", "-d", "--name=lossy", *flags, "busybox", "sh", "-c", "seq 1 100; echo >/ready; sleep 1000"
    )
    await_that(lambda: sampan.run("exec", "lossy", "test", "-e", "/ready").returncode == 0)
    await_that(lambda: inspect(sampan, "lossy").get("LogStatus", {}).get("LostLines") == 99)
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as page:
        lines = [line for line in page.read().decode().splitlines() if 'name="lossy"' in line]
    assert any(
        line.startswith("sampan_container_log_lost_lines_total") and line.endswith(" 99.0") for line in lines
    )
    # 100 numbers with their newlines are 292 bytes, of which the first line waits to be delivered.
    assert any(
        line.startswith("sampan_container_log_lost_bytes_total") and line.endswith(" 290.0") for line in lines
    )
    sampan.ok("rm", "-f", "lossy")
