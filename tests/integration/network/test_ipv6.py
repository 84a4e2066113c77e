"""IPv6 and both families together: interfaces, address translation, published ports, gateway modes; real packets."""

from __future__ import annotations

import errno

import pytest
from tests.integration.network.conftest import World

from sampan.errors import Conflict
from sampan.network.model import PortBinding, PublishMode

pytestmark = pytest.mark.root


def bridged_traffic_is_filtered(world, on):
    """br_netfilter, as it is where Docker has been; a new namespace has it on where the module is there."""
    try:
        world.engine.command("sysctl", "-qw", f"net.bridge.bridge-nf-call-ip6tables={int(on)}")
    except AssertionError:
        if on:
            pytest.skip("this kernel has no br_netfilter")


def test_a_container_has_both_families_at_once_and_no_neighbour_is_its_router(world):
    network = world.network(families="46")
    container = world.container(network)
    addresses = container.command("ip", "-o", "addr", "show", "eth0")
    assert "inet 10.213.1.2/24" in addresses
    assert "inet6 fd00:213:1::2/64 scope global nodad" in addresses
    assert "tentative" not in addresses.splitlines()[1]  # there is nothing to wait for
    assert "default via 10.213.1.1 dev eth0" in container.command("ip", "route")
    assert "default via fd00:213:1::1 dev eth0" in container.command("ip", "-6", "route")
    assert "fd00:213:1::1/64" in world.engine.command("ip", "-o", "-6", "addr", "show", "smp1")
    for place, name in ((container, "eth0"), (world.engine, "smp1")):
        assert place.command("cat", f"/proc/sys/net/ipv6/conf/{name}/accept_ra") == "0\n"
    world.engine.run(lambda: world.host.ensure(network))  # nothing is in the way the second time
    assert world.engine.command("ip", "-6", "route", "show", "table", "local", "::1").count("smp1") == 1


def test_a_network_of_one_family_has_no_address_of_the_other(world):
    six = world.container(world.network(1, families="6"))
    four = world.container(world.network(2))
    assert "inet " not in six.command("ip", "addr", "show", "eth0")
    assert "inet " not in world.engine.command("ip", "addr", "show", "smp1")
    assert "inet6" not in four.command("ip", "addr", "show", "eth0")
    assert six.command("cat", "/proc/sys/net/ipv6/conf/eth0/disable_ipv6") == "0\n"
    assert four.command("cat", "/proc/sys/net/ipv6/conf/eth0/disable_ipv6") == "1\n"
    world.outside.serve_tcp(80, "web", "::", v6only=True)
    assert six.ask_tcp(world.OUTSIDE6, 80) == f"web {world.ADDRESS6} hello"


def test_a_host_that_learns_its_routes_from_a_router_goes_on_when_it_forwards(world):
    world.engine.command("sysctl", "-qw", "net.ipv6.conf.uplink.accept_ra=1")
    world.network(families="46")
    for name, value in (("uplink/accept_ra", "2"), ("all/forwarding", "1"), ("default/forwarding", "1")):
        assert world.engine.command("cat", f"/proc/sys/net/ipv6/conf/{name}") == f"{value}\n"
    world.engine.command("ip", "link", "add", "tap9", "type", "veth")  # of a guest: never the host's router
    assert world.engine.command("cat", "/proc/sys/net/ipv6/conf/tap9/accept_ra") == "1\n"


def test_containers_reach_each_other_and_outside_with_the_host_s_address(world):
    network = world.network(families="46")
    one, two = world.container(network, 2), world.container(network, 3)
    stranger = world.container(world.network(2, families="46"))
    two.serve_tcp(80, "two", "::", v6only=True)
    two.serve_tcp(80, "two")
    world.outside.serve_tcp(80, "web", "::", v6only=True)
    assert one.ask_tcp(two.address6, 80) == "two fd00:213:1::2 hello"
    assert one.ask_tcp(two.address, 80) == "two 10.213.1.2 hello"
    assert one.ask_tcp(world.OUTSIDE6, 80) == f"web {world.ADDRESS6} hello"
    assert world.engine.ask_tcp(two.address6, 80) == "two fd00:213:1::1 hello"
    assert not stranger.can_reach(two.address6, 80)
    world.outside.command("ip", "route", "add", "fd00:213:1::/64", "via", world.ADDRESS6)
    assert not world.outside.can_reach(two.address6, 80)  # nobody published it


def test_without_icc_containers_do_not_reach_each_other_over_ipv6_either(world):
    network = world.network(families="46", icc=False)
    one, two = world.container(network, 2), world.container(network, 3)
    two.serve_tcp(80, "two", "::", v6only=True)
    world.outside.serve_tcp(80, "web", "::", v6only=True)
    assert not one.can_reach(two.address6, 80)
    assert one.ask_tcp(world.OUTSIDE6, 80).startswith("web ")


def test_an_internal_network_is_closed_for_ipv6_too(world):
    inside = world.network(1, families="46", internal=True)
    one, two = world.container(inside, 2), world.container(inside, 3)
    one.command("ip", "-6", "route", "add", "default", "via", inside.gateway6)  # as a hostile root would
    two.serve_tcp(80, "two", "::", v6only=True)
    world.outside.serve_tcp(80, "web", "::", v6only=True)
    world.outside.command("ip", "route", "add", "fd00:213:1::/64", "via", world.ADDRESS6)
    assert one.ask_tcp(two.address6, 80) == "two fd00:213:1::2 hello"
    assert not one.can_reach(world.OUTSIDE6, 80)
    assert not world.outside.can_reach(two.address6, 80)


@pytest.mark.parametrize("crossing", [False, True], ids=["", "with br_netfilter"])
def test_a_published_port_is_reached_from_everywhere_over_ipv6_with_the_client_s_address(world, crossing):
    bridged_traffic_is_filtered(world, crossing)
    network = world.network(families="46")
    server, client = world.container(network, 2), world.container(network, 3)
    stranger = world.container(world.network(2, families="46"))
    server.serve_tcp(80, "web", "::", v6only=True)
    server.serve_tcp(80, "web4")
    server.serve_udp(53, "dns", "::")
    bindings = world.publish(server, PortBinding(80, host_port=8080), PortBinding(53, "udp", host_port=5353))
    assert [(b.host_address, b.host_port) for b in bindings[:2]] == [("0.0.0.0", 8080), ("::", 8080)]
    assert world.outside.ask_tcp(world.ADDRESS6, 8080) == f"web {world.OUTSIDE6} hello"
    assert world.outside.ask_udp(world.ADDRESS6, 5353) == f"dns {world.OUTSIDE6} hello"
    assert world.engine.ask_tcp(world.ADDRESS6, 8080) == f"web {world.ADDRESS6} hello"
    assert world.engine.ask_tcp("::1", 8080) == "web fd00:213:1::1 hello"
    assert world.engine.ask_udp("::1", 5353) == "dns fd00:213:1::1 hello"
    assert world.engine.ask_tcp(network.gateway6, 8080) == "web fd00:213:1::1 hello"
    assert client.ask_tcp(world.ADDRESS6, 8080) == "web fd00:213:1::1 hello"
    assert server.ask_tcp(world.ADDRESS6, 8080) == "web fd00:213:1::1 hello"
    assert stranger.ask_tcp(world.ADDRESS6, 8080).startswith("web ")
    assert world.outside.ask_tcp(world.ADDRESS, 8080) == f"web4 {world.OUTSIDE} hello"
    assert bool(world.relays()) is crossing  # a process only where NAT can not do it
    world.unpublish(server, *bindings)
    assert not world.outside.can_reach(world.ADDRESS6, 8080)
    assert not world.engine.can_reach("::1", 8080)
    world.engine.serve_tcp(8080, "host's own", "::", v6only=True)


def test_an_ipv4_port_is_not_led_to_a_container_that_has_ipv6_only(world):
    server = world.container(world.network(families="6"))
    server.serve_tcp(80, "web", "::", v6only=True)
    asked = PortBinding(80, host_port=8080), PortBinding(80, host_address="127.0.0.1", host_port=8081)
    (binding,) = world.publish(server, *asked)
    assert (binding.host_address, binding.host_port) == ("::", 8080)
    assert world.outside.ask_tcp(world.ADDRESS6, 8080) == f"web {world.OUTSIDE6} hello"
    world.engine.serve_tcp(8080, "host's own")
    world.engine.serve_tcp(8081, "host's own")


def test_a_port_published_on_the_ipv6_loopback_address_stays_there(world):
    bridged_traffic_is_filtered(world, False)
    server = world.container(world.network(families="46"))
    server.serve_tcp(80, "web", "::", v6only=True)
    world.publish(server, PortBinding(80, host_address="::1", host_port=8080))
    assert world.engine.ask_tcp("::1", 8080).startswith("web ")
    assert not world.outside.can_reach(world.ADDRESS6, 8080)
    world.outside.command("ip", "-6", "addr", "del", "::1/128", "dev", "lo")
    world.outside.command("ip", "-6", "route", "add", "::1/128", "via", world.ADDRESS6)
    assert not world.outside.can_reach("::1", 8080)
    with pytest.raises(Conflict, match=r"^Bind for \[::\]:8080 failed: port is already allocated$"):
        world.publish(server, PortBinding(81, host_address="::", host_port=8080))


def test_a_container_can_not_reach_services_on_the_host_s_ipv6_loopback(world):
    bridged_traffic_is_filtered(world, False)
    network = world.network(families="46")
    container = world.container(network)
    world.engine.serve_tcp(7000, "private", "::1")
    container.command("ip", "-6", "addr", "del", "::1/128", "dev", "lo")
    container.command("ip", "-6", "route", "add", "::1/128", "via", network.gateway6)
    assert world.engine.ask_tcp("::1", 7000).startswith("private ")
    assert not container.can_reach("::1", 7000)


def test_where_only_ipv6_input_is_filtered_only_ipv6_ports_go_through_the_relay(world):
    bridged_traffic_is_filtered(world, False)
    server = world.container(world.network(families="46"))
    server.serve_tcp(80, "web", "::", v6only=True)
    server.serve_tcp(80, "web")
    world.publish(server, PortBinding(80, host_port=8080))
    assert world.relays() == []
    world.engine.command(
        "ip6tables-nft", "-A", "INPUT", "-i", "uplink", "-p", "tcp", "--dport", "8080", "-j", "DROP"
    )
    assert world.engine.run(world.host.refresh) == ("ports are now published by the relay",)
    assert not world.outside.can_reach(world.ADDRESS6, 8080)
    assert world.outside.ask_tcp(world.ADDRESS, 8080) == f"web {world.OUTSIDE} hello"
    world.engine.command("ip6tables-nft", "-F", "INPUT")
    assert world.outside.ask_tcp(world.ADDRESS6, 8080) == "web fd00:213:1::1 hello"  # the relay's address
    assert world.engine.run(world.host.refresh) == ("ports are now published by NAT",)
    assert world.outside.ask_tcp(world.ADDRESS6, 8080) == f"web {world.OUTSIDE6} hello"


def test_the_source_of_connections_outwards_can_be_chosen_in_both_families(world):
    world.engine.configure("uplink", "192.0.2.77/24", "2001:db8::77/64")
    network = world.network(families="46", host_ipv4="192.0.2.77", host_ipv6="2001:db8::77")
    container = world.container(network)
    world.outside.serve_tcp(80, "web", "::", v6only=True)
    world.outside.serve_tcp(80, "web")
    assert container.ask_tcp(world.OUTSIDE6, 80) == "web 2001:db8::77 hello"
    assert container.ask_tcp(world.OUTSIDE, 80) == "web 192.0.2.77 hello"


def test_a_foreign_forward_policy_of_ip6tables_lets_our_bridges_pass(world):
    world.engine.command("ip6tables-nft", "-P", "FORWARD", "DROP")
    container = world.container(world.network(families="46"))
    world.outside.serve_tcp(80, "web", "::", v6only=True)
    assert container.ask_tcp(world.OUTSIDE6, 80).startswith("web ")
    world.engine.run(world.host.teardown)
    world.hosts.clear()
    assert "smp1" not in world.engine.command("ip6tables-nft", "-S", "FORWARD")


def test_in_routed_mode_published_ports_are_open_at_the_container_s_own_address(world):
    network = world.network(families="46", gateway_mode6="routed")
    server = world.container(network)
    stranger = world.container(world.network(2, families="46"))
    for port in (80, 81):
        server.serve_tcp(port, "web", "::", v6only=True)
    server.serve_tcp(80, "web")
    four, six = world.publish(server, PortBinding(80, host_port=8080))
    assert (four.host_address, four.host_port) == ("0.0.0.0", 8080)
    assert (six.host_address, six.host_port) == ("::", 0)
    world.outside.command("ip", "route", "add", "fd00:213:1::/64", "via", world.ADDRESS6)
    world.outside.serve_tcp(80, "web", "::", v6only=True)
    assert world.outside.ask_tcp(server.address6, 80) == f"web {world.OUTSIDE6} hello"
    assert server.ask_tcp(world.OUTSIDE6, 80) == f"web {server.address6} hello"  # nothing is translated
    assert stranger.ask_tcp(server.address6, 80).startswith("web ")
    assert not world.outside.can_reach(server.address6, 81)
    assert not world.outside.can_reach(world.ADDRESS6, 8080)
    assert world.outside.ask_tcp(world.ADDRESS, 8080) == f"web {world.OUTSIDE} hello"
    lost = world.engine.run(
        lambda: world.host.reconcile(
            [network], [server.endpoint], {server.address: [four], server.address6: [six]}
        )
    )
    assert lost == ()
    assert world.outside.ask_tcp(server.address6, 80) == f"web {world.OUTSIDE6} hello"
    world.unpublish(server, four, six)
    assert not world.outside.can_reach(server.address6, 80)


def test_in_unprotected_mode_every_port_is_open_from_outside_but_not_from_other_networks(world):
    network = world.network(families="46", gateway_mode6="nat-unprotected")
    server, stranger = world.container(network), world.container(world.network(2, families="46"))
    server.serve_tcp(81, "web", "::", v6only=True)
    server.serve_tcp(81, "web")
    for subnet, via in (("fd00:213:1::/64", world.ADDRESS6), ("10.213.1.0/24", world.ADDRESS)):
        world.outside.command("ip", "route", "add", subnet, "via", via)
    assert world.outside.ask_tcp(server.address6, 81) == f"web {world.OUTSIDE6} hello"
    assert not world.outside.can_reach(server.address, 81)
    assert not stranger.can_reach(server.address6, 81)


def test_in_isolated_mode_the_host_has_no_address_in_the_network(world):
    network = world.network(families="46", internal=True, gateway="", gateway6="", gateway_mode="isolated")
    assert "scope global" not in world.engine.command("ip", "addr", "show", "smp1")
    assert world.engine.command("ip", "-6", "route", "show", "table", "local", "::1").count("smp1") == 0
    assert network.subnet6 == "fd00:213:1::/64"


def test_rules_of_an_earlier_engine_s_table_for_ipv4_do_not_stay_beside_ours(world):
    world.engine.command("nft", "add table ip sampan-one; add chain ip sampan-one old")
    world.engine.run(world.host.setup)
    assert "table ip " not in world.ruleset()
    assert "table inet sampan-one" in world.ruleset()


def test_a_restarted_engine_finds_the_ports_of_both_families_again(world):
    network = world.network(families="46")
    server = world.container(network)
    server.serve_tcp(80, "web", "::", v6only=True)
    four, six = world.publish(server, PortBinding(80, host_port=8080))
    world.engine.run(world.host.close)
    again = world.start_engine("one")
    published = {server.address: [four], server.address6: [six]}
    assert world.engine.run(lambda: again.reconcile([network], [server.endpoint], published)) == ()
    world.hosts.remove(world.host)
    assert world.outside.ask_tcp(world.ADDRESS6, 8080) == f"web {world.OUTSIDE6} hello"
    with pytest.raises(OSError, match="in use") as caught:
        world.engine.serve_tcp(8080, address="::", v6only=True)
    assert caught.value.errno == errno.EADDRINUSE


def test_with_the_relay_forced_ipv6_containers_are_served_by_it():
    world = World(PublishMode.RELAY)
    try:
        server = world.container(world.network(families="46"))
        server.serve_tcp(80, "web", "::", v6only=True)
        server.serve_udp(53, "dns", "::")
        world.publish(server, PortBinding(80, host_port=8080), PortBinding(53, "udp", host_port=5353))
        assert world.outside.ask_tcp(world.ADDRESS6, 8080) == "web fd00:213:1::1 hello"
        assert world.outside.ask_udp(world.ADDRESS6, 5353) == "dns fd00:213:1::1 hello"
        assert world.engine.ask_tcp("::1", 8080) == "web fd00:213:1::1 hello"
    finally:
        world.close()
