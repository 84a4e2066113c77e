"""Where the host filters its input, published ports obey that filter; the relay that makes it so."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from sampan.linux.nftables import NftablesSocket
from sampan.network.model import PortBinding, PublishMode

pytestmark = pytest.mark.root


@pytest.fixture
def server(relay_world):
    container = relay_world.container(relay_world.network())
    container.serve_tcp(80, "web")
    container.serve_udp(53, "dns")
    return container


def wait_until(condition, seconds=20.0):
    """For what the kernel reports to nobody: the state of another process's sockets."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass in time"
        os.sched_yield()


def test_the_relay_serves_tcp_and_udp_of_ipv4_and_ipv6(relay_world, server):
    relay_world.publish(server, PortBinding(80, host_port=8080), PortBinding(53, "udp", host_port=5353))
    assert "8080 : " not in relay_world.ruleset()  # no element of a map
    for address in (relay_world.ADDRESS, relay_world.ADDRESS6):
        assert relay_world.outside.ask_tcp(address, 8080) == "web 10.213.1.1 hello"
        assert relay_world.outside.ask_udp(address, 5353) == "dns 10.213.1.1 hello"
    for address in ("127.0.0.1", "::1", relay_world.ADDRESS):
        assert relay_world.engine.ask_tcp(address, 8080) == "web 10.213.1.1 hello"
        assert relay_world.engine.ask_udp(address, 5353) == "dns 10.213.1.1 hello"
    assert server.ask_tcp(relay_world.ADDRESS, 8080).startswith("web ")


def test_the_relay_moves_many_bytes_both_ways_unharmed(relay_world, server):
    relay_world.publish(server, PortBinding(80, host_address="0.0.0.0", host_port=8080))
    data = os.urandom(1 << 20) * 24
    with relay_world.outside.socket() as client:
        client.connect((relay_world.ADDRESS, 8080))

        def send():
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        got = bytearray()
        while chunk := client.recv(1 << 20):
            got += chunk
        sender.join()
    assert hashlib.sha256(got.removeprefix(b"web 10.213.1.1 ")).digest() == hashlib.sha256(data).digest()


def test_a_udp_client_is_answered_from_the_address_it_wrote_to(relay_world, server):
    relay_world.engine.configure("uplink", "192.0.2.77/24")
    relay_world.publish(server, PortBinding(53, "udp", host_port=5353))
    assert relay_world.outside.ask_udp("192.0.2.77", 5353) == "dns 10.213.1.1 hello"  # a connected socket


def test_a_client_of_a_container_that_does_not_listen_is_disconnected(relay_world, server):
    relay_world.publish(server, PortBinding(81, host_port=8081))
    with relay_world.outside.socket() as client:
        client.connect((relay_world.ADDRESS, 8081))
        assert client.recv(1) == b""


def test_the_relay_is_started_again_when_it_dies(relay_world, server):
    relay_world.publish(server, PortBinding(80, host_port=8080))
    assert relay_world.outside.ask_tcp(relay_world.ADDRESS, 8080).startswith("web ")
    first = relay_world.host.relay_process
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: relay_world.host.relay_process not in (None, first))
    assert relay_world.outside.ask_tcp(relay_world.ADDRESS, 8080).startswith("web ")


def test_a_port_is_free_as_soon_as_it_is_unpublished(relay_world, server):
    for _ in range(20):
        bindings = relay_world.publish(server, PortBinding(80, host_port=8080))
        relay_world.unpublish(server, *bindings)
    assert not relay_world.outside.can_reach(relay_world.ADDRESS, 8080)


def test_the_relay_s_memory_is_small(relay_world, server):
    relay_world.publish(server, PortBinding(80, host_port=8080))
    relay_world.outside.ask_tcp(relay_world.ADDRESS, 8080)
    with open(f"/proc/{relay_world.host.relay_process}/smaps_rollup") as file:
        fields = dict(line.split(":", 1) for line in file.readlines()[1:])
    assert int(fields["Pss"].split()[0]) < 14_000  # KiB


FILTERS = {
    "nft": "nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }; "
    "add rule inet fw in iif lo accept; add rule inet fw in ip6 nexthdr icmpv6 accept; "
    "add rule inet fw in ct state established accept; add rule inet fw in iifname smp1 accept; "
    "add rule inet fw in tcp dport 9090 accept'",
    "iptables-nft": "iptables-nft -A INPUT -i uplink -p tcp --dport 8080 -j REJECT",
    "iptables-legacy": "iptables-legacy -A INPUT -i uplink -p tcp --dport 8080 -j DROP",
}


@pytest.mark.parametrize("kind", FILTERS)
def test_a_host_that_filters_its_input_keeps_published_ports_closed(world, kind):
    container = world.container(world.network())
    container.serve_tcp(80, "web")
    world.engine.command("sh", "-c", FILTERS[kind])
    world.publish(
        container,
        PortBinding(80, host_address="0.0.0.0", host_port=8080),
        PortBinding(80, host_address="0.0.0.0", host_port=9090),
    )
    assert not world.outside.can_reach(world.ADDRESS, 8080)  # the filter says no
    assert world.outside.ask_tcp(world.ADDRESS, 9090).startswith("web ")  # the filter says yes
    assert world.engine.ask_tcp("127.0.0.1", 8080).startswith("web ")


def test_the_setting_forces_nat_past_the_filter(world):
    forced = world.start_engine("forced", PublishMode.NAT)
    container = world.container(world.network())
    container.serve_tcp(80, "web")
    world.engine.command("sh", "-c", FILTERS["iptables-nft"])
    bindings = [PortBinding(80, host_address="0.0.0.0", host_port=8080)]
    world.engine.run(lambda: forced.publish(container.address, bindings))
    assert world.outside.ask_tcp(world.ADDRESS, 8080) == "web 192.0.2.1 hello"


def test_an_input_chain_that_can_not_drop_is_no_filter(world):
    container = world.container(world.network())
    container.serve_tcp(80, "web")
    world.engine.command(
        "sh", "-c", "nft 'add table ip t; add chain ip t in { type filter hook input priority 0; }'"
    )
    world.engine.command("iptables-legacy", "-L")
    world.publish(container, PortBinding(80, host_port=8080))
    assert world.outside.ask_tcp(world.ADDRESS, 8080) == "web 192.0.2.1 hello"  # by NAT: its own address


def test_a_stranger_can_not_make_the_relay_retire(relay_world, server):
    relay_world.publish(server, PortBinding(80, host_port=8080))
    assert relay_world.outside.ask_tcp(relay_world.ADDRESS, 8080).startswith("web ")
    script = (
        "import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "s.connect('\\0sampan-relay/one'); s.send(b'retire'); print(s.recv(9))"
    )
    done = relay_world.engine.run(
        lambda: subprocess.run(
            [os.path.realpath(sys.executable), "-c", script], capture_output=True, text=True, cwd="/"
        )
    )
    assert "retired" not in done.stdout
    assert relay_world.outside.ask_tcp(relay_world.ADDRESS, 8080).startswith("web ")


def test_docker_s_forward_policy_drop_does_not_stop_our_traffic(world):
    world.engine.command(
        "sh",
        "-c",
        "iptables-nft -P FORWARD DROP; iptables-nft -N DOCKER-USER; "
        "iptables-nft -A DOCKER-USER -j RETURN; iptables-nft -I FORWARD -j DOCKER-USER",
    )
    network = world.network()
    container = world.container(network)
    container.serve_tcp(80, "web")
    world.outside.serve_tcp(80, "outside")
    world.publish(container, PortBinding(80, host_port=8080))
    assert container.ask_tcp(world.OUTSIDE, 80).startswith("outside ")
    assert world.outside.ask_tcp(world.ADDRESS, 8080).startswith("web ")
    rules = world.engine.command("iptables-nft", "-S", "DOCKER-USER")
    assert "-A DOCKER-USER -i smp1" in rules
    world.engine.run(lambda: world.host.remove(network))
    assert "smp1" not in world.engine.command("iptables-nft", "-S", "DOCKER-USER")


def test_looking_at_the_host_s_rules_again_changes_none_of_them(world):
    world.engine.command("iptables-nft", "-P", "FORWARD", "DROP")
    container = world.container(world.network())
    world.publish(container, PortBinding(80, host_address="0.0.0.0", host_port=8080))
    world.engine.run(world.host.refresh)
    before = world.engine.command("iptables-nft", "-S", "FORWARD")
    assert "smp1" in before

    def generation():
        with NftablesSocket() as nftables:
            return nftables.generation()

    number = world.engine.run(generation)
    world.engine.run(world.host.refresh)
    assert world.engine.run(generation) == number
    world.engine.command("iptables-nft", "-D", "FORWARD", "1")
    world.engine.run(world.host.refresh)
    assert sorted(world.engine.command("iptables-nft", "-S", "FORWARD").split("\n")) == sorted(
        before.split("\n")
    )


def test_a_datagram_that_no_way_leads_for_does_not_end_the_relay(relay_world, server):
    bindings = PortBinding(80, host_port=8080), PortBinding(53, "udp", host_port=5353)
    relay_world.publish(server, *bindings)
    assert relay_world.outside.ask_tcp(relay_world.ADDRESS, 8080).startswith("web ")
    relays = relay_world.relays()
    relay_world.engine.command("sh", "-c", "ip link set smp1 down; ip route del default")
    with relay_world.engine.socket(socket.SOCK_DGRAM) as premise, pytest.raises(OSError, match="unreachable"):
        premise.connect((server.address, 53))
    with relay_world.outside.socket(socket.SOCK_DGRAM) as client:
        client.sendto(b"lost", (relay_world.ADDRESS, 5353))
        # Answered only after the datagram was looked at: the relay is a single thread.
        with relay_world.outside.socket() as probe:
            probe.settimeout(20)
            probe.connect((relay_world.ADDRESS, 8080))
            assert probe.recv(1) == b""
    assert relay_world.relays() == relays


def test_published_ports_survive_that_somebody_flushes_the_ruleset(world):
    container = world.container(world.network())
    container.serve_tcp(80, "web")
    world.publish(container, PortBinding(80, host_address="0.0.0.0", host_port=8080))
    world.engine.command("nft", "flush", "ruleset")
    world.publish(container, PortBinding(80, host_address="0.0.0.0", host_port=8081))
    assert world.outside.ask_tcp(world.ADDRESS, 8080).startswith("web ")
    assert world.outside.ask_tcp(world.ADDRESS, 8081).startswith("web ")
    world.engine.command("nft", "flush", "ruleset")
    world.engine.run(world.host.refresh)
    assert world.outside.ask_tcp(world.ADDRESS, 8080).startswith("web ")


def test_what_is_connected_goes_on_when_the_filter_comes_and_goes(world):
    """As at each reload of a firewall that takes its rules away first."""
    container = world.container(world.network())
    container.serve_tcp(80, "web")
    container.serve_udp(53, "dns")
    bindings = PortBinding(80, "tcp", "0.0.0.0", 9090), PortBinding(53, "udp", "0.0.0.0", 5353)
    world.publish(container, *bindings)
    client = world.outside.socket(socket.SOCK_DGRAM)
    client.connect((world.ADDRESS, 5353))
    connections = []
    for command in ("-A", "-D", "-A"):
        connections.append(world.outside.socket())
        connections[-1].connect((world.ADDRESS, 9090))
        assert connections[-1].recv(99).startswith(b"web ")
        world.engine.command(
            "sh", "-c", f"iptables-nft {command} INPUT -i uplink -p tcp --dport 8080 -j REJECT"
        )
        world.engine.run(world.host.refresh)
        for connection in connections:
            connection.sendall(b"still there")
            assert connection.recv(99) == b"still there"
        client.send(b"asked")
        assert client.recv(99).startswith(b"dns ")


def test_a_filter_that_is_set_up_later_is_obeyed_after_a_refresh_and_forgotten_when_it_is_gone(world):
    container = world.container(world.network())
    container.serve_tcp(80, "web")
    world.publish(container, PortBinding(80, host_port=8080))
    world.engine.command("sh", "-c", FILTERS["iptables-nft"])
    world.engine.run(world.host.refresh)
    assert not world.outside.can_reach(world.ADDRESS, 8080)
    assert world.engine.ask_tcp("127.0.0.1", 8080).startswith("web ")
    world.engine.command("iptables-nft", "-F", "INPUT")
    world.engine.run(world.host.refresh)
    assert world.outside.ask_tcp(world.ADDRESS, 8080) == "web 192.0.2.1 hello"
