"""Encrypted overlay networks between two hosts, on the wire. Needs a kernel with ESP: tools/vm-test boots one."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from sampan.errors import Unsupported
from sampan.linux import namespaces
from sampan.linux.netlink_namespace import in_new_namespace
from sampan.linux.netlink_route import PeerLink, RouteSocket, add_address, create_veth, set_link
from sampan.linux.netlink_xfrm import XfrmSocket
from sampan.network.host import NetworkHost
from sampan.network.model import EndpointSpec, Forward, NetworkSpec, derived_mac
from sampan.network.overlay.encryption import (
    EPOCH_SECONDS,
    Protection,
    Station,
    apply,
    check_kernel,
    protection,
    reqid_of,
)

pytestmark = pytest.mark.root

T = TypeVar("T")
SECRET = b"a secret of the cluster's own"
NETWORK = NetworkSpec("5" * 64, "secret", "ov-555555555555", "10.9.0.0/24", "10.9.0.1", mtu=1416,
                      driver="overlay", vni=5000, secure=True)  # fmt: skip
NOW = 1_000_000.0
_PATTERN = bytes.fromhex("5a" * 16)


class Host:
    """A network namespace with a thread in it, and a container on the encrypted network."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.address = f"192.0.2.{number}"
        self.inner = f"10.9.0.{number + 10}"
        self.instance = f"enc{secrets.token_hex(3)}"
        self.reqid = reqid_of(self.instance)
        self.station = Station(str(number) * 32, self.address, secrets.token_hex(16))
        self.fd, _ = in_new_namespace(lambda: None)
        self._pool = ThreadPoolExecutor(1, initializer=lambda: namespaces.join(self.fd, namespaces.NEWNET))
        self.sent: set[tuple[str, int]] = set()

    def run(self, work: Callable[[], T]) -> T:
        return self._pool.submit(work).result()

    def start(self, link: str) -> None:
        def work() -> None:
            with RouteSocket() as route:
                found = route.link(link)
                assert found is not None
                route.perform([set_link(1, up=True), set_link(found.index, up=True)])
                route.perform([add_address(found.index, f"{self.address}/24")])
            self.host = NetworkHost(self.instance, overlay_address=self.address)
            self.host.setup()
            self.host.ensure(NETWORK)
            self.container = self.host.create_namespace()
            mac = derived_mac(self.inner)
            endpoint = EndpointSpec(
                str(self.number) * 64, NETWORK.id, f"{self.inner}/24", mac=mac, driver="overlay"
            )
            self.host.attach(self.container, NETWORK, endpoint)

        self.run(work)

    def know(self, other: Host) -> None:
        mac = derived_mac(other.inner)
        forwards = {NETWORK.id: {mac: Forward(mac, other.inner, other.address)}}
        self.run(lambda: self.host.program_overlay(forwards, frozenset([other.address])))

    def protect(self, peers: Sequence[Host], *, now: float = NOW, secret: bytes = SECRET) -> bool:
        wanted = protection(secret, self.station, [peer.station for peer in peers], now, self.reqid)
        return self.run(lambda: apply(wanted, self.reqid, self.address, self.sent))

    def pings(self, other: Host, size: int = 56) -> bool:
        command = ["busybox", "ping", "-c", "1", "-W", "3", "-s", str(size), "-p", "5a", other.inner]
        pool = ThreadPoolExecutor(1, initializer=lambda: namespaces.join(self.container, namespaces.NEWNET))
        with pool:
            return pool.submit(lambda: subprocess.run(command, capture_output=True).returncode).result() == 0

    def numbers(self) -> set[int]:
        def work() -> set[int]:
            with XfrmSocket() as xfrm:
                return {one.spi for one in xfrm.associations(self.reqid)}

        return self.run(work)

    def close(self) -> None:
        nothing = Protection((), ())
        self.run(lambda: apply(nothing, self.reqid, self.address, set()))
        self.run(self.host.teardown)
        os.close(self.container)
        self._pool.shutdown()
        os.close(self.fd)


class Wire:
    """Listens to what passes between the hosts."""

    def __init__(self, host: Host, link: str) -> None:
        self._socket = host.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        self._socket.bind((link, 0))
        self.frames: list[bytes] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        frame = b""
        while b"the end of it" not in frame:
            try:
                frame = self._socket.recv(1 << 16)
            except OSError:  # the link is gone, and the test over
                return
            self.frames.append(frame)

    def protocols(self, host: Host) -> set[int]:
        """Of the IPv4 packets since the last call, waited for until now."""
        self._socket.send(b"\xff" * 12 + b"\x88\xb5" + b"the end of it".ljust(46))
        self._thread.join(10)
        frames, self.frames = self.frames, []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        packets = [frame[14:] for frame in frames if frame[12:14] == b"\x08\x00"]
        assert not any(_PATTERN in packet for packet in packets), "something went in the clear"
        assert all(len(packet) <= 1500 for packet in packets)
        return {packet[9] for packet in packets}


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    def fits() -> None:
        try:
            check_kernel()
        except Unsupported as error:
            pytest.skip(error.message)

    fits()
    one, two = Host(1), Host(2)
    with_peer = PeerLink("u0", two.fd)
    one.run(lambda: _veth(with_peer))
    try:
        for host in (one, two):
            host.start("u0")
        one.know(two)
        two.know(one)
        yield one, two
    finally:
        one.close()
        two.close()


def _veth(peer: PeerLink) -> None:
    with RouteSocket() as route:
        route.perform([create_veth("u0", peer, mtu=1500)])


def test_what_hosts_of_an_encrypted_network_send_is_encrypted_or_not_sent(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    wire = Wire(one, "u0")
    # Before there are keys nothing leaves at all.
    assert not one.pings(two)
    assert wire.protocols(one) == set()
    assert one.protect([two]) and two.protect([one])
    assert one.pings(two) and two.pings(one)
    assert one.pings(two, 1416 - 28)
    assert wire.protocols(one) == {50}
    # Half of the hosts changes keys first, then the others.
    before = one.numbers()
    assert one.protect([two], now=NOW + EPOCH_SECONDS)
    assert one.pings(two)
    assert two.protect([one], now=NOW + EPOCH_SECONDS)
    assert one.pings(two) and two.pings(one)
    assert one.numbers() != before and len(one.numbers()) == len(before)
    # Another secret is another cluster.
    two.sent.clear()
    assert two.protect([one], secret=b"something else")
    assert not one.pings(two)
    assert two.protect([one], now=NOW + EPOCH_SECONDS)
    # Who knows nobody sends to nobody, and believes nobody.
    two.sent.clear()
    assert two.protect([])
    assert not one.pings(two) and not two.pings(one)
    assert wire.protocols(one) <= {50}


def test_a_key_that_the_kernel_has_lost_is_not_used_again(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    assert one.protect([two]) and two.protect([one])

    def flush() -> None:
        with XfrmSocket() as xfrm:
            for association in xfrm.associations(one.reqid):
                xfrm.delete(association)

    one.run(flush)
    assert not one.protect([two])
    assert one.numbers() == set()
    one.sent.clear()
    one.station = Station(one.station.id, one.address, secrets.token_hex(16))
    assert one.protect([two]) and two.protect([one])
    assert one.pings(two)
