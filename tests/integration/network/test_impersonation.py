"""Root in a container sends any bytes it likes; its neighbours' addresses stay theirs."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import uuid
from ipaddress import ip_address

import pytest
from tests.integration.network.conftest import Container

from sampan.linux.netlink_route import MAX_LEARNED
from sampan.network.model import EndpointSpec
from sampan.testing.places import Place

pytestmark = pytest.mark.root

ETH_IP, ETH_ARP, ETH_IPV6 = 0x0800, 0x0806, 0x86DD
BROADCAST = "ff:ff:ff:ff:ff:ff"


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def ether(destination, source, kind, payload):
    return mac(destination) + mac(source) + struct.pack("!H", kind) + payload


def nested(frame):
    """In two VLAN tags of id 0 (IEEE 802.1Q priority tags): a receiver takes off both."""
    return frame[:12] + 2 * b"\x81\x00\x00\x00" + frame[12:]


def arp_reply(sender_mac, sender, target_mac, target):
    head = struct.pack("!HHBBH", 1, ETH_IP, 6, 4, 2)
    return head + mac(sender_mac) + ip_address(sender).packed + mac(target_mac) + ip_address(target).packed


def checksum(data):
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp4(source, destination, port, data):
    """Without a UDP checksum, which IPv4 allows."""
    udp = struct.pack("!HHHH", 4444, port, 8 + len(data), 0) + data
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    addresses = ip_address(source).packed + ip_address(destination).packed
    return head[:10] + struct.pack("!H", checksum(head + addresses)) + addresses + udp


def icmpv6(source, destination, kind, body):
    """`body` follows the checksum (RFC 4443)."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    pseudo = addresses + struct.pack("!I3xB", 4 + len(body), 58)
    message = struct.pack("!BBH", kind, 0, 0) + body
    message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + body
    return struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + addresses + message


def advertisement(source, destination, target, target_mac):
    """Unasked, and meant to replace what is known (RFC 4861, 4.4)."""
    body = struct.pack("!I", 0x20000000) + ip_address(target).packed + b"\x02\x01" + mac(target_mac)
    return icmpv6(source, destination, 136, body)


def router_advertisement(source):
    return icmpv6(source, "ff02::1", 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0))


class Attacker:
    """Sends frames as they are from a container's interface."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._socket = place.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        self._socket.bind(("eth0", 0))

    def send(self, *frames: bytes, then: str = "") -> None:
        """And wait until a neighbour at this address has answered something that was sent after them."""
        for frame in frames:
            self._socket.send(frame)
        if then:
            self._place.ask_tcp(then, 80)

    def close(self) -> None:
        self._socket.close()


def mac_of(place: Place) -> str:
    words = place.command("ip", "-o", "link", "show", "eth0").split()
    return words[words.index("link/ether") + 1]


def known(place: Place, address: str) -> str:
    """The MAC address that a place has for another's."""
    words = place.command("ip", "neigh", "show", address).split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


@pytest.fixture
def street(world):
    """An attacker and two neighbours on one bridge; the neighbours know each other."""
    network = world.network()
    evil, one, two = (world.container(network, number) for number in (2, 3, 4))
    for place, name in ((one, "one"), (two, "two")):
        place.serve_tcp(80, name)
        # Else the kernel believes no second answer within a second of the first.
        place.command("sysctl", "-qw", "net.ipv4.neigh.eth0.locktime=0")
    assert one.ask_tcp(two.address, 80).startswith("two ")
    attacker = Attacker(evil)
    yield world, network, evil, one, two, attacker
    attacker.close()


@pytest.fixture(params=["guarded", "unguarded"])
def guarded(request, street):
    """False in the second run, where the table is gone: there every attack must succeed, or it proves nothing."""
    if request.param == "unguarded":
        street[0].engine.command("nft", "delete", "table", "bridge", "sampan-one")
    return request.param == "guarded"


def test_neither_a_neighbour_s_nor_the_gateway_s_address_can_be_claimed_by_arp(street, guarded):
    world, network, evil, one, two, attacker = street
    world.outside.serve_tcp(80, "outside")
    assert one.ask_tcp(world.OUTSIDE, 80).startswith("outside ")  # it knows the gateway
    liar = mac_of(evil)
    victims = (two.address, network.gateway)
    attacker.send(
        *(
            ether(mac_of(one), liar, ETH_ARP, arp_reply(liar, victim, mac_of(one), one.address))
            for victim in victims
        ),
        then=one.address,
    )
    believed = [known(one, victim) == liar for victim in victims]
    assert believed == ([False, False] if guarded else [True, True])


def test_nested_vlan_tags_hide_nothing(street, guarded):
    world, network, evil, one, two, attacker = street
    world.outside.serve_tcp(80, "outside")
    assert one.ask_tcp(world.OUTSIDE, 80).startswith("outside ")  # it knows the gateway
    receiver = one.socket(socket.SOCK_DGRAM)
    receiver.bind(("0.0.0.0", 5000))
    here, there, victims = mac_of(evil), mac_of(one), (two.address, network.gateway)
    attacker.send(
        *(
            nested(ether(there, here, ETH_ARP, arp_reply(here, victim, there, one.address)))
            for victim in victims
        ),
        nested(ether(there, here, ETH_IP, udp4(two.address, one.address, 5000, b"forged"))),
        ether(there, here, ETH_IP, udp4(evil.address, one.address, 5000, b"honest")),
        then=one.address,
    )
    assert [known(one, victim) == here for victim in victims] == [not guarded] * 2
    assert receiver.recv(99) == (b"honest" if guarded else b"forged")


def test_a_service_of_the_host_hears_nothing_from_forged_sources(street):
    world, network, evil, one, _, attacker = street
    receiver = world.engine.socket(socket.SOCK_DGRAM)
    receiver.bind(("0.0.0.0", 5000))
    here = mac_of(evil)
    gateway = world.engine.command("ip", "-br", "link", "show", "smp1").split()[2]
    for source, text in ((world.OUTSIDE, b"forged"), (evil.address, b"honest")):
        attacker.send(
            ether(gateway, here, ETH_IP, udp4(source, network.gateway, 5000, text)), then=one.address
        )
    assert receiver.recvfrom(99) == (b"honest", (evil.address, 4444))


def test_a_neighbour_s_mac_address_stays_at_its_port(street, guarded):
    world, _, evil, one, two, attacker = street
    attacker.send(
        ether(BROADCAST, mac_of(two), ETH_ARP, arp_reply(mac_of(two), evil.address, BROADCAST, one.address)),
        ether(BROADCAST, mac_of(two), 0x88B5, b"any other protocol".ljust(46)),
        then=one.address,
    )
    table = world.engine.command("bridge", "fdb", "show", "br", "smp1")
    place = next(
        line for line in table.splitlines() if line.startswith(mac_of(two)) and "permanent" not in line
    )
    port = place.split()[2]
    assert port == world.engine.run(lambda: port_of(two))  # the bridge knows it also without the rules


def test_a_flood_of_sender_addresses_fills_no_memory_and_shows_nobody_the_others_traffic(street):
    world, _, evil, one, two, attacker = street
    if tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (6, 7):
        pytest.skip("before Linux 6.7 a bridge learns without a limit")
    there, wire = mac(mac_of(one)), evil.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    for number in range(MAX_LEARNED + 500):
        attacker.send(there + b"\x06" + number.to_bytes(5, "big") + b"\x88\xb5" + bytes(46))
    attacker.send(then=one.address)
    known_ones = world.engine.command("bridge", "fdb", "show", "br", "smp1").splitlines()
    assert MAX_LEARNED <= len(known_ones) < MAX_LEARNED + 100
    with wire:
        wire.bind(("eth0", 3))  # every protocol
        assert one.ask_tcp(two.address, 80, b"a secret").endswith("a secret")
        attacker.send(then=one.address)
        wire.setblocking(False)
        heard = []
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(wire.recv(2000))
    assert heard
    assert not any(b"a secret" in frame for frame in heard)


def port_of(container: Container) -> str:
    from sampan.network.bridge import host_interface

    return host_interface(container.endpoint.id)


def test_packets_with_a_neighbour_s_source_do_not_arrive(street, guarded):
    _, _, evil, one, two, attacker = street
    receiver = one.socket(socket.SOCK_DGRAM)
    receiver.bind(("0.0.0.0", 5000))
    here, there = mac_of(evil), mac_of(one)
    attacker.send(
        ether(there, here, ETH_IP, udp4(two.address, one.address, 5000, b"forged")),
        ether(there, here, ETH_IP, udp4(evil.address, one.address, 5000, b"honest")),
        then=one.address,
    )
    receiver.setblocking(False)
    heard = [receiver.recvfrom(99)]
    if not guarded:
        heard.append(receiver.recvfrom(99))
    with pytest.raises(BlockingIOError):
        receiver.recvfrom(99)
    honest, forged = (b"honest", (evil.address, 4444)), (b"forged", (two.address, 4444))
    assert heard == ([honest] if guarded else [forged, honest])


def test_addresses_that_nobody_has_can_be_used(street):
    """A container that routes for others, or takes over a virtual address, is none of our business."""
    _, _, evil, one, _, _ = street
    evil.serve_tcp(80, "evil")
    evil.configure("eth0", "10.213.1.50/24")
    assert one.ask_tcp("10.213.1.50", 80).startswith("evil ")
    evil.command("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")
    one.command("ip", "neigh", "flush", "all")
    assert one.ask_tcp(evil.address, 80).startswith("evil ")
    one.command("ip", "route", "add", "10.99.0.1/32", "via", evil.address)
    evil.command("ip", "addr", "add", "10.99.0.1/32", "dev", "lo")
    assert one.ask_tcp("10.99.0.1", 80).startswith("evil ")


@pytest.fixture
def street6(world):
    """The same with IPv6 addresses: fd00:1::<number>."""
    network = world.network()
    found = []
    for number in (2, 3, 4):
        place = Place()
        world.places.append(place)
        endpoint = EndpointSpec(
            id=uuid.uuid4().hex,
            network_id=network.id,
            address=f"10.213.1.{number}/24",
            gateway=network.gateway,
            address6=f"fd00:1::{number}/64",
        )
        world.engine.run(lambda p=place, e=endpoint: world.host.attach(p.fd, network, e))
        place.command(
            "sh",
            "-c",
            "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.eth0.accept_ra=2 && "
            f"(ip -6 addr show dev eth0 | grep -q fd00:1 || ip addr add fd00:1::{number}/64 dev eth0 nodad)",
        )
        found.append(place)
    evil, one, two = found
    one.serve_tcp(80, "one")
    server = two.socket(family=socket.AF_INET6)
    server.bind(("::", 80))
    server.listen(1)
    with one.socket(family=socket.AF_INET6) as client:
        client.connect(("fd00:1::4", 80))
    attacker = Attacker(evil)
    yield world, evil, one, two, attacker
    attacker.close()


@pytest.mark.parametrize("guarded6", [True, False])
def test_neighbour_discovery_believes_no_liar(street6, guarded6):
    world, evil, one, two, attacker = street6
    if not guarded6:
        world.engine.command("nft", "delete", "table", "bridge", "sampan-one")
    liar, there = mac_of(evil), mac_of(one)
    assert known(one, "fd00:1::4") == mac_of(two)
    attacker.send(
        ether(there, liar, ETH_IPV6, advertisement("fd00:1::2", "fd00:1::3", "fd00:1::4", liar)),
        ether("33:33:00:00:00:01", liar, ETH_IPV6, router_advertisement("fe80::42:aff:fed5:102")),
        then="10.213.1.3",
    )
    assert (known(one, "fd00:1::4") == mac_of(two)) is guarded6
    routes = one.command("ip", "-6", "route", "show", "default")
    assert ("proto ra" not in routes) is guarded6
    if guarded6:  # a packet that says it is the neighbour's, to one that it is not for
        attacker.send(
            ether(there, liar, ETH_IPV6, advertisement("fd00:1::4", "fd00:1::3", "fd00:1::4", liar)),
            then="10.213.1.3",
        )
        assert known(one, "fd00:1::4") == mac_of(two)


def test_the_rules_come_back_when_somebody_has_removed_them(street):
    world, _, _, _, _, _ = street
    before = listing(world)
    assert before.count("elements") == 6  # those of IPv6 are empty
    world.engine.command("nft", "flush", "ruleset")
    done = world.engine.run(world.host.refresh)
    assert any("addresses" in what for what in done)
    assert listing(world) == before


def test_nft_reads_again_what_it_prints_of_the_rules(street6, tmp_path):
    """A host may load at its start what somebody has saved with `nft list ruleset`."""
    world, *_ = street6
    saved = tmp_path / "saved"
    saved.write_text(world.engine.command("nft", "-s", "list", "ruleset"))
    world.engine.command("nft", "flush", "ruleset")
    world.engine.command("nft", "-f", str(saved))
    read = world.engine.command("nft", "-s", "list", "ruleset")
    assert sorted(words(read)) == sorted(words(saved.read_text()))


def words(listing):
    """Elements of a set come in any order."""
    return listing.replace(",", " ").split()


def listing(world):
    return world.engine.run(
        lambda: subprocess.run(
            ["nft", "-s", "list", "table", "bridge", "sampan-one"], capture_output=True, text=True, check=True
        )
    ).stdout


def test_addresses_of_an_endpoint_that_is_gone_are_anybody_s(street):
    world, network, _, one, two, _ = street
    world.engine.run(lambda: world.host.detach(two.endpoint))
    text = listing(world)
    assert two.address not in text
    assert one.address in text
    world.engine.run(lambda: world.host.remove(network))
    assert network.gateway not in listing(world)
