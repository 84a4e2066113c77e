"""What containers, their host and other hosts can not reach."""

from __future__ import annotations

import socket
import struct

import pytest

from sampan.errors import Conflict
from sampan.network.model import PortBinding

pytestmark = pytest.mark.root


def test_an_internal_network_reaches_no_other_address_of_the_host(relay_world):
    """Nor what the relay listens for there; the host itself reaches its containers, as with Docker."""
    world = relay_world
    inside, other = world.network(1, internal=True), world.network(2)
    evil, web = world.container(inside), world.container(other)
    web.serve_tcp(80, "web")
    evil.serve_tcp(80, "evil")
    world.engine.serve_tcp(7000, "host")
    world.publish(web, PortBinding(80, host_port=8080))
    evil.command("ip", "route", "add", "default", "via", inside.gateway)  # as a hostile root would
    assert evil.ask_tcp(inside.gateway, 7000).startswith("host ")
    assert not evil.can_reach(inside.gateway, 8080)
    for address in (world.ADDRESS, other.gateway):
        assert not evil.can_reach(address, 7000)
        assert not evil.can_reach(address, 8080)
    assert world.engine.ask_tcp(evil.address, 80).startswith("evil ")
    world.outside.command("ip", "route", "add", inside.subnet, "via", world.ADDRESS)
    assert not world.outside.can_reach(evil.address, 80)


@pytest.mark.parametrize("mode", ["world", "relay_world"])
def test_a_network_without_access_to_the_host_reaches_everything_else(request, mode):
    world = request.getfixturevalue(mode)
    closed, other = world.network(1, host_access=False), world.network(2)
    one, two, web = world.container(closed, 2), world.container(closed, 3), world.container(other)
    web.serve_tcp(80, "web")
    two.serve_tcp(80, "two")
    world.engine.serve_tcp(7000, "host")
    world.engine.serve_udp(7000, "host")
    world.outside.serve_tcp(80, "outside")
    for address in (closed.gateway, world.ADDRESS, other.gateway):
        assert not one.can_reach(address, 7000)
        with pytest.raises(TimeoutError):
            one.ask_udp(address, 7000, timeout=0.3)
    assert web.ask_tcp(other.gateway, 7000).startswith("host ")
    assert one.ask_tcp(two.address, 80).startswith("two ")
    assert one.ask_tcp(world.OUTSIDE, 80).startswith("outside ")
    assert world.engine.ask_tcp(two.address, 80).startswith("two ")  # and its answers come back
    if mode == "world":
        world.publish(web, PortBinding(80, host_port=8080))
        assert one.ask_tcp(world.ADDRESS, 8080).startswith("web ")


def test_closing_a_network_from_the_host_is_no_input_filter_of_another_engine_s(world):
    """Or two engines on one host would make each other publish by relay."""
    world.network(1, host_access=False)
    second = world.start_engine("two")
    web = world.container(world.network(2))
    web.serve_tcp(80, "web")
    world.engine.run(lambda: second.publish(web.address, [PortBinding(80, "tcp", "0.0.0.0", 8080)]))
    assert world.outside.ask_tcp(world.ADDRESS, 8080) == f"web {world.OUTSIDE} hello"


def test_other_hosts_reach_neither_a_container_s_address_nor_a_port_on_loopback_by_routes_of_their_own(world):
    """CVE-2025-54388 and moby/moby#14041: also after a firewall's reload."""
    network = world.network()
    container = world.container(network)
    container.serve_tcp(80, "web")
    container.serve_udp(80, "web")
    world.publish(container, PortBinding(80, host_address="127.0.0.1", host_port=8080))
    outside = world.outside
    outside.command("ip", "route", "add", network.subnet, "via", world.ADDRESS)
    outside.command("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    outside.command("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
    outside.command("ip", "route", "add", "127.0.0.1/32", "via", world.ADDRESS, "src", world.OUTSIDE)

    def is_closed():
        assert not outside.can_reach(container.address, 80)
        assert not outside.can_reach("127.0.0.1", 8080)
        assert not outside.can_reach(world.ADDRESS, 8080)
        assert not outside.can_reach(network.gateway, 8080)
        with pytest.raises(TimeoutError):
            outside.ask_udp(container.address, 80, timeout=0.3)
        assert world.engine.ask_tcp("127.0.0.1", 8080).startswith("web ")

    is_closed()
    world.engine.command("nft", "flush", "ruleset")
    assert outside.ask_tcp(container.address, 80).startswith("web ")  # so it is our rules that keep it closed
    world.engine.run(world.host.refresh)
    is_closed()


def test_a_connection_from_outside_that_was_opened_while_the_rules_were_gone_ends_when_they_are_back(world):
    network = world.network()
    container = world.container(network)
    container.serve_tcp(80, "web")
    container.serve_tcp(81, "published")
    world.publish(container, PortBinding(81, host_address="0.0.0.0", host_port=8081))
    world.outside.command("ip", "route", "add", network.subnet, "via", world.ADDRESS)
    proper = world.outside.socket()
    proper.connect((world.ADDRESS, 8081))
    assert proper.recv(99).startswith(b"published ")
    world.engine.command("nft", "flush", "ruleset")
    sneaky = world.outside.socket()
    sneaky.connect((container.address, 80))
    assert sneaky.recv(99).startswith(b"web ")
    world.engine.run(world.host.refresh)
    sneaky.settimeout(0.4)
    sneaky.sendall(b"more")
    with pytest.raises(TimeoutError):
        sneaky.recv(99)
    proper.sendall(b"more")
    assert proper.recv(99) == b"more"


def test_two_engines_on_one_host_keep_their_networks_apart_and_each_its_own_rules(world):
    second = world.start_engine("two")
    one = world.container(world.network(1))
    first, world.host = world.host, second
    two = world.container(world.network(2))
    world.host = first
    for place, name in ((one, "one"), (two, "two")):
        place.serve_tcp(80, name)
    assert not one.can_reach(two.address, 80)
    assert not two.can_reach(one.address, 80)
    world.engine.run(lambda: first.publish(one.address, [PortBinding(80, "tcp", "0.0.0.0", 8080)]))
    world.engine.run(lambda: second.publish(two.address, [PortBinding(80, "tcp", "0.0.0.0", 8081)]))
    assert two.ask_tcp(world.ADDRESS, 8080).startswith("one ")
    assert one.ask_tcp(world.ADDRESS, 8081).startswith("two ")
    world.hosts.remove(first)
    world.engine.run(first.teardown)
    assert world.outside.ask_tcp(world.ADDRESS, 8081).startswith("two ")
    assert "sampan-one" not in world.ruleset()
    with pytest.raises(OSError, match="refused"):
        world.outside.ask_tcp(world.ADDRESS, 8080)


def test_a_network_that_trusts_another_ones_bridge_is_let_into_it_no_more_than_others(world):
    """`trusted_host_interfaces` is about who comes in by an interface."""
    network = world.network(1)
    web, other = world.container(network), world.container(world.network(2, trusted=(network.bridge,)))
    web.serve_tcp(80, "web")
    other.serve_tcp(80, "other")
    assert not other.can_reach(web.address, 80)
    assert not web.can_reach(other.address, 80), "it is not published"


DOCKER_RULES = """
iptables-nft -P FORWARD DROP
iptables-nft -N DOCKER
iptables-nft -N DOCKER-USER
iptables-nft -N DOCKER-ISOLATION-STAGE-1
iptables-nft -N DOCKER-ISOLATION-STAGE-2
iptables-nft -A FORWARD -j DOCKER-USER
iptables-nft -A FORWARD -j DOCKER-ISOLATION-STAGE-1
iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables-nft -A FORWARD -o docker0 -j DOCKER
iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
iptables-nft -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
iptables-nft -A DOCKER-ISOLATION-STAGE-1 -j RETURN
iptables-nft -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
iptables-nft -A DOCKER-ISOLATION-STAGE-2 -j RETURN
iptables-nft -A DOCKER-USER -j RETURN
"""
"""As Docker 20.10 writes them for its default bridge."""

DOCKER_PUBLISHES = """
iptables-{0} -P FORWARD ACCEPT
iptables-{0} -A DOCKER -d {1} ! -i docker0 -o docker0 -p tcp --dport 80 -j ACCEPT
iptables-{0} -t nat -A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 9090 -j DNAT --to-destination {1}:80
"""


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_beside_docker_both_work_and_neither_reaches_the_other_s_containers(world, variant):
    world.engine.command("sh", "-ec", DOCKER_RULES.replace("-nft", f"-{variant}"))
    docker = world.container(_docker_bridge(world), 2)
    network = world.network(1)
    ours = world.container(network)
    world.engine.run(world.host.refresh)
    docker.serve_tcp(80, "docker")
    ours.serve_tcp(80, "ours")
    world.outside.serve_tcp(80, "outside")
    assert ours.ask_tcp(world.OUTSIDE, 80).startswith("outside ")
    assert not ours.can_reach(docker.address, 80)
    assert not docker.can_reach(ours.address, 80)
    world.publish(ours, PortBinding(80, host_port=8080))
    assert docker.ask_tcp(world.ADDRESS, 8080).startswith("ours ")
    assert world.outside.ask_tcp(world.ADDRESS, 8080).startswith("ours ")
    # Where something else switched forwarding on first, 20.10 leaves the policy alone; only its own networks are closed
    # to one another then.
    world.engine.command("sh", "-ec", DOCKER_PUBLISHES.format(variant, docker.address))
    world.engine.run(world.host.refresh)
    assert world.outside.can_reach(world.ADDRESS, 9090)
    assert not ours.can_reach(docker.address, 80)
    assert ours.ask_tcp(world.ADDRESS, 9090).startswith("docker ")
    with pytest.raises(
        Conflict, match="docker0 already exists"
    ):  # its rules and ours would cut each other off
        world.network(3, bridge="docker0")
    assert ours.ask_tcp(world.OUTSIDE, 80).startswith("outside ")
    world.engine.run(lambda: world.host.remove(network))
    assert "sampan" not in world.engine.command(f"iptables-{variant}", "-S")


def _docker_bridge(world):
    """A network whose bridge is none of ours: made with our means, then handed over."""
    spec = world.network(9)
    taken = spec.__class__(**{**{f: getattr(spec, f) for f in spec.__struct_fields__}, "bridge": "docker0"})
    world.engine.run(lambda: world.host.remove(spec))
    world.engine.command("ip", "link", "add", "docker0", "type", "bridge")
    world.engine.configure("docker0", f"{spec.gateway}/24")
    return taken


def test_a_broadcast_of_a_container_stays_in_its_network(world):
    one, two = world.container(world.network(1)), world.container(world.network(2))
    receiver = two.socket(socket.SOCK_DGRAM)
    receiver.bind(("", 5000))
    receiver.settimeout(0.3)
    sender = one.socket(socket.SOCK_DGRAM)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    for address in ("255.255.255.255", "10.213.1.255", "10.213.2.255"):
        sender.sendto(b"x", (address, 5000))
    with pytest.raises(TimeoutError):
        receiver.recv(9)


def test_a_forged_source_does_not_get_out(world):
    container = world.container(world.network())
    receiver = world.outside.socket(socket.SOCK_DGRAM)
    receiver.bind(("0.0.0.0", 5000))
    receiver.settimeout(0.3)
    raw = container.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))

    def forge(source):
        udp = struct.pack("!HHHH", 4444, 5000, 8 + 6, 0) + b"forged"
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
        addresses = socket.inet_aton(source) + socket.inet_aton(world.OUTSIDE)
        raw.sendto(head + addresses + udp, (world.OUTSIDE, 0))

    with raw:
        forge("198.51.100.7")
        with pytest.raises(TimeoutError):
            receiver.recv(99)
        receiver.settimeout(20)
        forge(container.address)
        assert receiver.recv(99) == b"forged"
        # A source that the host has a route to, through the container, is in order: it routes for others.
        world.engine.command("ip", "route", "add", "198.51.100.0/24", "via", container.address)
        forge("198.51.100.7")
        assert receiver.recvfrom(99) == (b"forged", ("198.51.100.7", 4444))
