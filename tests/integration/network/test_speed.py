"""Figures that the design promises; the limits leave room for a busy machine."""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sampan.network.model import EndpointSpec, PortBinding

pytestmark = pytest.mark.root


def test_a_namespace_is_made_and_attached_in_a_few_milliseconds(world):
    network = world.network()

    def attach(number):
        begin = time.perf_counter()
        namespace = world.host.create_namespace()
        endpoint = EndpointSpec(f"endpoint-{number}", network.id, f"10.213.1.{number}/24", network.gateway)
        world.host.attach(namespace, network, endpoint)
        took = time.perf_counter() - begin
        os.close(namespace)
        return took

    took = world.engine.run(lambda: [attach(number) for number in range(10, 40)])
    print(f"create_namespace + attach: {statistics.median(took) * 1000:.2f} ms (median of 30)")
    assert min(took) < 0.008  # the machine may be busy with other things


def connect_time(world, port):
    took = []
    for _ in range(100):
        with world.outside.socket() as client:
            begin = time.perf_counter()
            client.connect((world.ADDRESS, port))
            took.append(time.perf_counter() - begin)
    return statistics.median(took)


def test_a_thousand_published_ports_cost_no_connection_anything(world):
    container = world.container(world.network())
    container.serve_tcp(80)
    world.publish(container, PortBinding(80, host_address="0.0.0.0", host_port=8000))
    connect_time(world, 8000)
    before = connect_time(world, 8000)

    def publish(number):
        begin = time.perf_counter()
        world.host.publish(container.address, [PortBinding(80, host_address="0.0.0.0", host_port=number)])
        return time.perf_counter() - begin

    took = world.engine.run(lambda: [publish(number) for number in range(10_000, 11_000)])
    after = min(connect_time(world, 10_999), connect_time(world, 8000))
    print(f"publish: {statistics.median(took) * 1000:.3f} ms (median of 1000)")
    print(f"connect: {before * 1e6:.0f} us with 1 port, {after * 1e6:.0f} us with 1001")
    assert statistics.median(took) < 0.002
    assert after < before * 1.5


def test_publishing_on_all_addresses_with_the_relay_for_ipv6_is_fast_too(world):
    container = world.container(world.network())
    world.publish(container, PortBinding(80, host_port=9999))  # starts the relay

    def publish(number):
        begin = time.perf_counter()
        world.host.publish(container.address, [PortBinding(80, host_port=number)])
        return time.perf_counter() - begin

    took = world.engine.run(lambda: [publish(number) for number in range(10_000, 10_200)])
    print(f"publish on IPv4 and IPv6: {statistics.median(took) * 1000:.3f} ms (median of 200)")
    assert statistics.median(took) < 0.002


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
            begin = time.perf_counter()
            started = list(pool.map(start, range(10, 50)))
            return started, time.perf_counter() - begin

    started, took = world.engine.run(all_at_once)
    for namespace, _ in started:
        os.close(namespace)
    print(f"40 containers: {took * 1000:.0f} ms")
    assert len({bindings[0].host_port for _, bindings in started}) == 40
    assert took < 1.0
