"""What people and reboots do to an engine's networks, and how everything works again: addresses, NAT, ports, names.

The engine is a real one, on a host of its own in a network namespace.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.testing.engine import EngineProcess
from sampan.testing.images import busybox_tar
from sampan.testing.places import Place
from sampan.testing.reachability import HOST, HOST6, NEIGHBOUR, SERVICE, WEB, Guest, Hosts, Network, World

pytestmark = pytest.mark.root

_ANSWER = 5.0  # seconds for one answer; what is closed fails at once
_TCP_INFO_BYTES = 104  # of struct tcp_info, to the end of tcpi_total_retrans
ALWAYS = ("--restart", "always")
BOTH = ("--subnet", "10.251.1.0/24", "--ipv6", "--subnet", "fd00:251:1::/64")
NETWORKS = (Network("net", BOTH), Network("other", ("--subnet", "10.251.2.0/24")))
GUESTS = (
    Guest(
        "web", ("net", "other"), ("-p", "8080:80", "-p", "127.0.0.1:8081:80", "--ip", "10.251.1.9", *ALWAYS)
    ),
    Guest("asks", ("net",), ALWAYS),
    Guest("plain", flags=("-p", "8082:80", *ALWAYS)),
    Guest("gone", ("net",)),
)


def question(name: str) -> bytes:
    """A DNS message that asks for the IPv4 addresses of `name` (RFC 1035, section 4.1)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\0\x00\x01\x00\x01"


def address_of(place: Place, name: str, seconds: float) -> str:
    """The last four bytes of the answer of 127.0.0.11: the address, when there is one."""
    with place.socket(socket.SOCK_DGRAM) as client:
        client.settimeout(seconds)
        client.connect(("127.0.0.11", 53))
        client.send(question(name))
        return socket.inet_ntoa(client.recv(512)[-4:])


class Site:
    """An engine on `hosts`, its world, and the sum of what has to work."""

    def __init__(self, hosts: Hosts, directory: Path) -> None:
        self.engine = EngineProcess(directory / "engine", prefix=hosts.prefix)
        self.world = World(hosts, self.cli)

    def cli(self, *arguments: str) -> str:
        return self.engine.cli(*arguments).stdout

    def build(self) -> None:
        self.engine.start()
        self.engine.cli("import", "-", "busybox:latest", stdin=busybox_tar())
        self.world.build(NETWORKS, GUESTS)

    def move(self, hosts: Hosts) -> None:
        """To a machine where nothing is but the disk."""
        self.world.close()
        self.engine = moved(self.engine, hosts)
        self.world = World(hosts, self.cli)

    def networks(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.cli("network", "inspect", "bridge", "net", "other"))
        return [{**network, "Containers": None} for network in found]

    def learn(self) -> None:
        """The containers anew, which were started again."""
        self.world.close()
        self.world.guests.clear()
        for name, first in (("web", "net"), ("asks", "net"), ("plain", "bridge")):
            self.world.learn(name, first)

    def problems(self, seconds: float = _ANSWER) -> list[str]:
        """What does not work, or not in so many seconds."""
        hosts, asks = self.world.hosts, self.world.guests["asks"]
        web = self.world.addresses["web"]
        attempts: dict[str, tuple[Callable[[], str], str]] = {
            "published, from afar": (lambda: hosts.neighbour.ask_tcp(HOST, 8080, timeout=seconds), "web "),
            "published, by IPv6": (lambda: hosts.neighbour.ask_tcp(HOST6, 8080, timeout=seconds), "web "),
            "a neighbour, by IPv6": (lambda: asks.ask_tcp(web["net"][1], WEB, timeout=seconds), "web "),
            "published, from the host": (
                lambda: hosts.engine.ask_tcp("127.0.0.1", 8081, timeout=seconds),
                "web ",
            ),
            "on the default bridge": (lambda: hosts.neighbour.ask_tcp(HOST, 8082, timeout=seconds), "plain "),
            "a neighbour": (lambda: asks.ask_tcp(web["net"][0], WEB, timeout=seconds), "web "),
            "the second network": (
                lambda: hosts.engine.ask_tcp(web["other"][0], WEB, timeout=seconds),
                "web ",
            ),
            "outwards": (
                lambda: asks.ask_tcp(NEIGHBOUR, SERVICE, timeout=seconds),
                f"neighbour ::ffff:{HOST} ",
            ),
            "names": (lambda: address_of(asks, "web", seconds), web["net"][0]),
        }
        found = []
        for what, (attempt, expected) in attempts.items():
            try:
                answer = attempt()
            except OSError as error:
                answer = str(error)
            if not answer.startswith(expected):
                found.append(f"{what}: {answer}")
        return found

    def expect_all(self) -> None:
        deadline = time.monotonic() + 60
        while found := self.problems(1):
            assert time.monotonic() < deadline, found


def moved(engine: EngineProcess, hosts: Hosts) -> EngineProcess:
    """The same engine on another host."""
    again = EngineProcess(engine.directory, prefix=hosts.prefix, subnet=engine.subnet)
    again.bridge, again.cgroup_parent = engine.bridge, engine.cgroup_parent
    return again


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    directory = Path(tempfile.mkdtemp(prefix="sampan-recovery-"))
    made = Site(Hosts(), directory)
    try:
        made.build()
        made.expect_all()
        yield made
    finally:
        made.world.close()
        made.engine.stop()
        made.world.hosts.close()
        shutil.rmtree(directory, ignore_errors=True)


DAMAGE = {
    "nothing": "true",
    "all rules flushed": "nft flush ruleset",
    "bridges deleted": "ip -o link show type bridge | cut -d: -f2 | xargs -n1 ip link delete",
    "addresses flushed": "ip -o link show type bridge | cut -d: -f2 | xargs -n1 ip address flush dev",
    "all of it": "nft flush ruleset; sysctl -q -w net.ipv4.ip_forward=0; "
    "ip -o link show type bridge | cut -d: -f2 | xargs -n1 ip link delete",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_after_kill_9_and_damage_the_next_start_finds_or_makes_everything(site: Site, damage: str) -> None:
    site.engine.kill()
    site.world.hosts.engine.command("sh", "-c", DAMAGE[damage])
    site.engine.start()
    site.expect_all()


@pytest.mark.parametrize("damage", ["all rules flushed", "bridges deleted", "addresses flushed"])
def test_damage_is_noticed_while_the_engine_runs(site: Site, damage: str) -> None:
    site.world.hosts.engine.command("sh", "-c", DAMAGE[damage])
    site.expect_all()


def test_an_engine_starts_when_another_program_has_taken_a_bridge_s_name_and_mends_it_when_it_is_free(
    site: Site,
) -> None:
    host = site.world.hosts.engine
    bridge = "br-" + site.cli("network", "inspect", "-f", "{{.Id}}", "net")[:12]
    site.engine.kill()
    host.command("sh", "-c", f"ip link delete {bridge}; ip link add {bridge} type veth peer name other0")
    site.engine.start()
    assert site.world.hosts.neighbour.ask_tcp(HOST, 8082).startswith("plain ")  # the others work
    assert (
        site.engine.cli("run", "--rm", "--network", "net", "busybox", "true", check=False).returncode == 125
    )
    assert "veth" in host.command("ip", "-d", "link", "show", bridge)
    host.command("ip", "link", "delete", bridge)
    site.expect_all()
    site.cli("run", "--rm", "--network", "net", "busybox", "true")


def connection_problem(place: Place) -> str | None:
    """Of a new connection to the published port: nobody answers, or its first packet was lost on the way."""
    with place.socket() as client:
        client.connect((HOST, 8082))
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        if int.from_bytes(info[-4:], sys.byteorder):
            return "the first packet was sent again"
        return None if client.recv(99).startswith(b"plain ") else "nobody answered"


def test_no_new_connection_is_refused_and_none_let_through_while_an_engine_takes_over(site: Site) -> None:
    hosts, found = site.world.hosts, list[str]()
    ended = threading.Event()
    forbidden = site.world.addresses["plain"]["bridge"][0]

    def connect() -> None:
        while not ended.is_set():
            try:
                if (problem := connection_problem(hosts.neighbour)) is not None:
                    found.append(problem)
            except OSError as error:
                found.append(str(error))

    def trespass() -> None:
        asks = site.world.guests["asks"]
        while not ended.is_set():
            if asks.can_reach(forbidden, WEB):
                found.append("another network was open")

    threads = [threading.Thread(target=work) for work in (connect, trespass)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            site.engine.kill()
            site.engine.start()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert found == []


def test_a_second_engine_comes_works_and_goes_without_disturbing_the_first(
    site: Site, tmp_path: Path
) -> None:
    hosts = site.world.hosts
    second = EngineProcess(tmp_path / "second", prefix=hosts.prefix)
    second.start()
    try:
        second.cli("import", "-", "busybox:latest", stdin=busybox_tar())
        second.cli("network", "create", "net")
        subnet = second.cli("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "net").stdout
        assert not subnet.startswith(("10.251.1.", "10.251.2."))
        taken = second.cli("run", "--rm", "-p", "8080:80", "busybox", "true", check=False)
        assert "port is already allocated" in taken.stderr or "address already in use" in taken.stderr
        second.cli(
            "run", "-d", "--name", "web", "--network", "net", "-p", "8090:80", "busybox", "sleep", "1000"
        )
        pid = int(second.cli("inspect", "-f", "{{.State.Pid}}", "web").stdout)
        place = Place.of_process(pid)
        try:
            place.serve_tcp(WEB, "second", "::")
            assert hosts.neighbour.ask_tcp(HOST, 8090).startswith("second ")
            assert site.problems() == []
            # Each other's addresses are closed, as those of networks of one engine are.
            assert not place.can_reach(site.world.addresses["web"]["net"][0], WEB)
            second.kill()
            assert site.problems() == []
            hosts.engine.command("sh", "-c", DAMAGE["all rules flushed"])
            second.start()
            site.expect_all()
            assert hosts.neighbour.ask_tcp(HOST, 8090).startswith("second ")
        finally:
            place.close()
    finally:
        second.stop()
    assert site.problems() == []


def test_after_a_reboot_networks_are_made_anew_and_containers_that_always_run_are_on_them(
    site: Site, wait_until: Any
) -> None:
    addresses = site.world.addresses["web"]
    networks = site.networks()
    power_off(site)
    old, hosts = site.world.hosts, Hosts()
    site.move(hosts)
    old.close()
    site.engine.start()
    wait_until(lambda: site.cli("ps", "-q", "--filter", "status=running").count("\n") == 3, "the restarts")
    site.learn()
    site.expect_all()
    assert site.networks() == networks
    assert site.world.addresses["web"]["net"][0] == addresses["net"][0]  # it was asked for
    assert site.cli("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "gone") == "exited 255\n"


def power_off(site: Site) -> None:
    """Everything ends at once, what is in memory is lost."""
    site.engine.kill()
    groups = [
        group for group in Path("/sys/fs/cgroup").glob(f"*{site.engine.cgroup_parent}") if group.is_dir()
    ]
    pids = {
        int(pid)
        for group in groups
        for file in group.rglob("cgroup.procs")
        for pid in file.read_text().split()
    }
    pids |= engine_processes(site.engine, site.world.hosts.engine)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shutil.rmtree(site.engine.run_dir)
    for group in groups:
        for directory in sorted(group.rglob("*"), reverse=True):
            if directory.is_dir():
                directory.rmdir()


def engine_processes(engine: EngineProcess, host: Place) -> set[int]:
    """Launcher and shims, by the directory in their command lines; relay and name server, by where they are."""
    found = set()
    namespace = os.fstat(host.fd).st_ino
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mine = str(engine.directory).encode() in (entry / "cmdline").read_bytes()
            if mine or (entry / "ns/net").stat().st_ino == namespace:
                found.add(int(entry.name))
    return found - {os.getpid()}
