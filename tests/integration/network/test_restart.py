"""What happens to networks and ports when the engine is killed, started again, or has a neighbour."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from sampan.errors import Conflict
from sampan.network.model import PortBinding

pytestmark = pytest.mark.root

# An engine that publishes and then waits, to be killed.
DOOMED = """
import sys
from sampan.network.host import NetworkHost
from sampan.network.model import NetworkSpec, PortBinding
host = NetworkHost("one")
host.setup()
host.ensure(NetworkSpec("network-1", "net1", "smp1", "10.213.1.0/24", "10.213.1.1"))
host.publish("10.213.1.2", [PortBinding(80, host_port=8080), PortBinding(80, host_address="127.0.0.1", host_port=81)])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def doomed(world):
    """The engine's process, after everything is published."""
    world.engine.run(world.host.teardown)
    world.hosts.clear()
    process = world.engine.run(
        lambda: subprocess.Popen(
            [sys.executable, "-c", DOOMED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def bindings_of_doomed():
    return (
        PortBinding(80, host_address="0.0.0.0", host_port=8080),
        PortBinding(80, host_address="::", host_port=8080),
        PortBinding(80, host_address="127.0.0.1", host_port=81),
    )


def test_ports_go_on_working_while_the_engine_is_dead_and_after_the_next_one_came(world, doomed):
    world.host = world.engine.run(lambda: type(world.host)("one"))
    world.hosts.append(world.host)
    network = network_one()
    container = world.container(network)
    container.serve_tcp(80, "web")
    open_connection = world.outside.socket(family=10)
    open_connection.connect((world.ADDRESS6, 8080))
    assert open_connection.recv(99) == b"web 10.213.1.1 "
    doomed.kill()
    doomed.wait()
    assert world.outside.ask_tcp(world.ADDRESS, 8080).startswith("web ")
    assert world.outside.ask_tcp(world.ADDRESS6, 8080).startswith("web ")
    before = json.loads(world.engine.command("nft", "-j", "list", "table", "inet", "sampan-one"))
    published = {container.endpoint.address: bindings_of_doomed()}
    lost = world.engine.run(lambda: world.host.reconcile([network], [container.endpoint], published))
    assert lost == ()
    assert plain(
        json.loads(world.engine.command("nft", "-j", "list", "table", "inet", "sampan-one"))
    ) == plain(before)
    for place, address in (
        (world.outside, world.ADDRESS),
        (world.outside, world.ADDRESS6),
        (world.engine, "::1"),
    ):
        assert place.ask_tcp(address, 8080).startswith("web ")
    open_connection.send(b"still there")
    assert open_connection.recv(99) == b"still there"
    assert len(world.relays()) == 2
    open_connection.close()
    end = time.monotonic() + 20
    while world.relays() != [world.host.relay_process]:  # the old one ends with its last connection
        assert time.monotonic() < end
    with pytest.raises(OSError, match="in use"):
        world.engine.serve_tcp(8080)


def network_one():
    from sampan.network.model import NetworkSpec

    return NetworkSpec("network-1", "net1", "smp1", "10.213.1.0/24", "10.213.1.1")


def plain(listing):
    """Without handles, which the kernel counts up."""

    def strip(value):
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key != "handle"}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return strip(listing)


def test_what_no_longer_belongs_is_removed(world, doomed):
    doomed.kill()
    doomed.wait()
    world.host = world.engine.run(lambda: type(world.host)("one"))
    world.hosts.append(world.host)
    assert world.engine.run(lambda: world.host.reconcile([], [], {})) == ()
    assert "smp1" not in world.engine.command("ip", "link")
    assert "8080" not in world.ruleset()
    world.engine.serve_tcp(8080)
    assert not world.engine.can_reach("::1", 8080)


def test_a_port_that_another_program_took_meanwhile_is_reported_and_left_to_it(world, doomed):
    world.host = world.engine.run(lambda: type(world.host)("one"))
    world.hosts.append(world.host)
    doomed.kill()
    doomed.wait()
    world.engine.serve_tcp(8080, "other")
    network = network_one()
    wanted = bindings_of_doomed()
    lost = world.engine.run(lambda: world.host.reconcile([network], [], {"10.213.1.2/24": wanted}))
    assert lost == wanted[:1]
    assert world.outside.ask_tcp(world.ADDRESS, 8080).startswith("other ")


def test_two_engines_do_not_disturb_each_other(world):
    network = world.network(1)
    container = world.container(network)
    container.serve_tcp(80, "web")
    world.publish(container, PortBinding(80, host_port=8080))
    other = world.start_engine("two")
    spec = type(network)("network-9", "net9", "smp9", "10.213.9.0/24", "10.213.9.1")
    world.engine.run(lambda: other.ensure(spec))
    with pytest.raises(Conflict, match="smp1 already exists"):
        world.engine.run(lambda: other.ensure(network))
    with pytest.raises(Conflict, match="address already in use"):
        world.engine.run(lambda: other.publish("10.213.9.2", [PortBinding(80, host_port=8080)]))
    assert {"10.213.1.0/24", "10.213.9.0/24", "192.0.2.0/24"} <= {
        str(subnet) for subnet in world.engine.run(other.subnets_in_use)
    }
    world.engine.run(lambda: other.reconcile([], [], {}))
    world.engine.run(other.teardown)
    world.hosts.remove(other)
    assert world.outside.ask_tcp(world.ADDRESS, 8080).startswith("web ")
    assert world.outside.ask_tcp(world.ADDRESS6, 8080).startswith("web ")


def test_teardown_leaves_nothing(world):
    container = world.container(world.network())
    world.publish(container, PortBinding(80, host_port=8080))
    relay = world.host.relay_process
    world.engine.run(world.host.teardown)
    world.hosts.clear()
    assert world.ruleset() == ""
    assert "smp1" not in world.engine.command("ip", "link")
    assert "veth" not in world.engine.command("ip", "link", "show", "type", "veth").replace("veth uplink", "")
    assert not os.path.exists(f"/proc/{relay}")
