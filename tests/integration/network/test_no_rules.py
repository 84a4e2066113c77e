"""An engine that writes no rules and does not touch forwarding (Docker's `iptables` and `ip-forward`, both false)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.network.conftest import World

from sampan.network.model import HostPolicy, PortBinding, PublishMode

pytestmark = pytest.mark.root

NOTHING = HostPolicy(rules=False, forward=False)


@pytest.fixture
def bare() -> Any:
    made = World(policy=NOTHING)
    for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):  # a new namespace has what the machine has
        made.engine.command("sysctl", "-qw", f"net.{name}=0")
    yield made
    made.close()


def sysctl(world: Any, name: str) -> str:
    return str(world.engine.command("cat", f"/proc/sys/net/{name}")).strip()


def test_nothing_is_written_and_ports_are_published_by_the_relay(bare: Any) -> None:
    network = bare.network(families="46")
    web, asker = bare.container(network), bare.container(network, 3)
    web.serve_tcp(80, "web")
    wanted = PortBinding(80, host_port=8080)
    definite = bare.publish(web, wanted)
    assert bare.outside.ask_tcp(bare.ADDRESS, 8080).startswith("web ")
    assert bare.engine.ask_tcp("127.0.0.1", 8080).startswith("web ")
    assert asker.ask_tcp(web.address, 80) == f"web {asker.address} hello"
    assert [bare.host.publish_mode(one) for one in definite] == ["relay"] * len(definite)
    assert bare.engine.run(bare.host.refresh) == ()
    assert bare.ruleset() == ""
    assert sysctl(bare, "ipv4/ip_forward") == "0"
    assert sysctl(bare, "ipv6/conf/all/forwarding") == "0"
    bare.unpublish(web, *definite)
    assert not bare.outside.can_reach(bare.ADDRESS, 8080)


def test_without_rules_for_ipv6_its_ports_have_the_relay_and_what_is_forwarded_passes() -> None:
    world = World(policy=HostPolicy(rules6=False))
    try:
        network, inside = world.network(1, families="46"), world.network(2, families="46", internal=True)
        web, other = world.container(network), world.container(inside)
        for port in (80, 81):
            web.serve_tcp(port, "web", "::")
        bindings = world.publish(web, PortBinding(80, host_port=8080))
        modes = {one.host_address: world.host.publish_mode(one) for one in bindings}
        assert modes == {"0.0.0.0": "nat", "::": "relay"}
        assert world.outside.ask_tcp(world.ADDRESS6, 8080).startswith("web ")
        world.outside.command("ip", "route", "add", "fd00:213:1::/64", "via", world.ADDRESS6)
        assert world.outside.ask_tcp(web.address6, 81).startswith("web "), "no rule of ours drops it"
        world.outside.command("ip", "route", "add", "10.213.1.0/24", "via", world.ADDRESS)
        assert not world.outside.can_reach(web.address, 81), "IPv4's rules hold"
        other.command("ip", "-4", "route", "add", "default", "via", inside.gateway)
        assert not other.can_reach(web.address, 80)
    finally:
        world.close()


def test_the_host_s_own_loopback_stays_closed_to_containers(bare: Any) -> None:
    network = bare.network()
    container = bare.container(network)
    bare.engine.serve_tcp(99, "secret", "127.0.0.1")
    container.command("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    container.command("ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
    container.command("ip", "route", "add", "127.0.0.1/32", "via", network.gateway, "src", container.address)
    assert sysctl(bare, f"ipv4/conf/{network.bridge}/route_localnet") == "0"
    assert not container.can_reach("127.0.0.1", 99)
    bare.engine.command("sysctl", "-qw", f"net.ipv4.conf.{network.bridge}.route_localnet=1")
    assert container.ask_tcp("127.0.0.1", 99).startswith("secret ")  # what the setting keeps away


def test_what_an_engine_with_rules_has_left_is_taken_away_and_its_ports_go_on() -> None:
    world = World()
    try:
        network = world.network()
        web = world.container(network)
        web.serve_tcp(80, "web")
        definite = world.publish(web, PortBinding(80, host_port=8080))
        assert "sampan-one" in world.ruleset()
        world.engine.run(world.hosts.pop().close)
        world.host = world.start_engine("one", PublishMode.AUTO, NOTHING)
        assert world.ruleset() == ""
        lost = world.engine.run(
            lambda: world.host.reconcile([network], [web.endpoint], {web.endpoint.address: definite})
        )
        assert lost == ()
        assert world.outside.ask_tcp(world.ADDRESS, 8080).startswith("web ")
        assert world.ruleset() == ""
        assert sysctl(world, f"ipv4/conf/{network.bridge}/route_localnet") == "0"
        assert sysctl(world, "ipv4/ip_forward") == "1", "it was so: whose affair it is, nobody knows"
    finally:
        world.close()
