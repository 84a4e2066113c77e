"""Whatever firewall a host has: it decides about published ports, and containers go on working behind it."""

from __future__ import annotations

import errno
import subprocess

import pytest
from tests.integration.network.firewalls import KINDS

from sampan.linux.netlink import NetlinkError
from sampan.linux.nftables import NftablesSocket
from sampan.network import passage_firewalld
from sampan.network.model import PortBinding, PublishMode

pytestmark = pytest.mark.root

REFUSED, ALLOWED, LOCAL = 8080, 9090, 8081
EVERYWHERE = (PortBinding(80, host_port=REFUSED), PortBinding(80, host_port=ALLOWED))
ON_LOOPBACK = PortBinding(80, host_address="127.0.0.1", host_port=LOCAL)


@pytest.fixture(params=KINDS)
def walled(request, world, tmp_path):
    """A world whose engine's host has that firewall, which is there before the first network."""
    firewall = KINDS[request.param](world.engine, tmp_path)
    try:
        yield world, firewall
    finally:
        firewall.close()


def test_the_host_s_firewall_decides_about_published_ports_and_containers_go_on_working(walled):
    world, firewall = walled
    network = world.network()
    server, client = world.container(network, 2), world.container(network, 3)
    server.serve_tcp(80, "web")
    world.outside.serve_tcp(80, "outside")
    world.outside.command("ip", "route", "add", network.subnet, "via", world.ADDRESS)
    world.publish(server, *EVERYWHERE, ON_LOOPBACK)

    def holds():
        assert not world.outside.can_reach(world.ADDRESS, REFUSED)
        assert not world.outside.can_reach(world.ADDRESS6, REFUSED)
        assert world.outside.ask_tcp(world.ADDRESS, ALLOWED).startswith("web ")
        assert world.outside.ask_tcp(world.ADDRESS6, ALLOWED).startswith("web ")
        assert not world.outside.can_reach(world.ADDRESS, LOCAL)
        assert not world.outside.can_reach(server.address, 80)  # routed past the published port
        for port in (REFUSED, ALLOWED, LOCAL):
            assert world.engine.ask_tcp("127.0.0.1", port).startswith("web ")
        assert client.ask_tcp(server.address, 80).startswith("web ")
        assert client.ask_tcp(world.OUTSIDE, 80) == f"outside {world.ADDRESS} hello"

    holds()
    firewall.reload()
    world.engine.run(world.host.refresh)  # as the watch does by itself
    holds()
    firewall.allow(REFUSED)
    world.engine.run(world.host.refresh)
    assert world.outside.ask_tcp(world.ADDRESS, REFUSED).startswith("web ")


@pytest.mark.parametrize("walled", ["iptables-legacy", "firewalld"], indirect=True)
def test_one_setting_publishes_past_the_firewall_as_docker_does(walled):
    world, _ = walled
    docker_like = world.start_engine("two", PublishMode.NAT)
    network = world.network()
    server = world.container(network)
    server.serve_tcp(80, "web")
    world.engine.run(
        lambda: docker_like.publish(server.address, [PortBinding(80, "tcp", "0.0.0.0", REFUSED)])
    )
    assert world.outside.ask_tcp(world.ADDRESS, REFUSED) == f"web {world.OUTSIDE} hello"


@pytest.mark.parametrize("walled", ["firewalld"], indirect=True)
def test_a_firewalld_that_owns_its_table_is_asked_to_let_networks_pass(walled, monkeypatch):
    """Its version 2 does: the kernel then answers EPERM, as the next test shows."""
    world, firewall = walled
    commit = NftablesSocket.commit

    def refuse(self, batch):
        if any("firewalld" in message.operation for message in batch.messages):
            raise NetlinkError("add rule", errno.EPERM)
        commit(self, batch)

    monkeypatch.setattr(NftablesSocket, "commit", refuse)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", firewall.bus)
    network = world.network()
    server, client = world.container(network, 2), world.container(network, 3)
    server.serve_tcp(80, "web")
    world.outside.serve_tcp(80, "outside")
    for _ in range(2):
        assert client.ask_tcp(server.address, 80).startswith("web ")
        assert client.ask_tcp(world.OUTSIDE, 80).startswith("outside ")
        firewall.reload()
        world.engine.run(world.host.refresh)
    world.engine.run(lambda: world.host.remove(network))
    assert firewall.trusted() == ""


def test_a_table_of_another_s_own_does_not_keep_networks_from_being_made(world, monkeypatch, caplog):
    monkeypatch.setattr(passage_firewalld, "_PATH", "/nowhere")
    owner = world.engine.run(
        lambda: subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    try:
        owner.stdin.write(
            "add table inet firewalld { flags owner; }\n"
            "add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy drop; }\n"
            "list tables\n"
        )
        owner.stdin.flush()
        assert any("firewalld" in line for line in owner.stdout), "nft has ended"
        container = world.container(world.network())
        container.serve_tcp(80, "web")
        assert world.engine.ask_tcp(container.address, 80).startswith("web ")
        assert "firewalld" in caplog.text
    finally:
        owner.kill()
        owner.wait()
