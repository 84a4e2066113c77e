"""What Debian's dockerd sends to a log server for a container, beside what our drivers send for the same one."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sampan.logs import destination
from sampan.logs.entry import LogEntry, LogSource
from sampan.testing import cloudwatch
from sampan.testing.cloudwatch import CloudWatchLogs
from sampan.testing.images import busybox_tar
from sampan.testing.log_drivers import tcp_server

pytestmark = pytest.mark.root

LINES = [b"hello", b"\ttab \x1b[31mred\x1b[0m", b"no \xff\xfe text", b"", b"\0nul", b"last"]
MOMENT = 1_795_566_243_701_234_567


@pytest.fixture(scope="module")
def dockerd() -> Iterator[dict[str, str]]:
    """The environment for docker commands against a private dockerd with busybox."""
    directory = Path(tempfile.mkdtemp(prefix="sampan-dockerd-"))
    process = subprocess.Popen(
        [
            *("dockerd", "--data-root", f"{directory}/root", "--exec-root", f"{directory}/exec"),
            *("--bridge", "none", "--iptables=false", "--ip6tables=false", "-H", f"unix://{directory}/sock"),
            *("--pidfile", f"{directory}/pid"),
        ],
        env=os.environ
        | {"AWS_ACCESS_KEY_ID": cloudwatch.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": cloudwatch.SECRET_KEY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        seen = b""
        while b"API listen on" not in seen:
            chunk = os.read(process.stderr.fileno(), 65536)
            assert chunk, f"dockerd did not start: {seen.decode()}"
            seen += chunk
        config = {"DOCKER_CONFIG": str(directory / "client"), "PATH": os.environ["PATH"]}
        environment = {"DOCKER_HOST": f"unix://{directory}/sock", **config}
        call(["import", "-", "busybox"], environment, stdin=busybox_tar())
        yield environment | {"DOCKERD_PID": str(process.pid)}
    finally:
        process.terminate()
        process.communicate(timeout=60)
        shutil.rmtree(directory, ignore_errors=True)


def call(arguments: list[str], environment: dict[str, str], stdin: bytes = b"") -> str:
    done = subprocess.run(
        ["/usr/bin/docker", *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.decode("utf-8", "replace").strip()


def container(environment: dict[str, str], driver: str, options: dict[str, str]) -> LogSource:
    """A container that has written the lines, as a log driver knows it."""
    flags = [flag for name, value in options.items() for flag in ("--log-opt", f"{name}={value}")]
    octal = "".join(f"\\{byte:03o}" for byte in b"".join(line + b"\n" for line in LINES))
    created = ["--name=web", "--network=none", "--label=team=a b", "--env=STAGE=x", f"--log-driver={driver}"]
    call(["run", *created, *flags, "busybox", "/bin/sh", "-c", f"printf '{octal}'"], environment)
    info = json.loads(call(["inspect", "web"], environment))[0]
    call(["rm", "web"], environment)
    return LogSource(
        id=info["Id"],
        name="web",
        image_id=info["Image"],
        image_name=info["Config"]["Image"],
        command=" ".join([info["Path"], *info["Args"]]),
        created=info["Created"],
        daemon_name="docker",
        host=socket.gethostname(),
        tag=info["Id"][:12],
        attributes={"team": "a b", "STAGE": "x"} if "labels" in options else {},
    )


def ours(driver: str, options: dict[str, str], source: LogSource) -> None:
    """The same lines through our driver, one at a time, as dockerd sends them."""
    opened = destination.open_destination(driver, options, source)
    for line in LINES:
        opened.send([LogEntry(1, line, MOMENT)])
    opened.close()
    assert opened.losses.entries == 0


def datagrams(server: socket.socket) -> list[bytes]:
    """Those of one container."""
    found: list[bytes] = []
    while not found or b"last" not in found[-1]:
        found.append(server.recv(65536))
    return found


_TIME = re.compile(
    rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?(?:Z|[+-]\d\d:\d\d)"
    rb"|(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ 123]\d \d\d:\d\d:\d\d"
)


def without_times(messages: list[bytes], pid: str) -> list[bytes]:
    """Times by their form only, the sender's process by name."""
    return [
        _TIME.sub(lambda found: b"MICROS" if found[1] else b"TIME", message, count=1).replace(
            pid.encode(), b"PID", 1
        )
        for message in messages
    ]


@pytest.mark.parametrize("format", ["", "rfc3164", "rfc5424", "rfc5424micro"])
def test_syslog_messages_are_dockers(dockerd: dict[str, str], format: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        options = {
            "syslog-address": f"udp://127.0.0.1:{server.getsockname()[1]}",
            "syslog-format": format,
            "syslog-facility": "local3",
        }
        source = container(dockerd, "syslog", options)
        theirs = without_times(datagrams(server), dockerd["DOCKERD_PID"])
        ours("syslog", options, source)
        assert without_times(datagrams(server), str(os.getpid())) == theirs
        assert len(theirs) == len(LINES) - 1 and (b"TIME" in theirs[0] or b"MICROS" in theirs[0])


def test_gelf_messages_are_dockers(dockerd: dict[str, str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(20)
        options = {
            "gelf-address": f"udp://127.0.0.1:{server.getsockname()[1]}",
            "gelf-compression-type": "none",
            "labels": "team",
            "env": "STAGE",
        }
        source = container(dockerd, "gelf", options)
        theirs = [json.loads(message) for message in datagrams(server)]
        ours("gelf", options, source)
        got = [json.loads(message) for message in datagrams(server)]
    for message in theirs + got:
        moment = message.pop("timestamp")
        assert isinstance(moment, float) and round(moment, 3) == moment
    assert got == theirs and len(theirs) == len(LINES) - 1


def test_fluentd_messages_are_dockers(dockerd: dict[str, str]) -> None:
    with tcp_server() as server:
        for precise in ("false", "true"):
            options = {
                "fluentd-address": f"127.0.0.1:{server.port}",
                "fluentd-sub-second-precision": precise,
                "labels": "team",
                "env": "STAGE",
            }
            source = container(dockerd, "fluentd", options)
            ours("fluentd", options, source)
            server.wait(lambda: [b"last" in bytes(each) for each in server.connections] == [True, True])
            theirs, got = (messages(bytes(said)) for said in server.connections)
            server.connections.clear()
            assert got == theirs and len(theirs) == len(LINES)


def messages(data: bytes) -> list[Any]:
    """Each message of a stream, its time by its form only: whole seconds, or the extension with its type and size."""
    found: list[Any] = []
    start = 0
    while start < len(data):
        # A message ends where the next begins, with an array of four: which of these bytes are ends is tried out.
        for end in range(start + 1, len(data) + 1):
            if end < len(data) and data[end] != 0x94:
                continue
            try:
                tag, moment, record, option = msgspec.msgpack.decode(
                    data[start:end].replace(b"\xff\xfe", b"??"),
                    type=tuple[str, Any, dict[str, str], dict[str, str]],
                )
            except msgspec.MsgspecError:
                continue
            precise = isinstance(moment, msgspec.msgpack.Ext)
            found.append((tag, (moment.code, len(moment.data)) if precise else type(moment), record, option))
            start = end
            break
        else:
            raise AssertionError(data[start:])
    return found


def test_journal_entries_have_dockers_fields(dockerd: dict[str, str], host_journal: Any) -> None:
    source = container(dockerd, "journald", options := {"labels": "team", "env": "STAGE"})
    ours("journald", options, source)
    follower = host_journal.follow(f"CONTAINER_ID_FULL={source.id}")
    entries = [next(follower) for _ in range(2 * len(LINES))]
    follower.close()
    by_sender: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for entry in entries:
        fields = {name: value for name, value in entry.items() if not name.startswith("_")}
        by_sender["CONTAINER_LOG_ORDINAL" in entry].append(fields)
    for got, theirs in zip(by_sender[True], by_sender[False], strict=True):
        assert theirs.items() <= got.items()
        # What Docker has added since 20.10.
        added = {"SYSLOG_TIMESTAMP", "CONTAINER_LOG_EPOCH", "CONTAINER_LOG_ORDINAL"}
        assert got.keys() - theirs.keys() == added


def test_cloudwatch_events_are_dockers(dockerd: dict[str, str], cloud: CloudWatchLogs) -> None:
    cloud.groups.add("g")
    options = {
        "awslogs-region": "eu-west-1",
        "awslogs-endpoint": cloud.url,
        "awslogs-group": "g",
        "awslogs-force-flush-interval-seconds": "1",
    }
    source = container(dockerd, "awslogs", options | {"awslogs-stream": "docker"})
    theirs = cloud.wait_for("g", "docker", len(LINES) - 1)
    calls, cloud.calls = cloud.calls, []
    ours("awslogs", options | {"awslogs-stream": "ours"}, source)
    assert cloud.messages("g", "ours") == theirs
    assert (
        list(dict.fromkeys(cloud.calls)) == list(dict.fromkeys(calls)) == ["CreateLogStream", "PutLogEvents"]
    )
