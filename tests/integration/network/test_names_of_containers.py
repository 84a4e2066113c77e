"""Names as containers of a whole engine find them. What leaves the host is watched by a packet socket."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from tests.integration.conftest import BUSYBOX

from sampan.linux.netlink_namespace import in_namespace

pytestmark = pytest.mark.root

SLEEPER = (BUSYBOX, "sleep", "1000")
_ETH_P_ALL = 0x0003


@contextlib.contextmanager
def namespace_of(sampan: Any, container: str) -> Iterator[int]:
    pid = sampan.ok("inspect", "-f", "{{.State.Pid}}", container)
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        yield namespace
    finally:
        os.close(namespace)


def ask(sampan: Any, container: str, name: str, kind: str = "A", timeout: float = 20.0) -> Any:
    """What the name server of a running container answers, whole."""
    with namespace_of(sampan, container) as namespace:
        return ask_in(namespace, name, kind, timeout)


def ask_in(namespace: int, name: str, kind: str = "A", timeout: float = 20.0) -> Any:
    with in_namespace(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.settimeout(timeout)
        client.connect(("127.0.0.11", 53))
        client.send(DNSRecord.question(name, kind).pack())
        return DNSRecord.parse(client.recv(65536))


def values(reply: Any) -> list[str]:
    return [str(record.rdata) for record in reply.rr]


def address(sampan: Any, container: str, network: str) -> str:
    return sampan.ok(
        "inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}', container
    )


class Resolver:
    """In a container's namespace, at its port 53: answers every query with 203.0.113.9, notes names and clients."""

    def __init__(self, sampan: Any, container: str) -> None:
        self.asked: list[tuple[str, str]] = []
        with namespace_of(sampan, container) as namespace:
            self._socket = in_namespace(namespace, self._bind)
        threading.Thread(target=self._serve, daemon=True).start()

    @staticmethod
    def _bind() -> socket.socket:
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(("0.0.0.0", 53))
        return bound

    def _serve(self) -> None:
        while True:
            try:
                data, client = self._socket.recvfrom(4096)
            except OSError:
                return
            if not data:
                return
            query = DNSRecord.parse(data)
            self.asked.append((str(query.q.qname).rstrip("."), client[0]))
            reply = query.reply()
            reply.add_answer(RR(query.q.qname, QTYPE.A, ttl=5, rdata=A("203.0.113.9")))
            self._socket.sendto(reply.pack(), client)

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def watched(label: str) -> Iterator[list[bytes]]:
    """Every packet of the host's namespace, on any device, that has the label in it."""
    seen: list[bytes] = []
    done = threading.Event()
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
    sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)

    def sniff() -> None:
        while True:
            ready = select.select([sniffer], [], [], 0.05)[0]
            if not ready and done.is_set():
                return
            if ready and label.encode() in (packet := sniffer.recv(65536)):
                seen.append(packet)

    thread = threading.Thread(target=sniff)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
        sniffer.close()


def test_names_ids_aliases_shared_names_and_addresses(sampan: Any) -> None:
    for network in ("front", "back"):
        sampan.ok("network", "create", "--internal", network)  # whom nobody here knows is asked of nobody
    run = ("run", "-d", "--network", "front")
    identity = sampan.ok(*run, "--name", "One", "--hostname", "boxone", "--network-alias", "web", *SLEEPER)
    sampan.ok(*run, "--name", "two", "--network-alias", "web", *SLEEPER)
    sampan.ok("network", "connect", "--alias", "inner", "back", "One")
    one, two = address(sampan, "One", "front"), address(sampan, "two", "front")
    for name in ("One", "one", identity[:12], "boxone", "one.front", "ONE.FRONT", "boxone.front"):
        assert values(ask(sampan, "two", name)) == [one], name
    shared = [values(ask(sampan, "two", "web")) for _ in range(4)]
    assert {tuple(sorted(found)) for found in shared} == {tuple(sorted((one, two)))}
    assert {found[0] for found in shared} == {one, two}
    reverse = ".".join(reversed(one.split("."))) + ".in-addr.arpa"
    assert values(ask(sampan, "two", reverse, "PTR")) == ["One.front."]
    # Of the other network the neighbour knows nothing; the container itself knows both.
    for name in ("inner", "one.back"):
        assert values(ask(sampan, "two", name)) == []
        assert values(ask(sampan, "One", name)) == [address(sampan, "One", "back")]
    sampan.ok("rename", "two", "three")
    assert values(ask(sampan, "One", "three")) == [two]
    sampan.ok("network", "disconnect", "front", "three")
    assert values(ask(sampan, "One", "three")) == []
    assert values(ask(sampan, "One", "web")) == [one]


def test_search_domains_and_options_find_names_with_the_c_librarys_rules(sampan: Any) -> None:
    sampan.ok("network", "create", "front")
    sampan.ok("run", "-d", "--name", "db", "--network", "front", "--network-alias", "db.corp.test", *SLEEPER)
    script = "cat /etc/resolv.conf; ping -c1 -W2 db"
    told = sampan.ok(
        "run", "--rm", "--network", "front", "--dns-search", "corp.test", "--dns-option", "timeout:3",
        "--add-host", "gate:host-gateway", "--dns", "192.0.2.1",
        BUSYBOX, "sh", "-c", f"{script}; grep gate /etc/hosts",
    )  # fmt: skip
    gateway = sampan.ok("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge")
    assert told.splitlines()[:3] == [
        "nameserver 127.0.0.11",
        "search corp.test",
        "options timeout:3 ndots:0",
    ]
    assert address(sampan, "db", "front") in told
    assert told.splitlines()[-1].split() == [gateway, "gate"]


def test_a_container_that_is_connected_later_asks_the_name_server_from_then_on(sampan: Any) -> None:
    sampan.ok("network", "create", "front")
    sampan.ok("run", "-d", "--name", "db", "--network", "front", *SLEEPER)
    sampan.ok("run", "-d", "--name", "late", *SLEEPER)
    sampan.ok("run", "-d", "--name", "own", *SLEEPER)
    sampan.ok("exec", "own", "sh", "-c", "echo nameserver 192.0.2.1 > /etc/resolv.conf")
    for name in ("late", "own"):
        sampan.ok("network", "connect", "front", name)
    assert address(sampan, "db", "front") in sampan.ok("exec", "late", "ping", "-c1", "-W2", "db")
    assert sampan.ok("exec", "own", "cat", "/etc/resolv.conf") == "nameserver 192.0.2.1"


def test_resolvers_of_a_container_are_asked_from_the_container(sampan: Any) -> None:
    sampan.ok("network", "create", "--internal", "inside")
    sampan.ok("run", "-d", "--name", "dns", "--network", "inside", *SLEEPER)
    resolver = Resolver(sampan, "dns")
    try:
        run = ("run", "-d", "--network", "inside", "--dns", address(sampan, "dns", "inside"))
        sampan.ok(*run, "--name", "asker", *SLEEPER)
        assert values(ask(sampan, "asker", "example.test")) == ["203.0.113.9"]
        assert resolver.asked == [("example.test", address(sampan, "asker", "inside"))]
        # A single label is nobody's business outside when the client has search domains to try.
        sampan.ok(*run, "--name", "dotted", "--dns-option", "ndots:1", *SLEEPER)
        assert (values(ask(sampan, "dotted", "printer")), len(resolver.asked)) == ([], 1)
        # Its own name server is no resolver that it could be sent to.
        sampan.ok("run", "-d", "--name", "loop", "--network", "inside", "--dns", "127.0.0.11", *SLEEPER)
        assert ask(sampan, "loop", "example.test").header.rcode == RCODE.SERVFAIL
    finally:
        resolver.close()


@contextlib.contextmanager
def silence(address: str) -> Iterator[None]:
    """Packets to the address leave the host and nobody answers, whatever routes the host has."""
    device = f"sil{secrets.token_hex(4)}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    ip("link", "add", device, "type", "veth", "peer", "name", f"{device}p")
    try:
        for end in (device, f"{device}p"):
            ip("link", "set", end, "up")
        ip("neigh", "add", address, "lladdr", "02:00:00:00:00:99", "dev", device)
        ip("route", "add", f"{address}/32", "dev", device)
        yield
    finally:
        ip("link", "del", device)


@silence("192.0.2.53")
def test_no_packet_leaves_an_internal_network_for_a_name(sampan: Any) -> None:
    """CVE-2024-29018; whatever the resolvers are."""
    label = secrets.token_hex(12)
    sampan.ok("network", "create", "--internal", "inside")
    sampan.ok("network", "create", "outside")
    sampan.ok("run", "-d", "--name", "closed", "--network", "inside", *SLEEPER)
    sampan.ok("run", "-d", "--name", "pointed", "--network", "inside", "--dns", "192.0.2.53", *SLEEPER)
    sampan.ok("run", "-d", "--name", "open", "--network", "outside", "--dns", "192.0.2.53", *SLEEPER)
    begin = time.monotonic()
    with watched(label) as seen:
        for name in ("closed", "pointed"):
            for kind in ("A", "AAAA", "TXT", "MX"):
                assert ask(sampan, name, f"{label}.example.test", kind).header.rcode == RCODE.SERVFAIL
    assert seen == []
    assert time.monotonic() - begin < 12  # nobody was waited for, which takes 4 s each time
    with watched(label) as seen:
        with pytest.raises(TimeoutError):
            ask(sampan, "open", f"{label}.example.test", timeout=1)
        # Connected to the internal network only from now on, with what was under way still under way.
        sampan.ok("network", "connect", "inside", "open")
        sampan.ok("network", "disconnect", "outside", "open")
    assert seen, "the watch sees nothing at all"
    with watched(label) as seen:
        assert ask(sampan, "open", f"again.{label}.example.test").header.rcode == RCODE.SERVFAIL
    assert [packet for packet in seen if b"again" in packet] == []


def test_names_reach_the_steps_of_a_build_on_the_same_network(sampan: Any, tmp_path: Any) -> None:
    sampan.ok("network", "create", "front")
    sampan.ok("run", "-d", "--name", "db", "--network", "front", *SLEEPER)
    (tmp_path / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN ping -c1 -W2 db && cat /etc/resolv.conf\n")
    done = sampan.run("build", "--no-cache", "--progress", "plain", "--network", "front", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert address(sampan, "db", "front") in done.stderr + done.stdout
    assert "nameserver 127.0.0.11" in done.stderr + done.stdout


def pointing_to(conf: Path) -> tuple[str, ...]:
    """A command's prefix that gives it another resolv.conf than the host's."""
    return ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(conf))


@contextlib.contextmanager
def host_resolver(address: str) -> Iterator[list[str]]:
    """On the host's loopback, where no container reaches it: what it is asked; every A is 203.0.113.9."""
    asked: list[str] = []
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind((address, 53))

    def serve() -> None:
        while True:
            try:
                data, client = bound.recvfrom(4096)
            except OSError:
                return
            if not data:
                return
            query = DNSRecord.parse(data)
            asked.append(str(query.q.qname).rstrip("."))
            reply = query.reply()
            reply.add_answer(RR(query.q.qname, QTYPE.A, ttl=5, rdata=A("203.0.113.9")))
            bound.sendto(reply.pack(), client)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (address, 53))
        thread.join()
        bound.close()


def test_with_resolvers_on_the_hosts_loopback_alone_the_default_bridge_asks_the_name_server(
    make_sampan: Any, tmp_path: Path
) -> None:
    """And goes on through the death of its engine, and with the resolvers that the host gets later."""
    conf = tmp_path / "resolv.conf"
    conf.write_text("nameserver 127.9.9.9\nsearch corp.test\n")
    sampan = make_sampan(tmp_path / "engine", prefix=pointing_to(conf))
    try:
        with host_resolver("127.9.9.9") as asked, host_resolver("127.9.9.10") as asked_later:
            sampan.ok("run", "-d", "--name", "plain", *SLEEPER)
            sampan.ok("network", "create", "front")
            sampan.ok("run", "-d", "--name", "db", "--network", "front", *SLEEPER)
            told = sampan.ok("exec", "plain", "cat", "/etc/resolv.conf")
            assert told.splitlines() == ["nameserver 127.0.0.11", "search corp.test", "options ndots:0"]
            assert values(ask(sampan, "plain", "example.test")) == ["203.0.113.9"]
            assert values(ask(sampan, "plain", "db")) == ["203.0.113.9"]  # no name of this network
            assert asked == ["example.test", "db"]
            (tmp_path / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN nslookup -type=a in.build.test\n")
            sampan.ok("build", "--no-cache", str(tmp_path))
            assert asked[2:] == ["in.build.test"]
            with namespace_of(sampan, "plain") as plain, namespace_of(sampan, "db") as db:
                own = address(sampan, "db", "front")
                sampan.engine.kill()
                assert values(ask_in(plain, "no.engine.test")) == ["203.0.113.9"]
                assert values(ask_in(db, "db")) == [own]
                conf.write_text("nameserver 127.9.9.10\n")
                assert values(ask_in(plain, "later.test")) == ["203.0.113.9"]
                assert asked_later == ["later.test"]
                sampan.engine.start()
                assert values(ask_in(plain, "again.test")) == ["203.0.113.9"]
                assert values(ask_in(db, "db")) == [own]
                sampan.ok("rename", "db", "store")
                assert values(ask_in(db, "store")) == [own]
    finally:
        sampan.close()
        sampan.engine.stop()


def test_the_default_bridge_has_names_when_that_is_asked_for_and_resolvers_of_the_engine_count(
    make_sampan: Any, tmp_path: Path
) -> None:
    sampan = make_sampan(tmp_path / "engine", options=("--bridge-dns", "names", "--dns", "192.0.2.53"))
    try:
        sampan.ok("network", "create", "--internal", "inside")
        sampan.ok("run", "-d", "--name", "db", *SLEEPER)
        sampan.ok("run", "-d", "--name", "web", *SLEEPER)
        assert values(ask(sampan, "web", "db")) == [address(sampan, "db", "bridge")]
        assert values(ask(sampan, "web", "db.bridge")) == [address(sampan, "db", "bridge")]
        assert sampan.ok("exec", "web", "cat", "/etc/resolv.conf").startswith("nameserver 127.0.0.11")
        sampan.ok("run", "-d", "--name", "closed", "--network", "inside", *SLEEPER)
        assert ask(sampan, "closed", "example.test").header.rcode == RCODE.SERVFAIL
        (tmp_path / "Dockerfile").write_text(f"FROM {BUSYBOX}\nRUN ping -c1 -W2 db\n")
        sampan.ok("build", "--no-cache", str(tmp_path))
    finally:
        sampan.close()
        sampan.engine.stop()
