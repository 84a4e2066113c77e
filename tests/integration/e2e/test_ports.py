"""Published ports through the command line: how they are published, and their change while a container runs."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"
TWO_SERVERS = ("sh", "-c", "httpd -p 81 -h /etc; exec httpd -f -p 80 -h /etc")


def fetch(port: int | str, address: str = "127.0.0.1") -> str:
    """A server that has just been started listens some time later, and tells nobody."""
    deadline = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}:{port}/passwd", timeout=10) as answer:
                body: bytes = answer.read()
            return body.decode()
        except (ConnectionError, urllib.error.URLError):
            if time.monotonic() > deadline:
                raise


def is_closed(port: int, address: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((address, port)) != 0


def free_ports(number: int) -> list[int]:
    """Free at this moment; below the range that the engine itself chooses from."""
    found = []
    candidates = iter(range(23000, 29000, 7))
    while len(found) < number:
        port = next(candidates)
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        found.append(port)
    return found


def bindings(sampan: Any, name: str) -> dict[str, Any]:
    settings = json.loads(sampan.ok("inspect", name))[0]
    found: dict[str, Any] = settings["HostConfig"]["PortBindings"]
    return found


def test_ports_of_a_running_container_are_added_and_removed(sampan: Any) -> None:
    first, second, third = free_ports(3)
    sampan.ok("run", "-d", "--name", "web", "-p", f"{first}:80", BUSYBOX, *TWO_SERVERS)
    assert "root:" in fetch(first)
    with socket.create_connection(("127.0.0.1", first)) as kept:
        assert sampan.ok("update", "--publish-add", f"127.0.0.1:{second}:81", "web") == "web"
        assert "root:" in fetch(second)
        kept.sendall(b"GET /passwd HTTP/1.0\r\n\r\n")  # what stays published was not touched
        assert kept.recv(15).startswith(b"HTTP/1.")
    assert sampan.ok("port", "web", "81") == f"127.0.0.1:{second}"
    assert "81/tcp" in json.loads(sampan.ok("inspect", "web"))[0]["Config"]["ExposedPorts"]
    # One request may replace a binding: the same host port leads elsewhere afterwards.
    sampan.ok(
        "update", "--publish-rm", "80", "--publish-add", f"{first}:81", "--publish-add", f"{third}:80", "web"
    )
    assert set(sampan.docker("port", "web").stdout.replace(":::", "[::]:").splitlines()) == {
        f"80/tcp -> 0.0.0.0:{third}",
        f"80/tcp -> [::]:{third}",
        f"81/tcp -> 0.0.0.0:{first}",
        f"81/tcp -> [::]:{first}",
        f"81/tcp -> 127.0.0.1:{second}",
    }
    sampan.ok("update", "--publish-rm", f"{second}:81", "--publish-rm", f"{third}:80", "web")
    assert is_closed(second)
    assert is_closed(third)
    assert "root:" in fetch(first)
    sampan.ok("restart", "-t", "0", "web")
    assert bindings(sampan, "web") == {"81/tcp": [{"HostIp": "", "HostPort": str(first)}]}
    assert "root:" in fetch(first)


def test_a_change_of_ports_is_all_or_nothing(sampan: Any) -> None:
    first, second, taken = free_ports(3)
    sampan.ok("run", "-d", "--name", "web", "-p", f"{first}:80", BUSYBOX, *TWO_SERVERS)
    before = bindings(sampan, "web")
    with socket.create_server(("0.0.0.0", taken)):
        done = sampan.run(
            "update", "--memory", "64m", "--memory-swap", "64m", "--publish-rm", "80",
            "--publish-add", f"{second}:81", "--publish-add", f"{taken}:80", "web",
        )  # fmt: skip
    assert done.returncode == 1
    assert f"0.0.0.0:{taken}: bind: address already in use" in done.stderr
    assert bindings(sampan, "web") == before
    assert "root:" in fetch(first)
    assert is_closed(second)
    assert json.loads(sampan.ok("inspect", "web"))[0]["HostConfig"]["Memory"] == 0
    done = sampan.run("update", "--publish-rm", "82", "web")
    assert "No public port '82/tcp' published" in done.stderr
    sampan.ok("run", "-d", "--name", "other", "--network", "container:web", BUSYBOX, "sleep", "100")
    sampan.ok("run", "-d", "--name", "third", "--network", "host", BUSYBOX, "sleep", "100")
    for name in ("other", "third"):
        assert sampan.run("update", "--publish-add", "82", name).returncode == 1


def test_ports_of_a_stopped_container_are_there_at_its_next_start(sampan: Any) -> None:
    (first,) = free_ports(1)
    sampan.ok("create", "--name", "web", "-P", "--expose", "80", "--expose", "81", BUSYBOX, *TWO_SERVERS)
    sampan.ok("update", "--publish-rm", "81", "--publish-add", f"{first}:80", "web")
    sampan.ok("start", "web")
    assert "root:" in fetch(first)
    lines = sampan.ok("port", "web").splitlines()
    assert len(lines) == 4  # 80 at the chosen and at an ephemeral port, on both families
    assert all(line.startswith("80/tcp -> ") for line in lines)


def test_inspect_and_port_say_how_a_port_is_published(sampan: Any) -> None:
    (first,) = free_ports(1)
    sampan.ok("run", "-d", "--name", "web", "-p", f"127.0.0.1:{first}:80", BUSYBOX, *TWO_SERVERS)
    said = json.loads(sampan.ok("inspect", "web"))[0]["NetworkSettings"]["PublishedBy"]
    assert list(said) == [f"127.0.0.1:{first}/tcp"]
    mode = said[f"127.0.0.1:{first}/tcp"]
    assert mode in ("nat", "relay")
    assert sampan.ok("port", "--mode", "web") == f"80/tcp -> 127.0.0.1:{first} ({mode})"
    assert sampan.ok("port", "web") == f"80/tcp -> 127.0.0.1:{first}"


def test_changed_ports_survive_that_the_engine_is_killed(fresh_sampan: Any) -> None:
    first, second = free_ports(2)
    fresh_sampan.ok("run", "-d", "--name", "web", "-p", f"{first}:80", BUSYBOX, *TWO_SERVERS)
    fresh_sampan.ok("update", "--publish-rm", "80", "--publish-add", f"{second}:80", "web")
    fresh_sampan.engine.kill()
    fresh_sampan.engine.start()
    assert "root:" in fetch(second)
    assert is_closed(first)
    assert fresh_sampan.ok("port", "web").splitlines()[0] == f"80/tcp -> 0.0.0.0:{second}"


def test_an_internal_network_publishes_nothing(sampan: Any) -> None:
    (first,) = free_ports(1)
    sampan.ok("network", "create", "--internal", "closed")
    sampan.ok("run", "-d", "--name", "web", "--network", "closed", "-p", f"{first}:80", BUSYBOX, *TWO_SERVERS)
    assert sampan.ok("port", "web") == ""
    assert is_closed(first)


def test_a_network_can_be_closed_to_the_services_of_the_host(sampan: Any) -> None:
    sampan.ok("network", "create", "-o", "sampan.host_access=false", "closed")
    gateway = json.loads(sampan.ok("network", "inspect", "closed"))[0]["IPAM"]["Config"][0]["Gateway"]
    with socket.create_server((gateway, 0)) as service:
        port = str(service.getsockname()[1])

        def greet() -> None:
            service.accept()[0].close()

        greeter = threading.Thread(target=greet, daemon=True)
        greeter.start()
        reach = f"nc -w 2 {gateway} {port} < /dev/null"
        sampan.ok("network", "create", "usual")
        assert sampan.run("run", "--rm", "--network", "closed", BUSYBOX, "sh", "-c", reach).returncode != 0
        assert sampan.run("run", "--rm", "--network", "usual", BUSYBOX, "sh", "-c", reach).returncode == 0
        greeter.join()
    done = sampan.run("network", "create", "-o", "sampan.host_access=perhaps", "wrong")
    assert done.returncode == 1
    assert "sampan.host_access" in done.stderr
