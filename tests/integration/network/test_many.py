"""Many ports and many containers at once: no rule more, nothing lost. How long it takes is for the benchmarks."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from sampan.network.model import EndpointSpec, PortBinding

pytestmark = pytest.mark.root


def rules(world):
    listed = json.loads(world.engine.command("nft", "-j", "list", "ruleset"))["nftables"]
    return sum("rule" in each for each in listed)


def answer(world, port):
    with world.outside.socket() as client:
        client.connect((world.ADDRESS, port))
        return client.recv(64).split()[0]


def test_a_thousand_published_ports_need_no_rule_more_than_one(world):
    container = world.container(world.network())
    container.serve_tcp(80)
    world.publish(container, PortBinding(80, host_address="0.0.0.0", host_port=8000))
    before = rules(world)
    assert before > 0

    def publish(number):
        return world.host.publish(
            container.address, [PortBinding(80, host_address="0.0.0.0", host_port=number)]
        )

    world.engine.run(lambda: [publish(number) for number in range(10_000, 11_000)])
    # They are elements of maps, and a connection's look-up does not grow with their number.
    assert rules(world) == before
    assert {answer(world, port) for port in (8000, 10_000, 10_500, 10_999)} == {b"service"}


def test_forty_containers_are_attached_and_published_at_once(world):
    network = world.network()

    def start(number):
        namespace = world.host.create_namespace()
        address = f"10.213.1.{number}/24"
        endpoint = EndpointSpec(f"endpoint-{number}", network.id, address, network.gateway)
        world.host.attach(namespace, network, endpoint)
        return namespace, world.host.publish(address, [PortBinding(80)])

    def all_at_once():  # threads started here are in the engine's namespace
        with ThreadPoolExecutor(40) as pool:
            return list(pool.map(start, range(10, 50)))

    started = world.engine.run(all_at_once)
    for namespace, _ in started:
        os.close(namespace)
    assert len({bindings[0].host_port for _, bindings in started}) == 40
