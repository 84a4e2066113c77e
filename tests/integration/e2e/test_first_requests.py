"""The first packet that is sent to a new container, and the first one that it sends, arrive: also on a busy machine."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

_STARTS, _AT_ONCE, _BUSY = 12, 4, 4
_RETRANSMITS = 100  # offset of tcpi_total_retrans in struct tcp_info (linux/tcp.h)
_LISTENS = "0A"  # the state in /proc/net/tcp


@pytest.fixture
def busy() -> Iterator[None]:
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(_BUSY)]
    yield
    for one in burners:
        one.kill()
        one.wait()


def listening(process: int) -> None:
    """Wait until the container's own server takes connections: when is not the engine's affair."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        rows = [
            row.split()
            for table in ("tcp", "tcp6")
            for row in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]
        ]
        if any(row[1].endswith(":0050") and row[3] == _LISTENS for row in rows):
            return
        time.sleep(0.005)
    raise AssertionError("the server does not listen")


def fetch_once(host: str, port: int) -> None:
    with socket.create_connection((host, port), 30) as client:
        (again,) = struct.unpack_from(
            "=I", client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), _RETRANSMITS
        )
        assert again == 0, f"the first packet to {host} was lost"
        client.sendall(b"GET /passwd HTTP/1.0\r\n\r\n")
        with client.makefile("rb") as answer:
            assert b"200 OK" in answer.readline()


def counters(text: str) -> dict[str, dict[str, int]]:
    """/proc/net/snmp: a row of names, then a row of numbers, for each protocol."""
    rows = [line.split() for line in text.splitlines() if line.startswith(("Tcp:", "Udp:"))]
    return {
        names[0][:3]: dict(zip(names[1:], map(int, numbers[1:]), strict=True))
        for names, numbers in zip(rows[::2], rows[1::2], strict=True)
    }


def test_no_first_request_is_lost_after_a_start(sampan: Any, busy: None) -> None:
    network = "first-requests"
    sampan.ok("network", "create", network)

    def one(number: int) -> None:
        own = ("--network", network, "-p", "80", "--name", f"web{number}")
        sampan.ok("run", "-d", *own, "busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
        found = json.loads(sampan.ok("inspect", f"web{number}"))[0]
        listening(found["State"]["Pid"])
        fetch_once("127.0.0.1", int(found["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]))
        script = f"wget -q -O /dev/null http://web{number}/passwd && cat /proc/net/snmp"
        asked = sampan.ok("run", "--rm", "--network", network, "busybox", "sh", "-c", script)
        seen = counters(asked)
        assert seen["Tcp"]["RetransSegs"] == 0 and seen["Tcp"]["ActiveOpens"] == 1
        # Questions and answers: the name server's socket is in the same namespace.
        assert seen["Udp"]["OutDatagrams"] == seen["Udp"]["InDatagrams"] > 0

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(one, range(_STARTS)))
