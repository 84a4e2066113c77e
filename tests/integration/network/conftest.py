"""A small world in network namespaces: the engine's host, another host beside it, and containers.

Nothing here touches the machine's own network. What is made in a namespace vanishes with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from sampan.linux import namespaces
from sampan.linux.netlink_namespace import in_new_namespace
from sampan.linux.netlink_route import PeerLink, RouteSocket, add_address, add_route, create_veth, set_link
from sampan.network.host import NetworkHost
from sampan.network.model import EndpointSpec, NetworkSpec, PublishMode

T = TypeVar("T")
DEADLINE = 5.0  # seconds for traffic that must arrive
REFUSAL = 0.4  # seconds after which traffic that is dropped counts as dropped


class Place:
    """A network namespace with a thread that lives in it; `run` works there."""

    def __init__(self) -> None:
        self.fd, _ = in_new_namespace(lambda: None)
        self._pool = ThreadPoolExecutor(1, initializer=lambda: namespaces.join(self.fd, namespaces.NEWNET))
        self.run(self._loopback)
        self._closing: list[Callable[[], object]] = []

    def run(self, work: Callable[[], T]) -> T:
        return self._pool.submit(work).result()

    @staticmethod
    def _loopback() -> None:
        with RouteSocket() as route:
            route.perform([set_link(1, up=True)])

    def socket(self, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
        made = self.run(lambda: socket.socket(family, kind))
        made.settimeout(DEADLINE)
        self._closing.append(made.close)
        return made

    def configure(self, name: str, *addresses: str, gateway: str | None = None) -> None:
        def work() -> None:
            with RouteSocket() as route:
                link = route.link(name)
                assert link is not None
                messages = [set_link(link.index, up=True), *(add_address(link.index, a) for a in addresses)]
                if gateway:
                    messages.append(add_route("default", gateway=gateway, index=link.index))
                route.perform(messages)

        self.run(work)

    def command(self, *words: str) -> str:
        done = self.run(lambda: subprocess.run(words, capture_output=True, text=True, timeout=20))
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def serve_tcp(self, port: int, name: str = "service", address: str = "0.0.0.0") -> None:
        """Answers every connection with "<name> <client's address> " and what it sent until its end."""
        listener = self.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(64)
        listener.settimeout(None)

        def answer(client: socket.socket, peer: Any) -> None:
            with client, contextlib.suppress(ConnectionError):
                client.sendall(f"{name} {peer[0]} ".encode())
                while data := client.recv(65536):
                    client.sendall(data)

        def accept() -> None:
            while True:
                try:
                    client, peer = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(client, peer), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        self._closing.insert(0, lambda: listener.shutdown(socket.SHUT_RDWR))

    def serve_udp(self, port: int, name: str = "service") -> None:
        bound = self.socket(socket.SOCK_DGRAM)
        bound.bind(("0.0.0.0", port))
        bound.settimeout(None)

        def answer() -> None:
            while True:
                try:
                    data, peer = bound.recvfrom(65536)
                    if not data:
                        return
                    bound.sendto(f"{name} {peer[0]} ".encode() + data, peer)
                except OSError:
                    return

        threading.Thread(target=answer, daemon=True).start()

    def ask_tcp(self, address: str, port: int, data: bytes = b"hello", timeout: float = DEADLINE) -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.socket(family=family) as client:
            client.settimeout(timeout)
            client.connect((address, port))
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            answer = b""
            while chunk := client.recv(65536):
                answer += chunk
        return answer.decode()

    def ask_udp(self, address: str, port: int, data: bytes = b"hello", timeout: float = DEADLINE) -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.socket(socket.SOCK_DGRAM, family) as client:
            client.settimeout(timeout)
            client.connect((address, port))
            client.send(data)
            return client.recv(65536).decode()

    def can_reach(self, address: str, port: int) -> bool:
        try:
            self.ask_tcp(address, port, timeout=REFUSAL)
        except OSError:
            return False
        return True

    def close(self) -> None:
        for action in self._closing:
            try:
                action()
            except OSError:
                continue
        self._pool.shutdown()
        os.close(self.fd)


class Container(Place):
    def __init__(self, world: World, network: NetworkSpec, number: int) -> None:
        super().__init__()
        prefix = network.subnet.split("/")[1]
        self.address = network.gateway.rsplit(".", 1)[0] + f".{number}"
        self.endpoint = EndpointSpec(
            id=uuid.uuid4().hex,
            network_id=network.id,
            address=f"{self.address}/{prefix}",
            gateway=None if network.internal else network.gateway,
        )
        world.engine.run(lambda: world.host.attach(self.fd, network, self.endpoint))


def relays_in(place: Place) -> list[int]:
    """Process ids of port relays in this namespace."""
    inode = os.fstat(place.fd).st_ino
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    is_relay = b"sampan.network.relay" in file.read()
                if is_relay and os.stat(f"/proc/{entry}/ns/net").st_ino == inode:
                    found.append(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


class World:
    """`engine` (192.0.2.2, 2001:db8::2) and `outside` (192.0.2.1, 2001:db8::1) on one link."""

    ADDRESS = "192.0.2.2"
    ADDRESS6 = "2001:db8::2"
    OUTSIDE = "192.0.2.1"

    def __init__(self, mode: PublishMode = PublishMode.AUTO) -> None:
        self.engine = Place()
        self.outside = Place()
        self.places: list[Place] = [self.engine, self.outside]
        self.hosts: list[NetworkHost] = []
        peer = PeerLink("uplink", self.outside.fd)
        self.engine.run(lambda: self._wire(peer))
        self.engine.configure("uplink", "192.0.2.2/24", "2001:db8::2/64", gateway="192.0.2.1")
        self.outside.configure("uplink", "192.0.2.1/24", "2001:db8::1/64")
        self.host = self.start_engine("one", mode)

    @staticmethod
    def _wire(peer: PeerLink) -> None:
        with RouteSocket() as route:
            route.perform([create_veth("uplink", peer, mtu=1500)])

    def start_engine(self, instance: str, mode: PublishMode = PublishMode.AUTO) -> NetworkHost:
        # Names of relays are per namespace, so the instance name needs not be unique on the machine.
        host = self.engine.run(lambda: NetworkHost(instance, mode=mode))
        self.hosts.append(host)
        self.engine.run(host.setup)
        return host

    def network(self, number: int = 1, **options: Any) -> NetworkSpec:
        spec = NetworkSpec(
            id=f"network-{number}",
            name=f"net{number}",
            bridge=f"smp{number}",
            subnet=f"10.213.{number}.0/24",
            gateway=f"10.213.{number}.1",
            **options,
        )
        self.engine.run(lambda: self.host.ensure(spec))
        return spec

    def container(self, network: NetworkSpec, number: int = 2) -> Container:
        made = Container(self, network, number)
        self.places.append(made)
        return made

    def publish(self, container: Container, *bindings: Any) -> Any:
        return self.engine.run(lambda: self.host.publish(container.address, bindings))

    def unpublish(self, container: Container, *bindings: Any) -> None:
        self.engine.run(lambda: self.host.unpublish(container.address, bindings))

    def relays(self) -> list[int]:
        return relays_in(self.engine)

    def ruleset(self) -> str:
        return self.engine.command("nft", "list", "ruleset")

    def close(self) -> None:
        for host in reversed(self.hosts):
            try:
                self.engine.run(host.teardown)
            except OSError:
                continue  # closed by the test itself
        relays = relays_in(self.engine)
        for place in reversed(self.places):
            place.close()
        for relay in relays:
            os.kill(relay, 9)
        assert relays == [], "a relay was left behind"


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def relay_world() -> Iterator[World]:
    made = World(PublishMode.RELAY)
    yield made
    made.close()
