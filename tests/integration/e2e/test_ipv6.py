"""IPv6 from the command line to the wire: what containers see and what is shown of them, names, ports, options."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import leftovers

pytestmark = pytest.mark.root

_SERVE = "while :; do echo served | nc -l -p 80; done"


def ask(host: str, port: int) -> str:
    """What a server there says; asked again until it listens."""
    end = time.monotonic() + 10
    while True:
        try:
            with socket.create_connection((host, port), timeout=2) as client:
                if answer := client.recv(99).decode():
                    return answer
        except OSError as error:
            said = str(error)
        else:
            said = "closed without a word"
        assert time.monotonic() < end, f"nobody answers at {host} port {port}: {said}"
        time.sleep(0.02)


def shown(sampan: Any, name: str, network: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        sampan.ok("inspect", "-f", f'{{{{json (index .NetworkSettings.Networks "{network}")}}}}', name)
    )
    return found


def test_a_container_of_a_dual_network_has_both_addresses_everywhere(sampan: Any) -> None:
    sampan.ok(
        "network", "create", "--ipv6", "--subnet", "fd00:78:1::/64", "--subnet", "10.78.1.0/24",
        "--gateway", "fd00:78:1::9", "--ip-range", "fd00:78:1::100/120", "dual",
    )  # fmt: skip
    sampan.ok("run", "-d", "--name", "one", "--hostname", "h1", "--network", "dual", "busybox", "sleep", "99")
    sampan.ok(
        "run", "-d", "--name", "two", "--network", "dual", "--ip6", "fd00:78:1::22", "busybox", "sleep", "99"
    )
    inside = sampan.ok("exec", "one", "sh", "-c", "ip addr show eth0; ip -6 route; cat /etc/hosts")
    assert "inet 10.78.1.2/24" in inside
    assert "inet6 fd00:78:1::100/64" in inside
    assert "default via fd00:78:1::9 dev eth0" in inside
    assert inside.endswith("10.78.1.2\th1\nfd00:78:1::100\th1")
    body = shown(sampan, "two", "dual")
    assert body["IPAMConfig"] == {"IPv6Address": "fd00:78:1::22"}
    assert (body["GlobalIPv6Address"], body["GlobalIPv6PrefixLen"]) == ("fd00:78:1::22", 64)
    assert (body["IPAddress"], body["Gateway"], body["IPv6Gateway"]) == (
        "10.78.1.3",
        "10.78.1.1",
        "fd00:78:1::9",
    )
    network = json.loads(sampan.ok("network", "inspect", "dual"))[0]
    assert (network["EnableIPv4"], network["EnableIPv6"]) == (True, True)
    assert sorted(one["IPv6Address"] for one in network["Containers"].values()) == [
        "fd00:78:1::100/64",
        "fd00:78:1::22/64",
    ]
    assert "1 packets received" in sampan.ok("exec", "one", "ping", "-6", "-c1", "-W2", "two")
    assert "fd00:78:1::22" in sampan.ok("exec", "one", "nslookup", "-type=aaaa", "two.dual")
    pointer = "2.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.8.7.0.0.0.0.d.f.ip6.arpa"
    assert "two.dual" in sampan.ok("exec", "one", "nslookup", "-type=ptr", pointer)
    taken = sampan.run("run", "--rm", "--network", "dual", "--ip6", "fd00:78:1::22", "busybox", "true")
    assert taken.returncode == 125
    assert "failed to set up container networking: Address already in use" in taken.stderr


def test_ports_lead_to_ipv6_and_a_network_of_ipv6_alone_works_live(sampan: Any) -> None:
    sampan.ok("network", "create", "--ipv4=false", "--ipv6", "six")
    sampan.ok("run", "-d", "--name", "web", "-p", "80", "--network", "six", "busybox", "sh", "-c", _SERVE)
    assert sampan.ok("exec", "web", "ip", "-4", "-o", "addr", "show", "eth0") == ""
    place, _, port = sampan.ok("port", "web", "80").rpartition(":")
    assert place == "[::]"
    assert ask("::1", int(port)) == "served\n"
    address = shown(sampan, "web", "six")["GlobalIPv6Address"]
    assert address.startswith("fd")
    assert ask(address, 80) == "served\n"
    sampan.ok("run", "-d", "--name", "moves", "--hostname", "mh", "busybox", "sleep", "99")
    sampan.ok("exec", "moves", "sh", "-c", "echo 1.2.3.4 mine >> /etc/hosts")
    sampan.ok("network", "connect", "six", "moves")
    assert "served" in sampan.ok("exec", "moves", "nc", "web", "80")  # there is a name server now
    own = shown(sampan, "moves", "six")["GlobalIPv6Address"]
    assert sampan.ok("exec", "moves", "cat", "/etc/hosts").endswith(f"1.2.3.4 mine\n{own}\tmh")
    assert shown(sampan, "moves", "six")["IPv6Gateway"] == shown(sampan, "web", "six")["IPv6Gateway"] != ""
    sampan.ok("network", "disconnect", "six", "moves")
    assert "inet6 fd" not in sampan.ok("exec", "moves", "ip", "-6", "addr")
    assert sampan.ok("exec", "moves", "cat", "/etc/hosts").endswith("1.2.3.4 mine")
    off = ("--sysctl", "net.ipv6.conf.all.disable_ipv6=1")
    assert "inet6" not in sampan.ok("run", "--rm", "--network", "six", *off, "busybox", "ip", "addr")


def test_the_default_bridge_has_ipv6_when_the_daemon_is_told_so_and_keeps_it_through_kill_9(
    make_sampan: Any, tmp_path: Path
) -> None:
    sampan = make_sampan(tmp_path / "engine", options=("--ipv6", "--fixed-cidr-v6", "fd00:79:2::/64"))
    try:
        _default_bridge(sampan)
    finally:
        sampan.engine.stop()
    assert leftovers(sampan.engine) == []


def _default_bridge(sampan: Any) -> None:
    sampan.ok("run", "-d", "--name", "web", "-p", "80", "busybox", "sh", "-c", _SERVE)
    before = shown(sampan, "web", "bridge")
    assert before["GlobalIPv6Address"] == "fd00:79:2::2"
    port = int(sampan.ok("port", "web", "80").splitlines()[0].rpartition(":")[2])
    sampan.engine.kill()
    assert ask("::1", port) == "served\n"  # containers and their ports live on
    sampan.engine.start()
    assert shown(sampan, "web", "bridge") == before
    for host in ("127.0.0.1", "::1"):
        assert ask(host, port) == "served\n"
    names = sampan.ok("run", "--rm", "--add-host", "hg:host-gateway", "busybox", "grep", "hg", "/etc/hosts")
    assert [line.split()[0] for line in names.splitlines()] == [before["Gateway"], "fd00:79:2::1"]
    second = sampan.ok("run", "--rm", "busybox", "ip", "-6", "-o", "addr", "show", "eth0", "scope", "global")
    assert "fd00:79:2::2/" not in second
    sampan.ok("rm", "-f", "web")
    sampan.engine.kill()
    sampan.engine.options = ("--ipv6", "--fixed-cidr-v6", "fd00:79:3::/64")
    sampan.engine.start()
    own = subprocess.run(
        ["ip", "-o", "-6", "addr", "show", "dev", sampan.engine.bridge, "scope", "global"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "fd00:79:3::1/64" in own
    assert "fd00:79:2::" not in own
    third = sampan.ok("run", "--rm", "busybox", "ip", "-6", "-o", "addr", "show", "eth0", "scope", "global")
    assert "fd00:79:3::2/64" in third
