"""Containers whose output goes to a log server: from `run --log-driver` to what real servers have."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.cloudwatch import CloudWatchLogs
from sampan.testing.log_drivers import tcp_server

pytestmark = pytest.mark.root

SAYS = "echo out; echo err >&2"


def driver(name: str, **options: str) -> list[str]:
    """Flags of `run`: an option's underscores are hyphens, and it begins with the driver's name unless it is common."""
    common = ("tag", "labels", "env", "mode", "max-buffer-size")
    flags = [f"--log-driver={name}"]
    for key, value in options.items():
        key = key.replace("_", "-")
        flags.append(f"--log-opt={key if key in common else f'{name}-{key}'}={value}")
    return flags


def test_syslog_has_lines_with_tag_severity_and_time(sampan: Any, rsyslog: Any) -> None:
    flags = driver(
        "syslog", address=f"tcp://127.0.0.1:{rsyslog.tcp}", format="rfc5424micro", tag="{{.Name}}/x"
    )
    sampan.ok("run", "--rm", "--name", "web", "--network", "none", *flags, "busybox", "sh", "-c", SAYS)
    records = sorted(rsyslog.next().split("|") for _ in range(2))
    assert [(each[0], each[3], each[6].strip()) for each in records] == [
        ("27", "web/x", "err"),
        ("30", "web/x", "out"),
    ]
    assert records[0][2] == socket.gethostname()


def test_gelf_and_fluentd_have_the_containers_fields(sampan: Any, node_server: Any) -> None:
    server = node_server("gelf_server.js", "0")
    run = ("run", "--name", "web", "--network", "none", "--label", "team=a", "--env", "STAGE=x")
    flags = driver("gelf", address=f"udp://127.0.0.1:{server.port}", labels="team", env="STAGE")
    sampan.ok(*run, *flags, "busybox", "sh", "-c", "echo out")
    info = sampan.api.containers.get("web").attrs
    got = server.next()
    assert {
        "version": "1.1",
        "host": socket.gethostname(),
        "short_message": "out",
        "level": 6,
        "_command": "sh -c echo out",
        "_container_id": info["Id"],
        "_container_name": "web",
        "_created": info["Created"],
        "_image_id": info["Image"],
        "_image_name": "busybox",
        "_tag": info["Id"][:12],
        "_team": "a",
        "_STAGE": "x",
    }.items() <= got.items()
    sampan.ok("rm", "web")

    server = node_server("fluent_server.js", "0")
    flags = driver(
        "fluentd", address=f"127.0.0.1:{server.port}", labels="team", env="STAGE", request_ack="true"
    )
    sampan.ok(*run, *flags, "busybox", "sh", "-c", "echo out; head -c 40000 /dev/zero | tr '\\0' x; echo end")
    id = sampan.api.containers.get("web").id
    got = server.next()
    assert got["tag"] == id[:12]
    assert got["record"] == {
        "container_id": id,
        "container_name": "/web",
        "source": "stdout",
        "log": "out",
        "team": "a",
        "STAGE": "x",
    }
    pieces = [server.next()["record"] for _ in range(3)]
    assert "".join(each["log"] for each in pieces) == "x" * 40000 + "end"
    assert [each["partial_ordinal"] for each in pieces] == ["1", "2", "3"]


def test_journald_has_the_containers_fields(sampan: Any, host_journal: Any) -> None:
    sampan.ok(
        *(
            "run",
            "--name",
            "web",
            "--network",
            "none",
            "--label",
            "priority=0",
            *driver("journald", labels="priority"),
        ),
        *("busybox", "sh", "-c", SAYS),
    )
    id = sampan.api.containers.get("web").id
    follower = host_journal.follow(f"CONTAINER_ID_FULL={id}")
    got = {each["MESSAGE"]: each for each in (next(follower), next(follower))}
    follower.close()
    assert (got["out"]["PRIORITY"], got["err"]["PRIORITY"]) == ("6", "3")
    assert got["out"]["CONTAINER_NAME"] == "web" and got["out"]["IMAGE_NAME"] == "busybox"
    assert got["out"]["LABEL_PRIORITY"] == "0"


def test_cloudwatch_has_the_lines(cloud: CloudWatchLogs, make_sampan: Any, tmp_path: Path) -> None:
    """With an engine of its own, whose environment has the credentials."""
    cloud.groups.add("g")
    made = make_sampan(tmp_path / "engine")
    try:
        flags = driver("awslogs", region="eu-west-1", endpoint=cloud.url, group="g", stream="s")
        made.ok("run", "--rm", "--network", "none", *flags, "busybox", "sh", "-c", "echo one; echo two")
        assert cloud.wait_for("g", "s", 2) == ["one", "two"]
        refused = made.run(
            "run", "--rm", "--network", "none", *flags[:-2], "--log-opt=awslogs-group=none", "busybox"
        )
        assert refused.returncode == 125
        assert (
            "failed to initialize logging driver: failed to create Cloudwatch log stream:" in refused.stderr
        )
    finally:
        made.close()
        made.engine.stop()


def test_a_server_that_is_not_there_fails_the_start_in_dockers_words(sampan: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        refused = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
        for flags, words in (
            (driver("syslog", address=f"tcp://127.0.0.1:{port}"), refused),
            (driver("fluentd", address=f"127.0.0.1:{port}"), refused),
            (
                driver("gelf", address=f"tcp://127.0.0.1:{port}"),
                f"gelf: cannot connect to GELF endpoint: 127.0.0.1:{port} {refused}",
            ),
        ):
            done = sampan.run("run", "--rm", "--network", "none", *flags, "busybox", "true")
            assert done.returncode == 125
            assert f"failed to initialize logging driver: {words}" in done.stderr
        done = sampan.run("create", *driver("syslog", facility="none"), "busybox", "true")
        assert done.returncode == 1 and "invalid syslog facility" in done.stderr


def test_a_server_that_restarts_gets_every_line_in_order(sampan: Any, rsyslog: Any) -> None:
    flags = driver("syslog", address=f"tcp://127.0.0.1:{rsyslog.tcp}", format="rfc5424")
    script = "echo before; read go; for n in $(seq 500); do echo line $n; done"
    client = sampan.start(
        "run", "-i", "--name", "web", "--network", "none", *flags, "busybox", "sh", "-c", script
    )
    assert rsyslog.next().split("|")[6].strip() == "before"
    rsyslog.stop()
    client.stdin.write(b"go\n")
    client.stdin.close()
    seen = [client.stdout.readline() for _ in range(501)]
    assert seen[-1] == b"line 500\n"
    rsyslog.start()
    got = [rsyslog.next().split("|")[6].strip() for _ in range(500)]
    assert got == [f"line {number}" for number in range(1, 501)]
    assert client.wait(30) == 0


def test_a_server_that_reads_nothing_does_not_hold_up_a_non_blocking_container_and_what_it_misses_is_counted(
    sampan: Any,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        flags = driver("syslog", address=address, mode="non-blocking", max_buffer_size="64k")
        # 30 MB: more than the sockets and the buffer hold.
        script = "yes 0123456789012345678901234567890123456789 | head -n 730000; echo end >&2"
        done = sampan.run(
            *("run", "--name", "web", "--network", "none", *flags, "--attach", "stderr"),
            *("busybox", "sh", "-c", script),
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, "end\n")
        connection, _ = silent.accept()
        with connection, connection.makefile("rb") as records:
            delivered = [record.rpartition(b" ")[2] for record in records]
    assert set(delivered) <= {b"0123456789012345678901234567890123456789\n", b"end\n"}
    deadline = time.monotonic() + 10
    while (status := lost(sampan))[0] + len(delivered) != 730_001:  # the shim's file; nobody is told of it
        assert time.monotonic() < deadline, (status, len(delivered))
    assert status[0] > 0 and 40 * status[0] - 40 <= status[1] <= 41 * status[0]


def test_a_slow_server_holds_up_a_blocking_container_and_misses_nothing(sampan: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as slow:
        flags = driver("syslog", address=f"tcp://127.0.0.1:{slow.getsockname()[1]}")
        script = "yes 0123456789012345678901234567890123456789 | head -n 730000; echo end"
        sampan.ok("run", "-d", "--name", "web", "--network", "none", *flags, "busybox", "sh", "-c", script)
        connection, _ = slow.accept()
        with connection, connection.makefile("rb") as records:
            read = [next(records) for _ in range(1000)]
            # More is to come than sockets and buffers hold, so it can't have ended.
            assert sampan.ok("inspect", "-f", "{{.State.Running}}", "web") == "true"
            read += records
    assert sampan.ok("wait", "web") == "0"
    assert len(read) == 730_001 and read[-1].endswith(b": end\n")
    assert lost(sampan) == (0, 0)


def lost(sampan: Any) -> tuple[int, int]:
    """Lines and bytes."""
    status = json.loads(sampan.ok("inspect", "web"))[0].get("LogStatus") or {}
    return status.get("LostLines", 0), status.get("LostBytes", 0)


def test_logs_shows_what_went_to_a_server(sampan: Any) -> None:
    with tcp_server() as server:
        flags = driver("syslog", address=f"tcp://127.0.0.1:{server.port}")
        sampan.ok("run", "--name", "web", "--network", "none", *flags, "busybox", "sh", "-c", SAYS)
        done = sampan.run("logs", "web")
        assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")
