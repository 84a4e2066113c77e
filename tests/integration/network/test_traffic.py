"""Real packets through bridges, address translation and published ports, in namespaces of the test's own."""

from __future__ import annotations

import socket

import pytest
from tests.integration.network.conftest import World

from sampan.errors import Conflict, Invalid
from sampan.network.model import HostPolicy, PortBinding, PublishMode

pytestmark = pytest.mark.root


def test_a_container_has_docker_s_interface_address_mac_and_default_route(world):
    container = world.container(world.network())
    link = container.command("ip", "-o", "link", "show", "eth0")
    assert "link/ether 02:42:0a:d5:01:02" in link
    assert "inet 10.213.1.2/24 brd 10.213.1.255" in container.command("ip", "-o", "addr", "show", "eth0")
    assert "default via 10.213.1.1 dev eth0" in container.command("ip", "route")
    assert "LOOPBACK,UP" in container.command("ip", "-o", "link", "show", "lo")


def test_a_container_reaches_another_host_with_the_engine_s_address(world):
    container = world.container(world.network())
    world.outside.serve_tcp(80, "web")
    assert container.ask_tcp(world.OUTSIDE, 80) == f"web {world.ADDRESS} hello"


def test_published_ports_are_open_at_the_container_s_address_by_interfaces_that_the_network_trusts(world):
    trusting, other = (
        world.container(world.network(1, trusted=("uplink",))),
        world.container(world.network(2)),
    )
    for container in (trusting, other):
        container.serve_tcp(80, "web")
        container.serve_tcp(81, "hidden")
        bindings = [PortBinding(80, host_port=8080 + n, host_address=world.ADDRESS) for n in (0, 1)]
        if container is trusting:
            one, two = world.publish(container, *bindings)
    for number in (1, 2):
        world.outside.command("ip", "route", "add", f"10.213.{number}.0/24", "via", world.ADDRESS)
    assert world.outside.ask_tcp(trusting.address, 80) == "web 192.0.2.1 hello"
    assert not world.outside.can_reach(trusting.address, 81) and not world.outside.can_reach(
        other.address, 80
    )
    assert not other.can_reach(trusting.address, 80), "that is another interface"
    world.unpublish(trusting, one)
    assert world.outside.ask_tcp(trusting.address, 80).startswith("web "), "the other one still publishes it"
    world.unpublish(trusting, two)
    assert not world.outside.can_reach(trusting.address, 80)


def test_with_direct_routing_published_ports_are_open_at_the_container_s_address_but_to_no_other_network():
    world = World(policy=HostPolicy(direct=True))
    try:
        web, other = world.container(world.network(1)), world.container(world.network(2))
        for port in (80, 81):
            web.serve_tcp(port, "web")
        published = world.publish(web, PortBinding(80, host_port=8080))
        world.outside.command("ip", "route", "add", "10.213.1.0/24", "via", world.ADDRESS)
        assert world.outside.ask_tcp(web.address, 80) == "web 192.0.2.1 hello"
        assert not world.outside.can_reach(web.address, 81), "it is not published"
        assert not other.can_reach(web.address, 80), "networks stay apart"
        world.unpublish(web, *published)
        assert not world.outside.can_reach(web.address, 80)
    finally:
        world.close()


@pytest.mark.parametrize("options", [{}, {"gateway_mode": "routed"}, {"trusted": ("uplink",)}])
def test_a_udp_flow_through_a_port_ends_with_the_port(world, options):
    """Its packets would go on to whoever has the address next, published or not."""
    container = world.container(world.network(**options))
    container.serve_udp(53, "names")
    published = world.publish(container, PortBinding(53, "udp", host_port=5353))
    world.outside.command("ip", "route", "add", "10.213.1.0/24", "via", world.ADDRESS)
    place = (container.address, 53) if options else (world.ADDRESS, 5353)
    with world.outside.socket(socket.SOCK_DGRAM) as client:
        client.connect(place)
        for _ in range(2):
            client.send(b"hello")
            assert client.recv(100) == b"names 192.0.2.1 hello"
        world.unpublish(container, *published)
        client.settimeout(0.3)
        with pytest.raises(OSError, match=r"timed out|refused|unreachable|prohibited"):
            client.send(b"hello")
            client.recv(100)


def test_without_masquerade_the_container_s_own_address_arrives(world):
    container = world.container(world.network(masquerade=False))
    world.outside.command("ip", "route", "add", "10.213.1.0/24", "via", world.ADDRESS)
    world.outside.serve_tcp(80, "web")
    assert container.ask_tcp(world.OUTSIDE, 80) == "web 10.213.1.2 hello"


def test_containers_of_one_network_reach_each_other_directly(world):
    network = world.network()
    one, two = world.container(network, 2), world.container(network, 3)
    two.serve_tcp(80, "two")
    assert one.ask_tcp(two.address, 80) == "two 10.213.1.2 hello"


def test_without_icc_containers_of_one_network_do_not_reach_each_other(world):
    network = world.network(icc=False)
    one, two = world.container(network, 2), world.container(network, 3)
    two.serve_tcp(80, "two")
    world.outside.serve_tcp(80, "web")
    assert not one.can_reach(two.address, 80)
    assert one.ask_tcp(world.OUTSIDE, 80).startswith("web ")


def test_networks_are_isolated_from_each_other(world):
    one, two = world.container(world.network(1)), world.container(world.network(2))
    two.serve_tcp(80, "two")
    assert not one.can_reach(two.address, 80)


def test_an_internal_network_reaches_its_own_containers_and_nothing_else(world):
    inside, other = world.network(1, internal=True), world.network(2)
    one, two, third = world.container(inside, 2), world.container(inside, 3), world.container(other)
    one.command("ip", "route", "add", "default", "via", inside.gateway)  # as a hostile root would
    two.serve_tcp(80, "two")
    third.serve_tcp(80, "third")
    world.outside.serve_tcp(80, "web")
    assert one.ask_tcp(two.address, 80) == "two 10.213.1.2 hello"
    assert not one.can_reach(world.OUTSIDE, 80)
    assert not one.can_reach(third.address, 80)


def test_an_unpublished_port_is_not_reachable_by_routing_to_the_container(world):
    container = world.container(world.network())
    container.serve_tcp(80)
    world.outside.command("ip", "route", "add", "10.213.1.0/24", "via", world.ADDRESS)
    assert not world.outside.can_reach(container.address, 80)
    assert world.engine.ask_tcp(container.address, 80).startswith("service ")


def test_a_container_can_not_reach_services_on_the_host_s_loopback(world):
    container = world.container(world.network())
    world.engine.serve_tcp(7000, "private", "127.0.0.1")
    container.command("ip", "route", "add", "127.0.0.2/32", "via", "10.213.1.1")
    container.command("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    container.command("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
    container.command("ip", "route", "add", "127.0.0.1/32", "via", "10.213.1.1")
    assert not container.can_reach("127.0.0.1", 7000)


def test_a_published_tcp_port_is_reached_from_everywhere(world):
    network = world.network()
    server, client = world.container(network, 2), world.container(network, 3)
    stranger = world.container(world.network(2))
    server.serve_tcp(80, "web")
    bindings = world.publish(server, PortBinding(80, host_port=8080))
    assert [(b.host_address, b.host_port) for b in bindings] == [("0.0.0.0", 8080), ("::", 8080)]
    assert world.outside.ask_tcp(world.ADDRESS, 8080) == "web 192.0.2.1 hello"
    assert world.engine.ask_tcp(world.ADDRESS, 8080) == "web 192.0.2.2 hello"
    assert world.engine.ask_tcp("127.0.0.1", 8080) == "web 10.213.1.1 hello"
    assert world.engine.ask_tcp(network.gateway, 8080) == "web 10.213.1.1 hello"
    assert client.ask_tcp(world.ADDRESS, 8080) == "web 10.213.1.1 hello"
    assert server.ask_tcp(world.ADDRESS, 8080) == "web 10.213.1.1 hello"
    assert stranger.ask_tcp(world.ADDRESS, 8080).startswith("web ")
    assert world.engine.ask_tcp("::1", 8080) == "web 10.213.1.1 hello"
    assert world.outside.ask_tcp(world.ADDRESS6, 8080) == "web 10.213.1.1 hello"


def test_a_published_udp_port_is_reached_from_everywhere(world):
    network = world.network()
    server, client = world.container(network, 2), world.container(network, 3)
    server.serve_udp(53, "dns")
    world.publish(server, PortBinding(53, "udp", host_port=5353))
    assert world.outside.ask_udp(world.ADDRESS, 5353) == "dns 192.0.2.1 hello"
    assert world.engine.ask_udp(world.ADDRESS, 5353) == "dns 192.0.2.2 hello"
    assert world.engine.ask_udp("127.0.0.1", 5353) == "dns 10.213.1.1 hello"
    assert client.ask_udp(world.ADDRESS, 5353) == "dns 10.213.1.1 hello"
    assert server.ask_udp(world.ADDRESS, 5353) == "dns 10.213.1.1 hello"
    assert world.engine.ask_udp("::1", 5353) == "dns 10.213.1.1 hello"
    assert world.outside.ask_udp(world.ADDRESS6, 5353) == "dns 10.213.1.1 hello"


def test_with_br_netfilter_a_container_still_reaches_its_own_published_port(world):
    world.engine.command("sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
    network = world.network()
    server, client = world.container(network, 2), world.container(network, 3)
    server.serve_tcp(80, "web")
    world.publish(server, PortBinding(80, host_port=8080))
    assert server.ask_tcp(world.ADDRESS, 8080).startswith("web ")
    assert client.ask_tcp(world.ADDRESS, 8080).startswith("web ")
    assert client.ask_tcp(server.address, 80) == "web 10.213.1.3 hello"


@pytest.mark.parametrize("mode", [PublishMode.NAT, PublishMode.RELAY])
def test_a_port_published_on_loopback_is_closed_to_others_even_when_they_forge_the_route(world, mode):
    """Also where the host itself takes packets to 127.0.0.1 from its links."""
    world.host = world.start_engine("two", mode)
    for interface in ("all", "uplink"):
        world.engine.command("sysctl", "-qw", f"net.ipv4.conf.{interface}.rp_filter=0")
    world.engine.command("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    world.engine.serve_tcp(81, "host", "127.0.0.1")
    container = world.container(world.network())
    container.serve_tcp(80, "web")
    world.publish(container, PortBinding(80, host_address="127.0.0.1", host_port=8080))
    world.outside.command("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    world.outside.command("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
    world.outside.command("ip", "route", "add", "127.0.0.1/32", "via", world.ADDRESS, "src", world.OUTSIDE)
    assert world.engine.ask_tcp("127.0.0.1", 8080).startswith("web ")
    assert world.outside.can_reach("127.0.0.1", 81)  # so it is our rules that keep it closed
    assert not world.outside.can_reach("127.0.0.1", 8080)
    assert not world.outside.can_reach(world.ADDRESS, 8080)


def test_one_host_address_can_be_chosen(world):
    world.engine.configure("uplink", "192.0.2.3/24")
    network = world.network()
    one, two = world.container(network, 2), world.container(network, 3)
    one.serve_tcp(80, "one")
    two.serve_tcp(80, "two")
    world.publish(one, PortBinding(80, host_address="192.0.2.2", host_port=80))
    world.publish(two, PortBinding(80, host_address="192.0.2.3", host_port=80))
    assert world.outside.ask_tcp("192.0.2.2", 80).startswith("one ")
    assert world.outside.ask_tcp("192.0.2.3", 80).startswith("two ")
    with pytest.raises(Conflict, match=r"^Bind for 0\.0\.0\.0:80 failed: port is already allocated$"):
        world.publish(two, PortBinding(80, host_port=80))


def test_an_unpublished_port_is_free_again(world):
    container = world.container(world.network())
    container.serve_tcp(80, "web")
    bindings = world.publish(container, PortBinding(80, host_port=8080))
    world.unpublish(container, *bindings)
    world.unpublish(container, *bindings)
    assert not world.outside.can_reach(world.ADDRESS, 8080)
    assert not world.engine.can_reach("::1", 8080)
    world.engine.serve_tcp(8080, "host's own")
    assert world.outside.ask_tcp(world.ADDRESS, 8080).startswith("host's own")


def test_a_udp_flow_moves_to_the_new_container_of_its_port(world):
    network = world.network()
    old, new = world.container(network, 2), world.container(network, 3)
    old.serve_udp(53, "old")
    new.serve_udp(53, "new")
    client = world.outside.socket(2)
    client.connect((world.ADDRESS, 5353))
    bindings = world.publish(old, PortBinding(53, "udp", "0.0.0.0", 5353))
    client.send(b"1")
    assert client.recv(99).startswith(b"old ")
    world.unpublish(old, *bindings)
    world.publish(new, PortBinding(53, "udp", "0.0.0.0", 5353))
    client.send(b"2")
    assert client.recv(99).startswith(b"new ")


def test_an_ephemeral_port_is_the_same_on_ipv4_and_ipv6_and_in_docker_s_range(world):
    container = world.container(world.network())
    four, six, other, _ = world.publish(container, PortBinding(80), PortBinding(81))
    assert four.host_port == six.host_port
    assert 49153 <= four.host_port <= 65535
    assert other.host_port != four.host_port


def test_the_first_free_port_of_a_range_is_taken(world):
    container = world.container(world.network())
    world.engine.serve_tcp(8000)
    request = PortBinding(80, host_address="0.0.0.0", host_port=8000, host_port_end=8002)
    assert world.publish(container, request)[0].host_port == 8001
    assert world.publish(container, request)[0].host_port == 8002
    with pytest.raises(Conflict, match="all ports are allocated"):
        world.publish(container, request)


def test_a_port_of_a_program_on_the_host_is_a_conflict_in_docker_s_words(world):
    container = world.container(world.network())
    world.engine.serve_tcp(8080)
    words = r"^listen tcp4 0\.0\.0\.0:8080: bind: address already in use$"
    with pytest.raises(Conflict, match=words):
        world.publish(container, PortBinding(81, host_port=9090), PortBinding(80, host_port=8080))
    assert "9090" not in world.ruleset()
    world.engine.serve_tcp(9090)  # nothing was kept


def test_a_published_port_can_not_be_taken_by_a_program_on_the_host(world):
    container = world.container(world.network())
    world.publish(container, PortBinding(80, host_port=8080), PortBinding(53, "udp", host_port=5353))
    with pytest.raises(OSError, match="in use"):
        world.engine.serve_tcp(8080)
    with pytest.raises(OSError, match="in use"):
        world.engine.serve_udp(5353)


def test_an_address_that_is_not_the_host_s_is_refused(world):
    container = world.container(world.network())
    with pytest.raises(
        Invalid, match=r"listen tcp4 198\.51\.100\.9:80: bind: cannot assign requested address"
    ):
        world.publish(container, PortBinding(80, host_address="198.51.100.9", host_port=80))


def test_a_detached_endpoint_is_gone_and_detaching_twice_is_fine(world):
    network = world.network()
    container = world.container(network)
    world.engine.run(lambda: world.host.detach(container.endpoint))
    world.engine.run(lambda: world.host.detach(container.endpoint))
    assert "eth0" not in container.command("ip", "link")


def names(place):
    return [line.split()[0] for line in place.command("ip", "-br", "link").splitlines()]


def test_a_failed_attachment_leaves_nothing(world):
    network = world.network()
    container = world.container(network)
    before = names(world.engine)
    second = type(container.endpoint)(id="other", network_id=network.id, address="10.213.1.9/24")
    with pytest.raises(Exception, match="File exists"):
        world.engine.run(lambda: world.host.attach(container.fd, network, second))  # eth0 is there already
    second = type(container.endpoint)("third", network.id, "10.213.1.9/24", "172.16.0.1", interface="eth1")
    with pytest.raises(Exception, match="Nexthop has invalid gateway"):
        world.engine.run(lambda: world.host.attach(container.fd, network, second))
    assert names(world.engine) == before


def test_a_bridge_name_of_somebody_else_is_a_conflict(world):
    world.engine.command("ip", "link", "add", "smp7", "type", "veth", "peer", "name", "other")
    with pytest.raises(Conflict, match="existing interface smp7 is not a bridge"):
        world.network(7)


def test_a_bridge_that_a_person_has_made_is_used_and_stays(world):
    world.engine.command("ip", "link", "add", "smp7", "type", "bridge")
    world.engine.command("ip", "addr", "add", "192.0.2.77/32", "dev", "smp7")
    network = world.network(7)
    one, two = world.container(network, 2), world.container(network, 3)
    two.serve_tcp(80, "two")
    assert one.ask_tcp(two.address, 80) == "two 10.213.7.2 hello"
    world.engine.run(lambda: world.host.remove(network))
    shown = world.engine.command("ip", "addr", "show", "smp7")
    assert "192.0.2.77/32" in shown
